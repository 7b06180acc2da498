"""The same pool on the nodes of a Ray cluster (`Scorer(…, executor="ray")`).

Each worker slot is an actor somewhere in the cluster that runs a pool of one on
its node, so deadlines, kills and charges are exactly those of `pool`. Left to
this module is to hand items to actors, and to hand them out again when a node is
lost: that costs time and is charged to nobody. Every node needs the same Python
environment, and reward files at the same paths.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.scoring.judge import Call, failed
from grpo_core.scoring.pool import Pool
from grpo_core.scoring.recipe import Recipe
from grpo_core.scoring.timing import Running
from grpo_core.scoring.wire import pack_sample, pack_score, unpack_score
from grpo_core.scoring.work import Item, Lane

CALL_S = 0.2
"""Work sent to an actor in one call, in seconds: long against the millisecond a call costs."""
CALLS = 2
"""Calls an actor has at a time, so that one waits when the other is done."""
LISTEN_S = 0.05
LOSSES = 5
"""How many nodes may be lost under one item before it is charged `error`."""

Reply = list[tuple[list[Any], float]]
"""An item's packed scores and the seconds they took, one an item."""


class Judge:
    """The actor: a pool of one worker on its node."""

    def __init__(
        self, lanes: Sequence[tuple[str, Call, float, Recipe, bool]], spares: int, memory_mb: int
    ) -> None:
        self._lanes = [Lane(i, *lane) for i, lane in enumerate(lanes)]
        self._pool = Pool(self._lanes, 1, spares, memory_mb)
        self._pool.start()

    def ready(self) -> None:
        """Returns when the actor has found its node."""

    def judge(self, lane: int, blobs: Sequence[bytes]) -> Reply:
        """Judge items, each the pickled samples of one; all are settled when this returns."""
        basket = _Basket()
        items: list[Item] = []
        for n, blob in enumerate(blobs):
            try:
                samples = [Sample(*fields) for fields in pickle.loads(blob)]
            except Exception as error:
                reason = f"its row cannot be read by a worker: {failed(error).reason}"
                basket.put(str(n), [0], [Score(None, Outcome.error, reason)], 0.0)
                continue
            rows = range(len(basket.samples), len(basket.samples) + len(samples))
            basket.samples += samples
            items.append(Item(basket, str(n), rows))
        basket.expect(len(blobs))
        self._pool.submit(self._lanes[lane], items)
        basket.full.wait()
        return [basket.replies[str(n)] for n in range(len(blobs))]


