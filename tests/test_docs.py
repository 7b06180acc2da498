"""Every command and snippet of the README and the docs does what it says.

Python snippets are executed, configs are checked as `grpo train` checks them,
`grpo` commands run in a folder that holds what the pages speak of, other
commands must name things that exist.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "examples/*/*.md",
        "plugins/*/README.md",
        "sandbox/README.md",
    )
    for path in ROOT.glob(pattern)
)


def snippets(language):
    found = []
    for page in PAGES:
        for number, match in enumerate(
            re.finditer(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S)
        ):
            if match[1] == language:
                name = f"{page.relative_to(ROOT)}-{number}"
                found.append(pytest.param(page, match[2], id=name))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the pages speak of, small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "my_rewards.py").write_text(
        "def brevity(prompts, completions, **columns):\n"
        "    return [max(0.0, 1 - len(text) / 200) for text in completions]\n"
    )
    (tmp_path / "my_plugin.py").write_text("from grpo_core import hookimpl\n")
    row = {
        "prompt": "What is half of 48?",
        "completion": "<think>48/2 is 24.</think><answer>\\boxed{24}</answer>",
        "answer": "24",
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    rewards = [{"use": "math"}, {"use": "my_rewards.py:brevity", "weight": 0.05}]
    (tmp_path / "rubric.yaml").write_text(yaml.safe_dump({"rubric": {"rewards": rewards}}))
    return tmp_path


@pytest.mark.parametrize(("page", "code"), snippets("python"))
def test_python_runs(page, code, folder, monkeypatch):
    """Each in a process of its own; a plugin's snippet also has to register."""
    if "register_rewards" in code:
        code += "\nregister_rewards(lambda name, reward: print(name, reward))\n"
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "text"), snippets("yaml"))
def test_configs_are_valid(page, text, folder):
    from grpo_core.config import Config
    from grpo_core.rubric import Rubric

    config = yaml.safe_load(text)
    rubric = config.get("rubric", config if "rewards" in config else None)
    for reward in rubric["rewards"] if rubric else []:
        if reward["use"] == "brevity":
            reward["use"] = "my_rewards.py:brevity"  # stands for the plugin that the page builds
            assert set(reward.pop("options", {})) <= {"limit"}
    if rubric:
        Rubric.from_config(rubric, base_dir=folder)
    for section, value in config.items():
        if section != "rubric":
            assert section in Config.model_fields
            whole = {
                "model": {"name": "x"},
                "data": {"path": "x"},
                "rubric": {"rewards": [{"use": "x"}]},
            }
            Config.model_validate(whole | {section: value})


@pytest.mark.parametrize(("page", "text"), snippets("toml"))
def test_entry_points_are_toml(page, text):
    assert tomllib.loads(text)


def grpo(arguments, folder):
    return subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(("page", "text"), snippets("bash"))
def test_commands_work(page, text, folder, request):
    make_targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in text.replace("\\\n", " ").splitlines():
        command = shlex.split(line, comments=True)
        if not command:
            continue
        program, arguments = command[0], command[1:]
        if program == "make":
            assert arguments[0] in make_targets
        elif program == "pip":
            for name in arguments[1:]:
                assert name == "-e" or check_distribution(name), name
        elif program == "git":
            assert arguments[0] == "clone"
        elif program == "python" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).is_file(), arguments[0]
        elif program == "python":
            assert subprocess.run(
                [sys.executable, *arguments], cwd=folder, capture_output=True, timeout=120
            ).returncode in (0, 1), line
        elif program in ("accelerate", "torchrun"):
            check_launch(program, arguments)
        else:
            assert program == "grpo", f"{line!r}: say in this test how to check it"
            check_grpo(arguments, folder, request)


def check_launch(program, arguments):
    """The launcher knows its options, the config is shipped, and `grpo train` is launched."""
    pytest.importorskip("torch")
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert arguments.pop(0) == "launch"
        found = launch_command_parser().parse_args(arguments)
        assert (ROOT / found.config_file).is_file() and found.no_python
    else:
        from torch.distributed.run import get_args_parser

        found = get_args_parser().parse_args(arguments)
        assert found.no_python
    assert (found.training_script, found.training_script_args[0]) == ("grpo", "train")


def check_distribution(name):
    base, _, extras = name.rstrip("]").partition("[")
    projects = [
        ROOT / "pyproject.toml",
        *ROOT.glob("*/pyproject.toml"),
        *ROOT.glob("plugins/*/pyproject.toml"),
    ]
    for path in projects:
        project = tomllib.loads(path.read_text())["project"]
        if project["name"] == base:
            known = project.get("optional-dependencies", {})
            return all(extra in known for extra in extras.split(",") if extra)
    return False


def check_grpo(arguments, folder, request):
    """Run it; a training on a tiny model for two steps, from the same config where it is shipped."""
    if arguments[0] != "train":
        if "--config" in arguments:
            arguments = ["rubric.yaml" if a == "config.yaml" else a for a in arguments]
        done = grpo(arguments, folder)
        assert done.returncode == 0, done.stderr
        return
    pytest.importorskip("torch")
    config = Path(arguments[1])
    rows = folder / "rows.jsonl"
    row = {"question": "1+1?", "expression": "1+1", "answer": "2"}
    rows.write_text(json.dumps(row) + "\n")
    small = [
        f"model.name={request.getfixturevalue('tiny_qwen')}", f"data.path={rows}",
        f"eval.path={rows}", "train.steps=2", "train.prompts_per_step=2", "grpo.group_size=2",
        "rollout.max_tokens=8", "train.warmup_steps=0", f"train.output_dir={folder / 'run'}",
    ]  # fmt: skip
    if (ROOT / config).is_file():
        config = ROOT / config
    else:  # the config that the README shows
        shown = next(p.values[1] for p in snippets("yaml") if p.values[0].name == "README.md")
        (folder / config).write_text(shown)
    done = grpo(["train", str(config), *arguments[2:], *small], folder)
    assert done.returncode == 0, done.stderr


def test_the_reference_of_the_config_is_what_the_code_says():
    """`python docs/generate.py` writes it anew."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "config.md").read_text() == generate.config_page()


def test_every_key_of_the_config_is_explained():
    table = re.findall(
        r"^\| `\w+` \|.*\| (.*) \|$", (ROOT / "docs" / "config.md").read_text(), re.M
    )
    assert table and all(table)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
