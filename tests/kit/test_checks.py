"""Every check can fail, and fails for what it is there for; good rewards pass them all."""

import sys
from pathlib import Path

import pytest

from grpo_core.testing import CHECKS, Lab
from grpo_core.testing.check import run_check
from grpo_core.testing.report import told

HERE = Path(__file__).parent


@pytest.fixture
def lab():
    """Labs for rewards of `bad.py`, by name; closed at the end."""
    labs = []

    def make(name, **arguments):
        labs.append(Lab(f"bad.py:{name}", base_dir=HERE, **arguments))
        return labs[-1]

    yield make
    for one in labs:
        one.close()


def bad():
    import importlib.util

    spec = importlib.util.spec_from_file_location("kit_bad_rewards", HERE / "bad.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BAD = bad()


def failures(lab):
    results = [run_check(lab, check, {}) for check in CHECKS]
    return {result.check.name: result.saw for result in results if result.status == "failed"}


FIRST = {BAD.checks(name).name: name for name in reversed(BAD.BAD)}
"""One bad reward a check; what the others break is seen by the slow test."""


@pytest.mark.parametrize("name", sorted(FIRST.values()))
def test_the_check_that_it_is_named_after_fails(name, lab):
    check = BAD.checks(name)
    options = dict(getattr(getattr(BAD, name), "options_to_test", ()))
    result = run_check(lab(name, options=options), check, {})
    assert result.status == "failed", result
    text = told(result)
    assert f"did   {check.did}" in text and f"why   {check.why}" in text and result.saw[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD.BAD)
def test_no_other_check_fails(name, lab):
    options = dict(getattr(getattr(BAD, name), "options_to_test", ()))
    assert [*failures(lab(name, options=options))] == [BAD.checks(name).name]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_has_a_reward_that_breaks_it(check):
    assert check.name in {*FIRST, "light"}


def test_importing_a_heavy_library_is_seen(tmp_path, monkeypatch):
    (tmp_path / "sympy.py").write_text("")
    (tmp_path / "heavy.py").write_text(
        "import sympy\ndef f(prompts, completions): return [1.0] * len(prompts)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sympy"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        with Lab("heavy.py:f", base_dir=tmp_path) as lab:
            assert failures(lab) == {"light": ("importing it loads sympy",)}
    finally:
        sys.modules.pop("sympy", None)  # not the real one, which the next tests may want


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("GoodInBulk", "GoodInline", "GoodAsync", "GoodRandom", "good_function")
]


@pytest.mark.parametrize("name", ["Good", "GoodGroup", *SLOW])
def test_a_good_reward_passes(name, lab):
    assert failures(lab(name)) == {}
