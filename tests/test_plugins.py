"""The host: finding plugins, and outliving broken ones.

Plugins here are real distributions: metadata and modules in a folder on the path.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import grpo_core
from grpo_core.plugins import PluginError, Source, load_plugins, resolve

GOOD = """
from grpo_core import Reward, Score, hookimpl

class Brevity(Reward):
    class Options(Reward.Options):
        limit: int = 200
    range = (0.0, 1.0)

    def score(self, sample):
        n = len(sample.completion_text)
        return Score(max(0.0, 1 - n / self.options.limit), reason=f"{n} characters")

@hookimpl
def register_rewards(register):
    register("brevity", Brevity)
"""

BROKEN = {
    "import_error": ("import no_such_module", "No module named 'no_such_module'"),
    "syntax_error": ("def broken(:", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "base_exception": ("raise GeneratorExit('stop')", "GeneratorExit: stop"),
    "wrong_signature": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_rewards(registry): pass",
        "wrong hook",
    ),
    "unknown_hook": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_reward(register): pass",
        "wrong hook",
    ),
    "raises": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_rewards(register): 1 / 0",
        "ZeroDivisionError",
    ),
    "too_new": ("grpo_core_api = 2\n" + GOOD, "written for plugin API 2"),
    "no_reward": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_rewards(register): register('x', 7)",
        "neither a Reward nor a function",
    ),
    "twice": (GOOD + '    register("brevity", Brevity)\n', "registers the reward 'brevity' twice"),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a one-module distribution: `install("good", source)`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("GRPO_PLUGINS", raising=False)
    monkeypatch.delenv("GRPO_BLOCK", raising=False)

    def make(name, source, version="1.0"):
        module = f"zoo_{tmp_path.name}_{name}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[grpo_core]\n{name} = {module}\n")
        return module

    return make


def record(host, name):
    return next(plugin for plugin in host.plugins if plugin.name == name)


def test_a_plugin_is_found_and_its_reward_judges(install):
    install("good", GOOD)
    host = load_plugins()
    found = record(host, "good")
    assert (found.status, found.distribution, found.version) == ("ok", "good", "1.0")
    assert found.rewards == ["brevity"]
    score = host.rewards["brevity"](limit=10).score(grpo_core.Sample("p", "12345"))
    assert (score.value, score.reason) == (0.5, "5 characters")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_recorded_and_the_rest_works(install, kind):
    source, reason = BROKEN[kind]
    install("bad", source)
    install("good", GOOD)
    host = load_plugins()
    assert record(host, "bad").status == "broken"
    assert reason in record(host, "bad").reason
    assert "\n" not in record(host, "bad").reason
    assert record(host, "good").status == "ok"
    assert host.rewards["good/brevity"]


def test_using_a_broken_plugin_says_why(install):
    install("bad", "import no_such_module")
    with pytest.raises(
        PluginError, match=r"plugin 'bad' of bad 1.0 .* is broken: .*no_such_module"
    ):
        load_plugins().rewards["bad"]


def test_printing_on_import_does_not_reach_standard_output(install, capsys):
    install("chatty", "print('hello')\n" + GOOD)
    load_plugins()
    assert capsys.readouterr().out == ""


def test_two_plugins_with_one_reward_name_stay_reachable(install):
    install("one", GOOD)
    install("two", GOOD)
    rewards = load_plugins().rewards
    with pytest.raises(PluginError, match="use one of one/brevity, two/brevity"):
        rewards["brevity"]
    assert rewards["one/brevity"].plugin.distribution == "one"
    assert rewards["two/brevity"].plugin.distribution == "two"


def test_blocking_and_choosing(install, monkeypatch):
    install("one", GOOD)
    install("two", GOOD)
    assert record(load_plugins(block=["one"]), "one").status == "blocked"
    monkeypatch.setenv("GRPO_BLOCK", "two")
    assert record(load_plugins(), "two").status == "blocked"
    monkeypatch.setenv("GRPO_PLUGINS", "one")
    assert load_plugins().rewards["brevity"].plugin.name == "one"
    monkeypatch.setenv("GRPO_PLUGINS", "")
    assert len(load_plugins().rewards) == 0


def test_an_unknown_reward_gets_the_nearest_name(install):
    install("good", GOOD)
    with pytest.raises(PluginError, match="did you mean 'brevity'"):
        load_plugins().rewards["brevty"]


def test_a_worker_can_find_a_reward_again_by_its_source(install):
    module = install("good", GOOD)
    reward = load_plugins().rewards["brevity"](limit=5)
    assert reward.source == Source("plugin", module, "brevity")
    assert resolve(reward.source).__name__ == "Brevity"


def test_rewards_from_files_and_modules(install, tmp_path):
    module = install("good", GOOD)
    (tmp_path / "helper.py").write_text("SCALE = 2.0\n")
    (tmp_path / "mine.py").write_text(
        "from helper import SCALE\n"
        "def twice(prompts, completions, **_):\n    return [SCALE for _ in completions]\n"
        "NOT_A_REWARD = 3\n"
    )
    host = load_plugins()
    assert host.reward("mine.py:twice", tmp_path)().score(grpo_core.Sample("p", "c")) == 2.0
    assert host.reward(f"{module}:Brevity")(limit=3).options.limit == 3
    for use, message in [
        ("mine.py:twise", "did you mean 'twice'"),
        ("mine.py:NOT_A_REWARD", "neither a Reward nor a function"),
        ("absent.py:twice", "there is no file"),
        ("absent_module:twice", "No module named"),
    ]:
        with pytest.raises(PluginError, match=message):
            host.reward(use, tmp_path)


def grpo(*arguments, path=None, code=None):
    """The command in a process of its own."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_lists_good_and_broken_as_json(install, tmp_path):
    install("good", GOOD)
    install("bad", "print('noise')\nimport no_such_module")
    done = grpo("plugins", "--json", path=tmp_path)
    assert done.returncode == 0
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert found["good"]["rewards"] == ["brevity"]
    assert found["bad"]["status"] == "broken"
    assert set(found["good"]) >= {
        "name", "distribution", "version", "entry_point", "status", "reason", "rewards"
    }  # fmt: skip


def test_the_command_prints_a_table(install, tmp_path):
    install("good", GOOD)
    install("bad", "import no_such_module")
    done = grpo("plugins", path=tmp_path)
    assert done.returncode == 0
    assert "brevity" in done.stdout and "No module named 'no_such_module'" in done.stdout


def test_importing_is_light():
    code = (
        "import sys, grpo_core; grpo_core.Reward, grpo_core.Rubric, grpo_core.load_plugins();"
        "print([m for m in ('torch', 'sympy', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
