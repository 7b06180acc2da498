"""The doctor, and the README's word."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_sandbox import doctor

HERE = Path(__file__).parent


def test_the_doctor_says_what_isolates_here() -> None:
    report = doctor.examine()
    assert report.tier in (1, 2)
    assert set(report.attacks.values()) == {"contained"}
    assert report.latency_ms is not None and report.latency_ms > 0
    text = report.as_text()
    assert f"\ntier {report.tier}: " in text and "landlock" in text and "median latency" in text


def test_where_namespaces_are_refused_it_says_why_not_tier_1() -> None:
    situation = [sys.executable, str(HERE / "attacks" / "situation.py"), "--docker", "--"]
    command = [*situation, sys.executable, "-m", "grpo_sandbox", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    report = json.loads(result.stdout)
    assert report["tier"] == 2
    assert "unshare: Operation not permitted" in report["refused"]["1"]
    assert report["primitives"]["user namespace"] == "no: unshare: Operation not permitted"
    assert report["primitives"]["seccomp filter"] == "yes"


def test_where_nothing_isolates_it_gives_the_remedy_and_fails() -> None:
    situation = [sys.executable, str(HERE / "attacks" / "situation.py"), "--bare", "--"]
    command = [*situation, sys.executable, "-m", "grpo_sandbox", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 1
    assert "no tier: code cannot be isolated here. Use Linux 5.13 or newer" in result.stdout


def test_anything_but_doctor_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "grpo_sandbox", "nurse"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "usage: " in result.stderr


def test_the_readme_is_true() -> None:
    readme = HERE.parent / "README.md"
    if not readme.exists():
        pytest.skip("the tests stand alone here")
    snippets = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        result = subprocess.run(
            [sys.executable, "-c", snippet], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        for said in re.findall(r"print\(.*\)  # (.*)", snippet):
            assert said in result.stdout
