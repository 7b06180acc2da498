"""Rewards that run in this process, in the caller's thread: trusted and cheap.

No deadline can be enforced on them: nothing can stop a thread. What they return
or raise is treated as in a worker.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from grpo_core.rewards import Reward, Sample, Score
from grpo_core.scoring import judge
from grpo_core.scoring.timing import Running


class Inline:
    """Judges here and now; `running` tells other threads at what."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[str, Sample, float]] = {}

    def judge(
        self, name: str, reward: Reward, call: judge.Call, samples: Sequence[Sample]
    ) -> tuple[list[Score], list[float]]:
        """A score a sample, and the seconds each took. With `Call.group` the samples
        are one group."""
        me = threading.get_ident()
        clock, at = time.monotonic, self._at
        started = clock()
        try:
            if call in (judge.Call.group, judge.Call.bulk):
                at[me] = (name, samples[0], started)
                how = judge.judge_together if call is judge.Call.group else judge.judge_bulk
                try:
                    scores = how(reward, samples, _wait)
                except MemoryError as error:
                    scores = [judge.failed(error)] * len(samples)
                return scores, [(clock() - started) / len(samples)] * len(samples)
            scores, seconds = [], []
            for sample in samples:
                at[me] = (name, sample, started)
                try:
                    scores.append(judge.judge_one(reward, sample, _wait))
                except MemoryError as error:
                    scores.append(judge.failed(error))
                now = clock()
                seconds.append(now - started)
                started = now
            return scores, seconds
        finally:
            at.pop(me, None)

    def running(self) -> list[Running]:
        now = time.monotonic()
        return [Running(name, sample, now - since) for name, sample, since in [*self._at.values()]]


def _wait(awaitable: Awaitable[Any]) -> Any:
    """Run a coroutine on a loop of its own: the caller's may be running already."""

    async def later() -> Any:
        return await awaitable

    with _LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="grpo-inline", daemon=True).start()
            _LOOPS.append(loop)
    return asyncio.run_coroutine_threadsafe(later(), _LOOPS[0]).result()


_LOOPS: list[asyncio.AbstractEventLoop] = []
_LOCK = threading.Lock()
