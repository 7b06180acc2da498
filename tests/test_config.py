"""Every mistake in a config is one line with the key's path and a suggestion,
exit code 2, before torch is imported."""

import subprocess
import sys

import pytest

RUN = (
    "import sys\n"
    "from grpo_core.cli import main\n"
    "try:\n    main()\n"
    "finally:\n    print('torch' in sys.modules)\n"
)


@pytest.fixture
def tiny_model(tmp_path):
    """What passes for a model folder as long as nobody loads it."""
    folder = tmp_path / "a_model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def train(project, *overrides, config="grpo.yaml"):
    return subprocess.run(
        [sys.executable, "-c", RUN, "train", str(project / config), *overrides],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
    )


MISTAKES = {
    "unknown key": (["train.step=3"], "train.step: unknown key; did you mean 'steps'?"),
    "unknown section": (["trian.steps=3"], "trian: unknown key; did you mean 'train'?"),
    "unknown reward": (
        ["rubric.rewards.0.use=maths_"],
        "rubric.rewards.0.use: no plugin registers a reward 'maths_'",
    ),
    "missing file of a reward": (
        ["rubric.rewards.0.use=absent.py:digits"],
        "rubric.rewards.0.use: there is no file",
    ),
    "unknown function": (
        ["rubric.rewards.0.use=my_rewards.py:digit"],
        "has no 'digit'; did you mean 'digits'?",
    ),
    "weight not a number": (
        ["rubric.rewards.0.weight=heavy"],
        "rubric.rewards.0.weight: expected a number or a schedule",
    ),
    "wrong type": (
        ["train.steps=many"],
        "train.steps: expected a whole number, got 'many'",
    ),
    "out of range": (["grpo.group_size=1"], "grpo.group_size: "),
    "unknown scale": (
        ["grpo.scale=grup"],
        "grpo.scale: expected one of group, batch, none, got 'grup'; did you mean 'group'?",
    ),
    "unknown data loader": (["data.loader=csv_"], "data.loader: no plugin registers a data loader 'csv_'"),
    "unknown backend": (["rollout.backend=vlm"], "rollout.backend: no plugin registers"),
    "unknown objective": (
        ["grpo.objective=dabo"],
        "grpo.objective: there is no objective 'dabo'; did you mean 'dapo'?",
    ),
    "missing data file": (
        ["data.path=trian.jsonl"],
        "did you mean 'train.jsonl'?",
    ),
    "missing column": (
        ["data.prompt='{qestion}'"],
        "data.prompt: the template names the column 'qestion', which the data does not have; "
        "did you mean 'question'?",
    ),
    "malformed template": (["data.prompt='{question'"], "data.prompt: malformed template"),
    "missing model": (["model.name=./nowhere"], "model.name: there is no directory"),
    "folder without a model": (["model.name=."], "holds no model (no config.json)"),
    "unknown pass": (["eval.pass=digit"], "eval.pass: no reward is called 'digit'; did you mean 'digits'?"),
    "cispo without its cap": (["grpo.objective=cispo"], "grpo.epsilon_high: cispo needs it"),
    "not an override": (["steps"], "'steps' is no override; write key.path=value"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_torch(project, mistake):
    overrides, message = MISTAKES[mistake]
    done = train(project, *overrides)
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == "False", "torch was imported"
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project / "runs").exists()


def test_a_column_that_a_reward_needs(project):
    (project / "my_rewards.py").write_text("def digits(completions, solution):\n    return []\n")
    (project / "grpo.yaml").write_text(
        (project / "grpo.yaml")
        .read_text()
        .replace('    - {use: "my_rewards.py:brevity", weight: 0.1}\n', "")
    )
    done = train(project)
    assert done.returncode == 2
    assert "rubric.rewards.0: reward 'digits' needs the column 'solution'" in done.stderr


def test_a_broken_row_is_named_by_its_line(project):
    with (project / "train.jsonl").open("a") as file:
        file.write('{"question": \n')
    done = train(project)
    assert done.returncode == 2
    assert "train.jsonl line 31 is not JSON" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not valid YAML"),
        ("- a list", "expected a mapping of sections"),
        ("model: {name: x}", "data: is required and missing"),
        ("model: {name: '${nothing}'}", "nothing"),
    ],
)
def test_a_file_that_is_no_config(project, text, message):
    (project / "bad.yaml").write_text(text)
    done = train(project, config="bad.yaml")
    assert done.returncode == 2
    assert message in done.stderr and "bad.yaml" in done.stderr


def test_a_missing_config(project):
    done = train(project, config="absent.yaml")
    assert done.returncode == 2
    assert "there is no such config file" in done.stderr


def test_overrides_read_numbers_as_yaml_does(project):
    from grpo_core.config import load

    config = load(
        project / "grpo.yaml",
        ["train.learning_rate=1e-6", "rubric.rewards.0.weight=2", "eval.every=7"],
    )
    assert config.train.learning_rate == 1e-6
    assert config.rubric.rewards[0].weight == 2
    assert config.eval.every == 7


def test_without_the_training_extra_one_line_says_what_to_install(project):
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('torch', 'accelerate') else find(n, *a)\n" + RUN
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(project / "grpo.yaml")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "grpo: training needs torch, accelerate: pip install 'grpo-core[train]'\n"
