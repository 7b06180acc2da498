"""`grpo check`, `grpo plugins show` and `grpo new reward`, each as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.cli import new
from grpo_core.cli.check import check
from grpo_core.errors import ConfigError
from grpo_core.plugins import PluginError


def grpo(*arguments, cwd, path=None):
    environment = {**os.environ, "COLUMNS": "120"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=120, cwd=cwd,
    )  # fmt: skip


REWARDS = '''
from pydantic import Field
from grpo_core import Reward, Sample

class Exact(Reward):
    """1.0 when the completion is the gold.

    Rows whose gold is no whole number abstain.
    """
    class Options(Reward.Options):
        answer_column: str = "answer"
        """Where the gold stands."""
        slack: float = Field(0.0, ge=0, le=1, description="Not used yet")
        words: tuple[str, ...] = ()
    range = (0.0, 1.0)
    on_timeout = 0.0
    examples = ((Sample("3 + 4?", "7", {"answer": "7"}), 1.0),)

    @property
    def requires(self):
        return (self.options.answer_column,)

    def score(self, sample):
        gold = sample.columns.get(self.options.answer_column)
        if not isinstance(gold, str) or not gold.strip().isdigit():
            return None
        return float(sample.completion_text == gold.strip() != "13")

class Shortest(Reward):
    scope = "group"

def broken(prompts, completions, **columns):
    raise RuntimeError("out of order")
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


def write_rows(path, golds):
    path.write_text("".join(json.dumps({"question": "?", "answer": g}) + "\n" for g in golds))
    return path


# --- check ---------------------------------------------------------------------------


def test_check_reports_every_check_and_the_figures(folder):
    done = grpo("check", "mine.py:Exact", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on its own examples" in done.stdout
    assert "ok      abstains" in done.stdout and "latency: first score" in done.stdout
    assert "0 failed" not in done.stdout and "FAIL" not in done.stdout


def test_check_fails_with_what_it_did_saw_and_why(folder):
    done = grpo("check", "mine.py:broken", cwd=folder)
    assert done.returncode == 1
    assert "FAIL    examples" in done.stdout
    assert "did   judged ordinary samples" in done.stdout
    assert "RuntimeError: out of order (mine.py:" in done.stdout
    assert "why   a verdict that is wrong" in done.stdout


def test_check_lists_rows_it_abstains_on_and_rows_whose_gold_it_refuses(folder):
    golds = ["7", "8", "about nine", "10", "11", "", "12", *map(str, range(6, 600))]
    rows = write_rows(folder / "rows.jsonl", golds)
    done = grpo("check", "mine.py:Exact", "--data", rows, "--prompt", "{answer}?", cwd=folder)
    assert done.returncode == 1, done.stdout
    assert "601 rows, each judged with a perfect answer ('answer' as it is)" in done.stdout
    assert "on 2 rows it abstains" in done.stdout
    assert "line 3: " in done.stdout and "line 6: " in done.stdout
    assert "on 1 rows its own gold does not get the maximum" in done.stdout
    assert "line 15: its own gold gets 0" in done.stdout


@pytest.mark.slow
def test_abstaining_on_some_rows_is_no_failure(folder):
    rows = write_rows(folder / "rows.jsonl", ["7", "8", "about nine"])
    done = grpo("check", "mine.py:Exact", "--data", rows, cwd=folder)
    assert done.returncode == 0 and "on 1 rows it abstains" in done.stdout, done.stdout


@pytest.mark.slow
def test_check_fails_where_it_abstains_on_every_row(folder):
    rows = write_rows(folder / "rows.jsonl", ["none", "of these"])
    done = grpo("check", "mine.py:Exact", "--data", rows, cwd=folder)
    assert done.returncode == 1 and "on 2 rows it abstains" in done.stdout


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("nothing_of_that_name", None, [], "no plugin registers a reward 'nothing_of_that_name'"),
        ("mine.py:Exact", None, ["slac=1"], "-o.slac: unknown key; did you mean 'slack'?"),
        ("mine.py:Exact", None, ["slack"], "-o slack: expected KEY=VALUE"),
        ("mine.py:Exact", "absent.jsonl", [], "there is no file absent.jsonl"),
        ("mine.py:Exact", "mine.py", [], "mine.py: line 2: "),
        ("mine.py:Shortest", "rows.jsonl", [], "rows.jsonl: line 1: no 'group', and the reward"),
        (
            "mine.py:Exact",
            "rows.jsonl",
            ["answer_column=anser"],
            "rows.jsonl: the reward needs the column 'anser'; did you mean 'answer'?",
        ),
    ],
)
def test_a_mistake_is_one_line(folder, monkeypatch, name, data, options, message):
    monkeypatch.chdir(folder)
    write_rows(folder / "rows.jsonl", ["7"])
    with pytest.raises((ConfigError, PluginError)) as raised:
        check(name, Path(data) if data else None, None, options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "line 1: no prompt: none of prompt, .* is there; give --prompt '{column}'"),
        ("{sum}=", "line 2: --prompt: no column 'sum'"),
        ("{sum", "malformed template"),
    ],
)
def test_a_row_without_a_prompt_says_what_to_give(folder, monkeypatch, prompt, message):
    monkeypatch.chdir(folder)
    Path("rows.jsonl").write_text('{"sum": "1+2", "answer": "3"}\n{"answer": "3"}\n')
    with pytest.raises(ConfigError, match=message):
        check("mine.py:Exact", Path("rows.jsonl"), prompt)


# --- show ----------------------------------------------------------------------------


def test_show_tells_all_there_is_to_know(folder):
    done = grpo("plugins", "show", "mine.py:Exact", cwd=folder)
    assert done.returncode == 0, done.stderr
    for text in (
        "  1.0 when the completion is the gold.",
        "  Rows whose gold is no whole number abstain.",
        "range       0 to 1",
        "requires    answer",
        "timeout: 0, error: exclude",
        "  answer_column: text = answer\n      Where the gold stands.",
        "  slack: number, at least 0, at most 1 = 0.0\n      Not used yet",
        "  words: list of text = []",
        "'7' to '3 + 4?', answer: '7'\n      gets 1",
    ):
        assert text in done.stdout


def test_show_of_a_plugin_shows_what_else_it_registers(folder):
    (folder / "loader.py").write_text(
        "from grpo_core import hookimpl\n@hookimpl\ndef register_data(register):\n"
        "    register('poems', lambda path: [])\n"
    )
    done = grpo("--plugin", "loader.py", "plugins", "show", "loader", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "plugin 'loader' of loader file" in done.stdout and "  data: poems" in done.stdout


def test_show_of_a_broken_plugin_says_why(folder):
    (folder / "broken.py").write_text("import no_such_module\n")
    done = grpo("--plugin", "broken.py", "plugins", "show", "broken", cwd=folder)
    assert done.returncode == 2 and "No module named 'no_such_module'" in done.stderr


def test_show_of_nothing_suggests(folder):
    done = grpo("plugins", "show", "mine.py:Exct", cwd=folder)
    assert done.returncode == 2 and "did you mean 'Exact'?" in done.stderr


# --- new -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`grpo new reward close-call`, installed from its files into a folder."""
    pytest.importorskip("setuptools", "77", reason="pip builds from source with it")
    root = tmp_path_factory.mktemp("author")
    done = grpo("new", "reward", "close-call", cwd=root)
    assert done.returncode == 0, done.stderr
    source, target = root / "grpo-reward-close-call", root / "installed"
    command = "pip install --quiet --no-deps --no-build-isolation --no-index --target"
    pip = subprocess.run(
        [sys.executable, "-m", *command.split(), str(target), str(source)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert pip.returncode == 0, pip.stderr
    return source, target


def test_a_new_reward_installs_and_is_listed(made):
    source, target = made
    listed = grpo("plugins", "--json", cwd=source, path=target)
    plugins = {plugin["name"]: plugin for plugin in json.loads(listed.stdout)["plugins"]}
    found = plugins["close-call"]
    assert found["status"] == "ok" and found["rewards"] == ["close-call"]
    assert found["distribution"] == "grpo-reward-close-call"
    assert (target / "grpo_reward_close_call" / "py.typed").is_file()


def test_a_new_reward_passes_its_own_tests_unchanged(made):
    source, target = made
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", source, source],
        env={**os.environ, "PYTHONPATH": str(target), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=120, cwd=source,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.slow
def test_a_new_reward_is_checked_and_shown(made):
    source, target = made
    done = grpo("check", "close-call", cwd=source, path=target)
    assert done.returncode == 0 and "ok      perfect" in done.stdout, done.stdout
    shown = grpo("plugins", "show", "close-call", cwd=source, path=target)
    assert "  ignore_case: true or false = false" in shown.stdout


def test_new_overwrites_nothing(made):
    source, _ = made
    with pytest.raises(ConfigError, match="is there already; nothing was written"):
        new.reward("close-call", source.parent)


def test_new_refuses_a_name_that_is_taken(made, tmp_path):
    _, target = made
    done = grpo("new", "reward", "close-call", cwd=tmp_path, path=target)
    assert done.returncode == 2 and "choose another name" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["2fast", "Über", "a b", "class", "a--b", "../x", "", "-x"])
def test_new_refuses_a_name_that_is_none(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot be the name of a reward"):
        new.reward(name, tmp_path)
    assert not list(tmp_path.iterdir())
