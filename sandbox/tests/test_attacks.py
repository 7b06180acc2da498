"""The abuse scripts are contained and the cheats lose: each tier, as root and as a plain user.

Where this machine or user cannot be what a situation needs, the situation is made:
namespaces refused by seccomp as Docker does, a plain user out of root.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo_sandbox import Sandbox, SandboxUnavailable
from grpo_sandbox.linux.namespaces import world_reaches

ATTACKS = Path(__file__).parent / "attacks"
SITUATIONS = {
    "as I am": ([], 1),
    "plain user": (["--plain"], 1),
    "in Docker": (["--docker"], 2),
    "plain user in Docker": (["--plain", "--docker"], 2),
}


def drive(what: str, situation: str, which: str) -> dict[str, list[str]]:
    wishes, tier = SITUATIONS[situation]
    if "--plain" in wishes and os.getuid() != 0:
        wishes = [wish for wish in wishes if wish != "--plain"]
    if tier == 1:
        try:
            Sandbox(tier=1).close()
        except SandboxUnavailable as error:
            pytest.skip(f"tier 1 is not to be had: {error}")
    command = [sys.executable, str(ATTACKS / "drive.py"), what, str(tier), which]
    result = in_situation(wishes, command)
    assert result.returncode == 0, result.stderr[-3000:]
    out: dict[str, Any] = json.loads(result.stdout)
    assert out["tier"] == tier
    found: dict[str, list[str]] = out["results"]
    return found


def in_situation(wishes: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    if "--plain" in wishes:
        for place in (sys.prefix, str(ATTACKS)):
            if not world_reaches(place):
                pytest.skip(f"a plain user cannot reach {place}, so none can run it")
    return subprocess.run(
        [sys.executable, str(ATTACKS / "situation.py"), *wishes, "--", *command],
        capture_output=True,
        text=True,
        timeout=550,
        cwd="/",
        check=False,
    )


@pytest.mark.parametrize("situation", ["as I am", "plain user in Docker"])
def test_abuse_is_contained(situation: str) -> None:
    results = drive("abuse", situation, "some")
    assert len(results) >= 60
    assert {name: bad for name, bad in results.items() if bad} == {}


@pytest.mark.parametrize("situation", ["as I am", "plain user in Docker"])
def test_cheats_lose(situation: str) -> None:
    results = drive("cheats", situation, "some")
    assert len(results) >= 30
    assert {name: bad for name, bad in results.items() if bad} == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["abuse", "cheats"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_attack_in_every_situation(what: str, situation: str) -> None:
    assert {name: bad for name, bad in drive(what, situation, "all").items() if bad} == {}


USE = "from grpo_sandbox import Sandbox; s = Sandbox(); print(s.tier, s.run('print(6 * 7)').stdout)"


@pytest.mark.parametrize("plain", [[], ["--plain"]], ids=["as I am", "plain"])
def test_where_namespaces_are_refused_tier_2_is_found(plain: list[str]) -> None:
    if os.getuid() != 0:
        plain = []
    result = in_situation([*plain, "--docker"], [sys.executable, "-c", USE])
    assert result.stdout == "2 42\n\n", result.stderr


def test_where_nothing_isolates_it_refuses_with_reason_and_remedy() -> None:
    result = in_situation(["--bare"], [sys.executable, "-c", USE])
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "SandboxUnavailable: no isolation can be had here (tier 1: " in last
    assert "unshare: Operation not permitted; tier 2: " in last and "landlock" in last
    assert "Use Linux 5.13 or newer" in last


def test_unsafe_is_explicit_and_recorded() -> None:
    source = (
        "from grpo_sandbox import Sandbox; s = Sandbox(unsafe=True); r = s.run('print(1)')\n"
        "v = s.check('def f(): return 1', 'assert f() == 1', 'f')\n"
        "print(r.stdout.strip(), r.tier, r.unsafe, v.passed, v.unsafe, s.call('', 'f', [()])[0].unsafe)"
    )
    result = in_situation(["--bare"], [sys.executable, "-c", source])
    assert result.stdout == "1 0 True True True True\n", result.stderr


def test_unsafe_changes_nothing_where_isolation_can_be_had() -> None:
    with Sandbox(unsafe=True) as sandbox:
        run = sandbox.run("print(1)")
    assert run.tier in (1, 2) and not run.unsafe
