"""Every hook, used once for what it is there for, by a plugin in one file."""

import json
import math
import os
import subprocess
import sys

import pytest

from grpo_core import Rubric, Sample, Score
from grpo_core.metrics import no_signal_metrics
from grpo_core.plugins import PATHS, load_plugins
from grpo_core.rubric import Term

PLUGIN = '''
"""A plugin with every hook."""
import csv

from grpo_core import hookimpl


def read_csv(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@hookimpl
def register_data(register):
    register("csv", read_csv)


@hookimpl
def register_objectives(register):
    def reinforce():
        from grpo_core.algorithm import Objective
        return Objective(lambda t: -t.advantages * t.logp, "tokens")

    register("reinforce", reinforce)


@hookimpl
def register_rollouts(register):
    def shouting():
        """The built-in sampler, and a file that tells it was called."""
        from grpo_core.rollout import draw

        def draw_loudly(*arguments):
            open("drawn", "a").write("x")
            return draw(*arguments)

        return draw_loudly

    register("shouting", shouting)


@hookimpl
def register_commands(register):
    def hello(name: str = "you"):
        """Greets."""
        print(f"hello {name}")

    register("hello", hello)


@hookimpl
def on_step(step, metrics):
    open("steps", "a").write(f"{step} {metrics['reward']}\\n")


@hookimpl
def on_samples(samples):
    open("samples", "a").write(f"{len(samples)}\\n")
    raise RuntimeError("the dashboard is down")
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    path = tmp_path / "everything.py"
    path.write_text(PLUGIN)
    monkeypatch.setenv(PATHS, str(path))
    return path


def grpo(*arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if k != PATHS}
    return subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_plugin_in_one_file_is_listed_with_all_it_brings(plugin, tmp_path):
    listed = json.loads(grpo("--plugin", plugin, "plugins", "--json", cwd=tmp_path).stdout)
    record = next(p for p in listed["plugins"] if p["name"] == "everything")
    assert record["status"] == "ok"
    assert record["others"] == {
        "data": ["csv"],
        "objectives": ["reinforce"],
        "rollouts": ["shouting"],
        "commands": ["hello"],
        "observers": ["on_samples", "on_step"],
    }


def test_a_folder_of_plugins(plugin, tmp_path):
    (tmp_path / "_helper.py").write_text("1 / 0")
    done = grpo("--plugin", tmp_path, "plugins", "--json", cwd=tmp_path)
    names = [p["name"] for p in json.loads(done.stdout)["plugins"]]
    assert "everything" in names and "_helper" not in names


def test_a_plugin_path_that_is_not_there(tmp_path):
    done = grpo("--plugin", "absent.py", "plugins", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "grpo: --plugin: there is no absent.py\n"


def test_a_command_of_a_plugin(plugin, tmp_path):
    done = grpo("--plugin", plugin, "hello", "--name", "world", cwd=tmp_path)
    assert done.stdout == "hello world\n"
    assert "Greets." in grpo("--plugin", plugin, "--help", cwd=tmp_path).stdout
    assert grpo("hello", cwd=tmp_path).returncode == 2


def test_data_objective_backend_and_observers_in_a_run(plugin, project, monkeypatch, capsys):
    pytest.importorskip("torch")
    from grpo_core.cli import train as command

    monkeypatch.chdir(project)
    (project / "rows.csv").write_text("question,answer\n1+1=,2\n2+2=,4\n3+3=,6\n")
    command.train(
        project / "grpo.yaml",
        [
            "data.path=rows.csv", "data.loader=csv", "grpo.objective=reinforce",
            "rollout.backend=shouting", "train.steps=2", "eval=null",
        ],
    )  # fmt: skip
    assert (project / "drawn").read_text() == "xx"
    assert [line.split()[0] for line in (project / "steps").read_text().splitlines()] == ["1", "2"]
    assert (project / "samples").read_text() == "12\n", "an observer that raised was called again"
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("on_samples raised RuntimeError: the dashboard is down") == 1
    rows = (project / "runs" / "grpo" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2


def test_what_a_loader_returns_is_checked(project, tmp_path, monkeypatch):
    from grpo_core.cli.train import prepare
    from grpo_core.errors import ConfigError

    (tmp_path / "odd.py").write_text(
        "from grpo_core import hookimpl\n"
        "@hookimpl\ndef register_data(register):\n"
        "    register('words', lambda path: path.split('/'))\n"
        "    register('broken', lambda path: 1 / 0)\n"
    )
    monkeypatch.setenv(PATHS, str(tmp_path / "odd.py"))
    with pytest.raises(ConfigError, match=r"data\.loader: .*returned a str for a row"):
        prepare(project / "grpo.yaml", ["data.loader=words"])
    with pytest.raises(ConfigError, match=r"data\.loader: .*raised ZeroDivisionError"):
        prepare(project / "grpo.yaml", ["data.loader=broken"])


def test_something_that_is_no_function_breaks_the_plugin_not_the_host(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(
        "from grpo_core import hookimpl\n"
        "@hookimpl\ndef register_objectives(register):\n    register('mine', 7)\n"
    )
    monkeypatch.setenv(PATHS, str(tmp_path / "odd.py"))
    record = next(p for p in load_plugins().plugins if p.name == "odd")
    assert (record.status, record.reason) == ("broken", "objective 'mine' is a int, not a function")


class TestWhyAGroupTeachesNothing:
    class Judge:
        """A reward between 0 and 1."""

        range = (0.0, 1.0)
        on_abstained = "abstain"

    @pytest.mark.parametrize(
        ("rows", "truncated", "reason"),
        [
            ([(1.0, 0.5), (1.0, 0.5)], [False, False], "all_right"),
            ([(0.0, 0.5), (0.0, 0.5)], [False, True], "all_wrong"),
            ([(0.0, 0.0), (0.0, 0.0)], [True, True], "all_truncated"),
            ([(1.0, 0.0), (0.5, 1.0)], [False, False], "cancelling"),
            ([(None, None), (None, None)], [False, False], "all_abstained"),
            ([(1.0, 0.0), (0.0, 0.0)], [False, False], None),
        ],
    )
    def test_reasons(self, rows, truncated, reason):
        rubric = Rubric((Term("math", self.Judge(), 1.0), Term("style", self.Judge(), 0.5)))
        samples = [Sample("p", "c", index=n) for n in range(2)]
        scores = {name: [Score(row[r]) for row in rows] for r, name in enumerate(("math", "style"))}
        table = rubric.table(samples, scores)
        counts = no_signal_metrics(table, truncated, rubric, 2, 0)
        assert {k for k, v in counts.items() if v} == ({f"no_signal/{reason}"} if reason else set())
        assert not any(math.isnan(v) for v in counts.values())