class _Basket:
    """Collects the verdicts of one call."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.cancelled = False
        self.replies: dict[str, tuple[list[Any], float]] = {}
        self.full = threading.Event()
        self._expected: int | None = None

    def expect(self, count: int) -> None:
        self._expected = count
        self._look()

    def put(self, name: str, rows: Sequence[int], scores: Sequence[Score], seconds: float) -> None:
        self.replies[name] = ([pack_score(score) for score in scores], seconds)
        self._look()

    def _look(self) -> None:
        if len(self.replies) == self._expected:
            self.full.set()


@dataclass(eq=False)
class _Slot:
    """An actor, and the calls it has: by reference, the lane, the items and since when."""

    actor: Any
    starting: Any
    """Its call to `ready`, until that returns: an actor may wait for a node for ever."""
    calls: dict[Any, tuple[Lane, list[Item], float]] = field(default_factory=dict)


class RayPool:
    """Drop-in for `pool.Pool`. Raises RuntimeError when there is no Ray, or no cluster."""

    def __init__(
        self, lanes: Sequence[Lane], workers: int, spares: int = 1, memory_mb: int = 2048
    ) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise RuntimeError(
                "the executor 'ray' needs Ray: pip install 'grpo-core[ray]'"
            ) from None
        self.lanes = lanes
        self._size = workers
        self._arguments = (
            [
                (lane.name, lane.call, lane.deadline_s, lane.recipe, lane.deterministic)
                for lane in lanes
            ],
            spares,
            memory_mb,
        )
        self._slots: list[_Slot] = []
        self._inbox: deque[tuple[Lane, Sequence[Item]]] = deque()
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._false_starts = 0
        self._turn = 0

    # --- called from any thread -----------------------------------------------

    def start(self) -> None:
        """Find the cluster, and start the actors."""
        with self._lock:
            self._open()

    def submit(self, lane: Lane, items: Sequence[Item]) -> None:
        """Have items judged."""
        with self._lock:
            self._open()
            self._inbox.append((lane, items))
        self._bell.set()

    def _open(self) -> None:
        if self._closing:
            raise RuntimeError("this scorer is closed")
        if self._thread is not None:
            return
        if not self._ray.is_initialized():
            try:
                address = os.environ.get("RAY_ADDRESS", "auto")
                self._ray.init(address=address, log_to_driver=False)
            except ConnectionError as error:
                raise RuntimeError(
                    f"no Ray cluster to be found ({error}); start one with `ray start --head`, "
                    "or set RAY_ADDRESS"
                ) from None
        self._thread = threading.Thread(target=self._run, name="grpo-scoring-ray", daemon=True)
        self._thread.start()

    def running(self) -> list[Running]:
        """The calls that actors have now; which sample each is at, they do not say."""
        now = time.monotonic()
        found: list[Running] = []
        for slot in list(self._slots):
            for lane, items, since in list(slot.calls.values()):
                first = items[0].samples[0]
                found.append(Running(lane.name, first, now - since, len(items) - 1))
        return found

    def close(self) -> None:
        """Let the actors go; whatever was still to be judged ends in `error`."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._bell.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- the pool's thread -------------------------------------------------------

    def _run(self) -> None:
        reason = "the scorer was closed"
        try:
            self._slots = [_Slot(*self._actor()) for _ in range(self._size)]
            while not self._closing:
                while self._inbox:
                    lane, items = self._inbox.popleft()
                    lane.queue.extend(items)
                self._assign()
                self._listen()
        except BaseException as error:  # a fault of ours: nobody may be left waiting for it
            reason = f"the scorer failed: {error!r}"
            raise
        finally:
            self._shut_down(reason)

    def _actor(self) -> tuple[Any, Any]:
        remote = self._ray.remote(num_cpus=1, max_concurrency=CALLS, scheduling_strategy="SPREAD")
        actor = remote(Judge).remote(*self._arguments)
        return actor, actor.ready.remote()

    def _assign(self) -> None:
        """Give actors that have room the items that wait, the rewards taking turns."""
        for _ in range(CALLS):
            for slot in self._slots:
                if slot.starting is None and len(slot.calls) < CALLS:
                    self._call(slot)

    def _call(self, slot: _Slot) -> None:
        for _ in self.lanes:
            self._turn = (self._turn + 1) % len(self.lanes)
            lane = self.lanes[self._turn]
            blobs: list[bytes] = []
            items: list[Item] = []
            size = self._call_size(lane)
            while lane.queue and len(items) < size:
                item = lane.queue.popleft()
                if not item.wanted:
                    continue
                try:
                    blobs.append(pickle.dumps([pack_sample(s) for s in item.samples], -1))
                    items.append(item)
                except Exception as error:
                    reason = f"its row cannot be sent to a worker: {failed(error).reason}"
                    item.charge(Outcome.error, reason, 0.0)
            if items:
                reference = slot.actor.judge.remote(lane.id, blobs)
                slot.calls[reference] = (lane, items, time.monotonic())
                return

    def _call_size(self, lane: Lane) -> int:
        cost = lane.cost_s or CALL_S / 16
        fair = -(-len(lane.queue) // (self._size * CALLS))
        return max(1, min(int(CALL_S / max(cost, 1e-5)), fair))

    def _listen(self) -> None:
        waiting = {reference: slot for slot in self._slots for reference in slot.calls}
        busy = bool(waiting) or any(lane.queue for lane in self.lanes)
        waiting |= {slot.starting: slot for slot in self._slots if slot.starting is not None}
        if not busy:
            self._bell.wait()
            self._bell.clear()
            return
        done, _ = self._ray.wait(list(waiting), num_returns=1, timeout=LISTEN_S)
        for reference in done:
            slot = waiting[reference]
            if reference not in slot.calls:
                self._started(slot)
                continue
            lane, items, _ = slot.calls.pop(reference)
            try:
                replies: Reply = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                for item in items:  # a fault of ours, not of the cluster's
                    item.charge(Outcome.error, failed(error).reason, 0.0)
            except self._ray.exceptions.RayError as error:
                self._lost(slot, lane, items, error)
            else:
                self._settle(lane, items, replies)

    def _started(self, slot: _Slot) -> None:
        try:
            self._ray.get(slot.starting)
        except self._ray.exceptions.RayError:
            self._false_starts += 1
            if self._false_starts >= LOSSES:
                raise
            slot.actor, slot.starting = self._actor()
        else:
            self._false_starts = 0
            slot.starting = None

    def _settle(self, lane: Lane, items: Sequence[Item], replies: Reply) -> None:
        for item, (packed, seconds) in zip(items, replies, strict=True):
            item.settle([unpack_score(one) for one in packed], seconds)
            lane.cost_s = seconds if lane.cost_s is None else 0.95 * lane.cost_s + 0.05 * seconds

    def _lost(self, slot: _Slot, lane: Lane, items: Sequence[Item], error: Exception) -> None:
        """An actor is gone, mostly with its node: another takes its place, and its items."""
        for item in reversed(items):
            item.tries += 1
            if item.tries >= LOSSES:
                item.charge(Outcome.error, f"lost with its node, {LOSSES} times: {error}", 0.0)
            else:
                lane.queue.appendleft(item)
        for other_lane, other_items, _ in slot.calls.values():
            other_lane.queue.extendleft(reversed(other_items))
        slot.calls.clear()
        with contextlib.suppress(Exception):  # it is most likely dead
            self._ray.kill(slot.actor)
        slot.actor, slot.starting = self._actor()

    def _shut_down(self, reason: str) -> None:
        with self._lock:
            self._closing = True
        unfinished = [
            item for slot in self._slots for _, items, _ in slot.calls.values() for item in items
        ]
        for slot in self._slots:
            with contextlib.suppress(Exception):
                self._ray.kill(slot.actor)
        for lane, items in self._inbox:
            lane.queue.extend(items)
        for lane in self.lanes:
            unfinished += lane.queue
        for item in unfinished:
            item.charge(Outcome.error, reason, 0.0)
