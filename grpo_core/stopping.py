"""Why a run ends before its last step: somebody asked, or rewards that mostly fail."""

from __future__ import annotations

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from grpo_core.rewards import Outcome
from grpo_core.rubric import Table


class TrainingStopped(Exception):
    """Training cannot go on; the message says why, the last checkpoint is intact."""

    on_every_rank = True


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the step was finished and a checkpoint saved."""

    on_every_rank = True

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class StopRequest:
    """While entered: the first Ctrl-C or SIGTERM is remembered, so that the step can be
    finished and saved; the second stops at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # nobody else may
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.signal:
            raise SystemExit(128 + number)
        self.signal = number
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        self.say(f"{name}: finishing this step, then saving (again: stop at once)")


def check_failures(table: Table, limit: float, step: int) -> None:
    """The circuit breaker: raise TrainingStopped where more than this share of the verdicts
    failed, or of the samples was excluded for it, rather than learn from what is left."""
    rows = list(zip(*table.scores.values(), strict=True))
    judged = [s for row in rows for s in row if s.outcome is not Outcome.abstained]
    without = [s for s in judged if s.outcome is not Outcome.scored]
    failed = [s for s in without if s.outcome is not Outcome.timeout]
    excluded = sum(
        total is None and not {s.outcome for s in row} <= {Outcome.scored, Outcome.abstained}
        for total, row in zip(table.totals, rows, strict=True)
    )
    if len(failed) > limit * len(judged) or excluded > limit * len(rows):
        reasons = Counter(f"{s.outcome.value}: {s.reason}" for s in without).most_common(3)
        listed = "; ".join(f"{number}x {reason}" for reason, number in reasons)
        raise TrainingStopped(
            f"step {step}: {len(failed)} of {len(judged)} scores failed, {excluded} of "
            f"{len(rows)} samples are excluded ({listed}). "
            "Checkpoints are intact; train.max_failures sets the limit"
        )


def check_finite(line: Mapping[str, Any], step: int) -> None:
    """Raise TrainingStopped where the loss or its gradient is no number: nor are the weights."""
    if not math.isfinite(line["loss"] + line["grad_norm"]):
        raise TrainingStopped(
            f"step {step}: the loss is {line['loss']}, its gradient's norm {line['grad_norm']}, and "
            "the weights are spoiled. Checkpoints are intact; try a lower train.learning_rate"
        )
