"""Says what a batch is waiting for when it has waited for ten seconds.

A warning through `logging` (logger `grpo_core.scoring`), which lands on standard
error where nobody configured it otherwise. Nobody has to ask, and nobody has to
be able to: the caller may be stuck in an inline reward.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from grpo_core.scoring.timing import Running

PATIENCE_S = 10.0

log = logging.getLogger("grpo_core.scoring")


class Waiting(Protocol):
    """A batch, as far as it is watched."""

    news: float
    """When the last verdict came, or when waiting for one began."""
    finished_at: float
    """When its last sample had been added; infinite before."""

    @property
    def pending(self) -> int:
        """Verdicts still to come."""


class Watch:
    """One sleeping thread while anything is being judged, none before.

    `running` says what is being judged now, longest first.
    """

    def __init__(
        self, running: Callable[[], list[Running]], patience_s: float = PATIENCE_S
    ) -> None:
        self._running = running
        self._patience_s = patience_s
        self._batches: weakref.WeakKeyDictionary[Waiting, float] = weakref.WeakKeyDictionary()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def over(self, batch: Waiting) -> None:
        """Watch a batch until nothing of it is pending."""
        with self._wake:
            self._batches[batch] = self._patience_s
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="grpo-watch", daemon=True)
                self._thread.start()
            elif len(self._batches) == 1:
                self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _run(self) -> None:
        with self._wake:
            while not self._closed:
                self._wake.wait(self._patience_s / 5 if self._batches else None)
                now = time.monotonic()
                for batch, patience in list(self._batches.items()):
                    waited = now - min(batch.news, batch.finished_at)
                    if not batch.pending:
                        del self._batches[batch]
                    elif waited >= patience * 0.8:  # the next look would come too late
                        self._batches[batch] = 2 * patience
                        log.warning(self._message(batch, waited))

    def _message(self, batch: Waiting, waited: float) -> str:
        running = self._running()
        now = ", ".join(map(str, running[:3])) or "no reward; workers are starting"
        more = f" and {len(running) - 3} more" if len(running) > 3 else ""
        return (
            f"scoring has taken {waited:.0f} s, {batch.pending} verdicts to come; "
            f"waiting for {now}{more}"
        )
