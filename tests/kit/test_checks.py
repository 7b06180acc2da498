"""Every check can fail, and fails for what it is there for; good rewards pass them all."""

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


@pytest.mark.parametrize("name", BAD.BAD)
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
    others = {"light"}  # needs a module of its own; see below
    assert check.name in others or any(BAD.checks(name) is check for name in BAD.BAD)


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("GoodInBulk", "GoodInline", "GoodAsync", "GoodRandom")
]


@pytest.mark.parametrize("name", ["Good", "GoodGroup", "good_function", *SLOW])
def test_a_good_reward_passes(name, lab):
    assert failures(lab(name)) == {}
