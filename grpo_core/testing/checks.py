"""All conformance checks, in the order they are run and reported."""

from __future__ import annotations

from grpo_core.testing import conduct, verdicts
from grpo_core.testing.check import Check

CHECKS: tuple[Check, ...] = (
    verdicts.rebuildable,
    verdicts.light,
    verdicts.examples,
    verdicts.count,
    verdicts.order,
    verdicts.independent,
    verdicts.deterministic,
    verdicts.stateless,
    verdicts.in_range,
    verdicts.columns,
    verdicts.abstains,
    verdicts.perfect,
    conduct.chat,
    conduct.leaves_samples,
    conduct.robust,
    conduct.bounded_time,
    conduct.bounded_memory,
    conduct.no_execution,
    conduct.no_network,
    conduct.no_writes,
    conduct.no_traces,
    conduct.any_thread,
)
