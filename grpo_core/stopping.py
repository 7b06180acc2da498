"""Why a run ends before its last step: somebody asked, or rewards that mostly fail."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable
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
    """The circuit breaker: raise TrainingStopped where more than this share of the
    verdicts failed, rather than learn from what is left."""
    judged = [s for scores in table.scores.values() for s in scores]
    judged = [s for s in judged if s.outcome is not Outcome.abstained]
    failed = [s for s in judged if s.outcome in (Outcome.error, Outcome.invalid)]
    if judged and len(failed) > limit * len(judged):
        reasons = Counter(f"{s.outcome.value}: {s.reason}" for s in failed).most_common(3)
        listed = "; ".join(f"{number}x {reason}" for reason, number in reasons)
        raise TrainingStopped(
            f"step {step}: {len(failed)} of {len(judged)} scores failed ({listed}). "
            "The last checkpoint is intact; train.max_failures sets the limit"
        )
