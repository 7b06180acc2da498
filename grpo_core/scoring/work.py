"""What the pool handles: items, the lane of each reward, chunks, and workers that judge them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.scoring.judge import Call
from grpo_core.scoring.process import WorkerProcess
from grpo_core.scoring.recipe import Recipe
from grpo_core.scoring.wire import RESTING, frame

CHUNK_S = 0.02
"""Work sent to a worker at a time, in seconds: long against the 0.2 ms it costs to send."""
FIRST_CHUNK = 16
LARGEST_CHUNK = 256
AT_ONCE = 64
"""Samples of an `async` reward that one worker awaits together."""


class Owner(Protocol):
    """Whoever asked for verdicts (`batch.Batch`)."""

    samples: list[Sample]
    cancelled: bool
    """Nobody waits for its verdicts any more."""

    def put(self, name: str, rows: Sequence[int], scores: Sequence[Score], seconds: float) -> None:
        """Take the verdicts of one item. Called from the pool's thread; returns at once."""


class Item:
    """One thing to judge: a sample, or a whole group, for one reward."""

    __slots__ = ("_name", "_owner", "_rows", "done", "fresh", "tries")

    def __init__(self, owner: Owner, name: str, rows: Sequence[int]) -> None:
        self._owner = owner
        self._name = name
        self._rows = rows
        self.done = False
        self.tries = 0
        self.fresh = False
        """To be judged in a worker that has judged nothing."""

    @property
    def samples(self) -> list[Sample]:
        samples = self._owner.samples
        return [samples[row] for row in self._rows]

    @property
    def wanted(self) -> bool:
        return not self.done and not self._owner.cancelled

    def settle(self, scores: Sequence[Score], seconds: float) -> None:
        if not self.done:
            self.done = True
            self._owner.put(self._name, self._rows, scores, seconds)

    def charge(self, outcome: Outcome, reason: str, seconds: float) -> None:
        self.settle([Score(None, outcome, reason)] * len(self._rows), seconds)


@dataclass(eq=False)
class Lane:
    """One reward's way through the pool."""

    id: int
    """Its place in the pool's list of lanes."""
    name: str
    call: Call
    deadline_s: float
    recipe: Recipe
    deterministic: bool = True
    queue: deque[Item] = field(default_factory=deque)
    alone: deque[Item] = field(default_factory=deque)
    """To be judged in a chunk of their own; those marked `fresh` in a new worker."""
    cost_s: float | None = None
    """Seconds a sample, a moving average."""
    broken: str = ""
    """Why workers cannot make this reward, if they cannot."""
    broken_at: float = 0.0
    failed_builds: int = 0
    """Workers that died over it since one last did not."""
    warm: bytes | None = None
    """A sample that was judged without trouble, for new workers to warm up on."""

    @property
    def waits(self) -> bool:
        """Whether anything is to be judged."""
        return bool(self.queue or self.alone)

    @property
    def is_async(self) -> bool:
        """Whether its samples wait rather than compute."""
        return self.call is Call.concurrent

    def chunk_size(self, workers: int) -> int:
        if self.call is Call.group:
            return 1
        if self.call is Call.concurrent:
            size = AT_ONCE
        elif self.cost_s is None:
            size = FIRST_CHUNK
        else:
            # A function that judges in bulk may have a dear call and cheap samples:
            # small chunks would make it slow, so only the deadline bounds them.
            aim = self.deadline_s / 4 if self.call is Call.bulk else CHUNK_S
            size = int(aim / max(self.cost_s, 1e-6))
        fair = -(-len(self.queue) // workers)
        return max(1, min(size, fair, LARGEST_CHUNK))


@dataclass(eq=False)
class Chunk:
    serial: int
    lane: Lane
    items: list[Item]
    sent_at: float
    open: set[int]
    """Items still expected of this worker."""


class Worker:
    """A process and what it is at."""

    def __init__(self, memory_mb: int, lanes: Sequence[Lane]) -> None:
        self.process = WorkerProcess(memory_mb)
        self.to_build = [lane for lane in lanes if not lane.broken]
        self.lacks = {lane.id for lane in lanes if lane.broken}
        """Rewards it does not have."""
        self.chunk: Chunk | None = None
        self.fresh = True
        """It has judged nothing yet."""
        self.started = time.monotonic()
        for lane in self.to_build:
            self.process.send(frame(("build", lane.id, lane.recipe, lane.warm)))

    @property
    def ready(self) -> bool:
        return not self.to_build

    @property
    def idle(self) -> bool:
        return self.ready and self.chunk is None

    def at(self) -> tuple[int, float]:
        """Which item of its chunk it is at, and since when."""
        assert self.chunk is not None, "it has a chunk"
        serial, index, since = self.process.heartbeat.read()
        return (index, since) if serial == self.chunk.serial else (RESTING, self.chunk.sent_at)
