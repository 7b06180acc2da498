"""The schema that editors use agrees with the checks that training makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")

from grpo_core.cli.schema import config_schema  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = {
    "model": {"name": "m"},
    "data": {"path": "x.jsonl"},
    "rubric": {"rewards": [{"use": "math", "weight": 1.0, "options": {"form": "value"}}]},
}


def problems(config):
    return [
        error.message
        for error in jsonschema.Draft202012Validator(config_schema()).iter_errors(config)
    ]


@pytest.mark.parametrize("path", list(EXAMPLES.glob("*/grpo*.yaml")), ids=lambda p: p.parent.name)
def test_the_examples_are_valid(path):
    assert problems(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight", {0: 0.2, 500: 0.0}),
        ("on_error", "abstain"),
        ("on_timeout", 0.0),
        ("use", "my_rewards.py:f"),
        ("use", "grpo-reward-math/math"),
    ],
)
def test_what_is_valid(key, value):
    config = json.loads(json.dumps(CONFIG))
    config["rubric"]["rewards"][0][key] = json.loads(json.dumps(value))
    assert problems(config) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight", "heavy"),
        ("on_error", "skip"),
        ("use", "maths"),
        ("wieght", 1),
        ("options", {"from": "value"}),
    ],
)
def test_what_is_not(key, value):
    config = json.loads(json.dumps(CONFIG))
    config["rubric"]["rewards"][0][key] = value
    assert problems(config)


def test_the_command_prints_it():
    done = subprocess.run(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", "schema"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["properties"]["rubric"]
