"""Ends a run everywhere when one of its processes fails, dies or stalls.

Each rank says once a second what it is at; rank 0 reads them all and decides, everybody
reads what it decided. From a thread: the main one may be in a collective that never
returns. Left out: starting anew, which is the scheduler's (`grpo train --resume`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

BEAT_S = 1.0
LOST_S = 20.0
"""A rank that has said nothing for so long is taken for dead."""
EXIT_CODE = 1
STARTING = "starting"
"""Until the first phase: a model may take long to load."""


class State(NamedTuple):
    """What one rank says of itself."""

    beat: int
    """How often it has spoken."""
    phase: str
    idle_s: float
    """Since it last made progress."""
    waiting: bool
    """For the other ranks, and nothing else."""
    busy: bool
    """With something that may take any time."""


class Watch:
    """The heartbeat of one rank."""

    def __init__(self, store: Any, rank: int, world: int, stall_s: float) -> None:
        self.store, self.rank, self.world, self.stall_s = store, rank, world, stall_s
        self._news: Callable[[], float] = lambda: 0.0
        self._doing: Callable[[], str] = lambda: ""
        self._phase, self._last = STARTING, time.monotonic()
        self._waiting = False
        self._closed = threading.Event()
        self._busy = 0
        self._beats = 0
        self._thread = threading.Thread(target=self._run, name="grpo-watch", daemon=True)

    def start(self) -> None:
        """Begin to speak and to listen."""
        self._say()
        self._thread.start()

    def close(self) -> None:
        """Stop. A thread that is left in the store's code when Python ends aborts it."""
        self._closed.set()
        self._thread.join(5 * BEAT_S)

    # --- what the main thread says ----------------------------------------------

    def follow(self, news: Callable[[], float], doing: Callable[[], str]) -> None:
        """Where else to look: `news` says when (`time.monotonic`) there was progress, as a
        verdict; `doing` what exactly is being done, for the reason of a stall."""
        self._news, self._doing = news, doing

    def enter(self, phase: str) -> None:
        self._phase = phase
        self.tick()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def tick(self) -> None:
        self._last = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
            self.tick()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        before = self._phase
        self._busy += 1
        self._phase = what
        try:
            yield
        finally:
            self._busy -= 1
            self.enter(before)

    def fail(self, error: BaseException) -> None:
        """Tell the others why this rank leaves."""
        if _is_of_a_peer(error):  # somebody else's end: hear whose
            with self.waiting():
                time.sleep(LOST_S + 5 * BEAT_S)
        self._decide(f"rank {self.rank} failed in phase {self._phase!r}: {_text(error)}")
        self.close()
        self._heard()

    # --- the thread ---------------------------------------------------------------

    def _run(self) -> None:
        seen: dict[int, tuple[int, float]] = {}
        while not self._closed.wait(BEAT_S):
            try:
                self._say()
                if self.rank == 0 and (reason := self._verdict(seen)):
                    self._decide(reason)
                if self.store.check(["end"]):
                    self._end(self.store.get("end").decode())
            except RuntimeError:
                if not self._closed.wait(2 * BEAT_S):  # else it is just the end of the run
                    self._end("rank 0 is gone without a word (killed?)")

    def _say(self) -> None:
        self._beats += 1
        idle = time.monotonic() - max(self._last, self._news())
        phase = self._phase
        if idle > self.stall_s and (doing := self._doing()):
            phase = f"{phase} ({doing})"
        busy = self._busy > 0 or self._phase == STARTING
        said = State(self._beats, phase, idle, self._waiting, busy)
        self.store.set(f"rank-{self.rank}", json.dumps(said))

    def _verdict(self, seen: dict[int, tuple[int, float]]) -> str | None:
        """Why the run must end; None while it need not. `seen` keeps who spoke when."""
        keys = [f"rank-{rank}" for rank in range(self.world)]
        if not self.store.check(keys):  # somebody has not begun
            return None
        now = time.monotonic()
        states = [State(*json.loads(said)) for said in self.store.multi_get(keys)]
        for rank, state in enumerate(states):
            if seen.get(rank, (0, now))[0] != state.beat:
                seen[rank] = (state.beat, now)
        return judge(states, [now - seen[rank][1] for rank in range(self.world)], self.stall_s)

    def _decide(self, reason: str) -> None:
        """Make a reason known, unless there is one already."""
        try:
            self.store.compare_set("end", "", reason)
        except RuntimeError:  # rank 0, who held the store, is gone and its own reason with it
            print(f"grpo: {reason}", file=sys.stderr, flush=True)

    def _end(self, reason: str) -> None:
        if reason.startswith(f"rank {self.rank} failed"):
            return  # its own exception says it
        shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar hid the cursor
        print(
            f"{shown}grpo: rank {self.rank} of {self.world} ends: {reason}. "
            "The last checkpoint is intact; go on with --resume",
            file=sys.stderr,
            flush=True,
        )
        self._heard()
        os._exit(EXIT_CODE)

    def _heard(self) -> None:
        """Say that this rank knows why; rank 0 holds the store and goes when all others do."""
        with contextlib.suppress(RuntimeError):  # the store is gone
            if self.rank != 0:
                self.store.add("heard", 1)
                return
            deadline = time.monotonic() + 5 * BEAT_S
            while time.monotonic() < deadline and self.store.add("heard", 0) < self.world - 1:
                time.sleep(0.1)


def judge(states: Sequence[State], silent_s: Sequence[float], stall_s: float) -> str | None:
    """Why a run must end, from what its ranks last said and how long they have been silent.

    A rank is lost when it has been silent for LOST_S. The run is stalled when every rank
    waits for the others or has made no progress for `stall_s`, and not all of them wait.
    """
    for rank, (state, silent) in enumerate(zip(states, silent_s, strict=True)):
        if silent > LOST_S:
            return (
                f"rank {rank} is gone without a word (killed?), "
                f"last heard of {silent:.0f} s ago in phase {state.phase!r}"
            )
    if any(state.busy for state in states):
        return None
    still = {r: s for r, s in enumerate(states) if not s.waiting and s.idle_s > stall_s}
    if not still or any(not s.waiting and r not in still for r, s in enumerate(states)):
        return None
    return _stalled(still, stall_s)


def _stalled(still: Mapping[int, State], stall_s: float) -> str:
    listed = "; ".join(
        f"rank {rank} has made no progress for {state.idle_s:.0f} s in phase {state.phase!r}"
        for rank, state in list(still.items())[:4]
    )
    more = f" and {len(still) - 4} more" if len(still) > 4 else ""
    return f"{listed}{more} (train.stall_s and deadlines allow {stall_s:.0f} s)"


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed, most likely because of another rank."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
