"""Each kind of broken plugin, really installed beside good ones: the host lists it
with its reason, everything else works, and only a config that uses it fails."""

import json

import pytest
import yaml

GOOD = """
from grpo_core import hookimpl

def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]

@hookimpl
def register_rewards(register):
    register("{reward}", length)
"""


def good(reward):
    return GOOD.format(reward=reward)


ZOO = {
    "importer": ("import module_that_is_not_there\n", "No module named 'module_that_is_not_there'"),
    "optional": (
        "try:\n    import heavy_extra\nexcept ImportError as error:\n"
        "    raise ImportError('needs heavy_extra: pip install optional[heavy]') from error\n",
        "ImportError: needs heavy_extra: pip install optional[heavy]",
    ),
    "signature": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_rewards(registry): pass\n",
        "wrong hook",
    ),
    "repeats": (good("again") + '    register("again", length)\n', "registers the reward 'again' twice"),
    "future": ("grpo_core_api = 99\n" + good("later"), "written for plugin API 99"),
    "past": ("grpo_core_api = 0\n" + good("earlier"), "written for plugin API 0"),
    "raiser": (
        "from grpo_core import hookimpl\n@hookimpl\ndef register_rewards(register):\n"
        "    raise RuntimeError('no licence')\n",
        "RuntimeError: no licence",
    ),
    "quitter": ("print('bye')\nimport sys\nsys.exit(7)\n", "SystemExit: 7"),
    "based": ("class Odd(BaseException): pass\nraise Odd('odd')\n", "Odd: odd"),
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(environment, build_wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    healthy = {"fine": good("fine"), "loud": "print('loud')\n" + good("loud")}
    twins = {"twin_a": good("twin"), "twin_b": good("twin")}
    sources = {name: source for name, (source, _) in ZOO.items()} | healthy | twins
    environment.install(*(build_wheel(folder, name, source) for name, source in sources.items()))
    return environment


@pytest.fixture(scope="module")
def listed(zoo):
    done = zoo.grpo("plugins", "--json")
    assert done.returncode == 0, done.stderr
    return {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}


@pytest.mark.parametrize("name", ZOO)
def test_it_is_recorded_with_its_reason(listed, name):
    record = listed[name]
    assert (record["status"], record["distribution"], record["version"]) == ("broken", name, "1.0")
    assert record["entry_point"] == f"zoo_{name}"
    assert ZOO[name][1] in record["reason"]
    assert record["rewards"] == []


@pytest.mark.parametrize("name", ["fine", "loud", "twin_a", "twin_b"])
def test_the_rest_works(listed, name):
    assert listed[name]["status"] == "ok"


def test_one_that_prints_is_told_on(listed):
    assert listed["loud"]["reason"] == "prints when imported: loud"


def score(zoo, folder, **reward):
    (folder / "rubric.yaml").write_text(yaml.safe_dump({"rubric": {"rewards": [reward]}}))
    (folder / "rows.jsonl").write_text('{"prompt": "p", "completion": "12345"}\n')
    return zoo.grpo("score", "rows.jsonl", "--config", "rubric.yaml", cwd=folder)


def test_a_config_that_uses_a_good_one_runs(zoo, tmp_path):
    done = score(zoo, tmp_path, use="fine")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"] == 5.0


@pytest.mark.parametrize("name", ["importer", "quitter", "future"])
def test_only_a_config_that_uses_a_broken_one_fails_with_its_reason(zoo, tmp_path, name):
    done = score(zoo, tmp_path, use=name)
    assert done.returncode == 2
    assert done.stderr.startswith("grpo: rubric.yaml: rubric.rewards.0.use: ")
    assert ZOO[name][1] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_twins_are_reachable_by_their_full_names_alone(zoo, tmp_path):
    done = score(zoo, tmp_path, use="twin")
    assert done.returncode == 2
    assert "use one of twin_a/twin, twin_b/twin" in done.stderr
    assert score(zoo, tmp_path, use="twin_b/twin").returncode == 0


def test_blocking_one_in_a_config(zoo, tmp_path):
    (tmp_path / "rubric.yaml").write_text(
        yaml.safe_dump({"plugins": {"block": ["twin_a"]}, "rubric": {"rewards": [{"use": "twin"}]}})
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "12345"}\n')
    done = zoo.grpo("score", "rows.jsonl", "--config", "rubric.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
