"""RewardContract: the conformance checks as tests, one test a check.

>>> class TestBrevity(RewardContract):
...     reward = "brevity"
...     examples = [(Sample("Say nothing.", ""), 1.0)]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from grpo_core.rewards import Reward, Sample, Text
from grpo_core.testing.check import Check, run_check
from grpo_core.testing.checks import CHECKS
from grpo_core.testing.lab import Lab
from grpo_core.testing.report import figures, told


class RewardContract:
    """Subclass it under a name that starts with `Test`, and set `reward`."""

    reward: ClassVar[str | type[Reward]]
    """What a config would say: a registered name, `file.py:name` (relative to the test's
    file), `module:name`; or the class."""

    options: ClassVar[Mapping[str, Any]] = {}
    """The options to test it with."""

    examples: ClassVar[Sequence[tuple[Sample, float | None]]] = ()
    """Samples with the value each must get, None for one it abstains on. The checks
    compare them, so give some with different values. Default: the class's `examples`."""

    waive: ClassVar[Mapping[str, str]] = {}
    """Checks not to run, by name, each with the reason: `{"no_network": "asks a model"}`."""

    def perfect(self, sample: Sample) -> Text | None:
        """The completion that deserves the maximum on this row, None where there is none.

        Not overridden: the reward's own `perfect`, else the usual ways are tried.
        """
        raise NotImplementedError

    _lab: ClassVar[Lab]

    @classmethod
    def setup_class(cls) -> None:
        unknown = set(cls.waive) - {check.name for check in CHECKS}
        if unknown:
            names = ", ".join(check.name for check in CHECKS)
            raise ValueError(f"waive names no check: {', '.join(unknown)} (checks: {names})")
        allowed = {
            what
            for what, check in (("network", "no_network"), ("files", "no_writes"))
            if check in cls.waive
        }
        overridden = cls.perfect is not RewardContract.perfect
        cls._lab = Lab(
            cls.reward,
            cls.options,
            examples=cls.examples,
            perfect=cls().perfect if overridden else None,
            allowed=allowed,
            base_dir=Path(inspect.getfile(cls)).parent,
        )

    @classmethod
    def teardown_class(cls) -> None:
        if "_lab" in cls.__dict__:
            cls._lab.close()

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_contract(self, check: Check) -> None:
        """One check of the contract; see docs/testing-a-reward.md."""
        result = run_check(self._lab, check, self.waive)
        if result.status == "failed":
            pytest.fail(f"{self._lab.name} breaks {check.name!r}\n{told(result)}", pytrace=False)
        if result.status != "passed":
            pytest.skip(f"{check.name}: {result.saw[0]}")

    def test_latency(self, record_property: Callable[[str, object], None]) -> None:
        """Only measures: the figures stand below the results."""
        if not self._lab.can_be_built:
            pytest.skip("it cannot be rebuilt; see rebuildable")
        record_property("grpo_latency", f"{self._lab.name}: {figures(self._lab)}")
