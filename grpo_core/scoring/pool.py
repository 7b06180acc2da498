"""The pool: who judges what when, and what becomes of it when a worker does not return.

One thread owns all workers and all queues; every other thread only leaves work
in its inbox. So scoring may be called from anywhere, and no caller's mood can
delay a deadline. The rules, in one place:

- Work goes out in chunks sized to about 20 ms; the worker's heartbeat tells
  which sample of a chunk is being judged, and since when.
- A sample that overruns its deadline is charged `timeout`, and its worker is
  killed. When a whole chunk overran in one call, nobody is charged: its samples
  are judged again one by one.
- When a worker dies or runs out of memory, the sample it was at is judged again,
  alone, in a worker that has judged nothing before; if that one dies too, the
  sample is charged `error`. The rest of the chunk goes back into the queue.
- When a sample takes long, the rest of its chunk is given to other workers.

Left out: inline rewards (`inline`), tables (`batch`), the process itself (`process`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Sequence

from grpo_core.rewards import Outcome
from grpo_core.scoring.judge import Call, failed
from grpo_core.scoring.process import WorkerProcess
from grpo_core.scoring.switchboard import Switchboard
from grpo_core.scoring.timing import Running
from grpo_core.scoring.wire import RESTING, WHOLE, frame, pack_sample, unpack_score
from grpo_core.scoring.work import AT_ONCE, Chunk, Item, Lane, Worker

ASYNC_SLOTS = 4
"""Workers that rewards which wait on a network may use beside the others: they need no core."""
STALL_S = 0.05
"""A sample that takes longer has the rest of its chunk given to others."""
BUILD_S = 60.0
"""What importing and making one reward may take."""
MEND_S = 10.0
"""How long a reward that workers could not make is not tried again."""
SILENCE_S = 30.0
"""What a worker may take to read a chunk before it is given up."""
MAX_TRIES = 3
MAX_FALSE_STARTS = 10


class Pool:
    """`workers` samples judged at a time, at most; `spares` more processes kept warm.

    Nothing is started before `start` or the first `submit`.
    """

    def __init__(
        self, lanes: Sequence[Lane], workers: int, spares: int = 1, memory_mb: int = 2048
    ) -> None:
        self.lanes = lanes
        self._size = workers
        self._spares = spares
        self._memory_mb = memory_mb
        self._workers: list[Worker] = []
        self._dying: list[WorkerProcess] = []
        self._inbox: deque[tuple[Lane, Sequence[Item]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._closing = False
        self._eager = False
        self._suspects = 0
        self._false_starts = 0
        self._serial = 0
        self._turn = 0
        self._crash: BaseException | None = None

    # --- called from any thread -------------------------------------------------

    def start(self) -> None:
        """Start all workers, and the spares, before there is work."""
        with self._lock:
            self._eager = True
            self._open()
        self._switchboard.ring()

    def submit(self, lane: Lane, items: Sequence[Item]) -> None:
        """Have items judged; starts as many workers as they need."""
        with self._lock:
            self._open()
            self._inbox.append((lane, items))
        self._switchboard.ring()

    def _open(self) -> None:
        if self._closing:
            raise RuntimeError(
                f"this scorer is closed{f': {self._crash!r}' if self._crash else ''}"
            )
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "this scorer was started in the process that this one was forked from; "
                "make another here"
            )
        if self._thread is None:
            self._process = os.getpid()
            self._switchboard = Switchboard()
            self._thread = threading.Thread(target=self._run, name="grpo-scoring", daemon=True)
            self._thread.start()

    def running(self) -> list[Running]:
        """What the workers are at now."""
        now = time.monotonic()
        found: list[Running] = []
        for worker in list(self._workers):
            chunk = worker.chunk
            if chunk is None:
                continue
            with contextlib.suppress(ValueError):  # its heartbeat was closed under us
                index, since = worker.at()
                samples = [sample for item in chunk.items for sample in item.samples]
                if index >= 0:
                    samples = [samples[index]]
                more = len(samples) - 1
                found.append(Running(chunk.lane.name, samples[0], now - since, more))
        return found

    def close(self) -> None:
        """Kill all workers; whatever was still to be judged ends in `error`."""
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._switchboard.ring()
            thread.join()

    # --- the pool's thread ---------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._collect()
                self._staff()
                self._assign()
                heard = self._listen()
                self._check(heard)
        except BaseException as error:  # a fault of ours: nobody may be left waiting for it
            self._crash = error
            raise
        finally:
            self._shut_down()

    def _collect(self) -> None:
        while self._inbox:
            lane, items = self._inbox.popleft()
            lane.queue.extend(items)
            if lane.broken and time.monotonic() - lane.broken_at > MEND_S:
                lane.broken = ""  # perhaps a disk was away, or memory short: try anew
            if lane.broken:
                self._give_up(lane)

    def _staff(self) -> None:
        """Start and let go workers until there are as many as are needed."""
        self._dying = [process for process in self._dying if not process.dead]
        for lane in self.lanes:
            if lane.waits and all(lane.id in worker.lacks for worker in self._workers):
                for worker in [worker for worker in self._workers if worker.idle][:1]:
                    self._dismiss(worker)  # its place is for one that can judge this
        free_slots, free_async = self._free_slots()
        waiting = {True: 0, False: 0}
        for lane in self.lanes:
            size = AT_ONCE if lane.is_async else 1
            waiting[lane.is_async] += -(-len(lane.queue) // size) + len(lane.alone)
        busy = sum(worker.chunk is not None for worker in self._workers)
        needed = busy + (free_slots if self._eager else min(free_slots, waiting[False]))
        needed += min(free_async, waiting[True])
        if needed and not any(worker.to_build for worker in self._workers):
            needed += max(self._suspects, self._spares if self._eager else 0)
        if any(lane.alone and lane.alone[0].fresh for lane in self.lanes) and not any(
            worker.fresh and worker.chunk is None for worker in self._workers
        ):
            used = [worker for worker in self._workers if worker.idle]
            if used and len(self._workers) >= self._size + self._spares:
                self._dismiss(used[0])
            needed = max(needed, len(self._workers) + 1)
        most = 2 * self._size + ASYNC_SLOTS + 1
        for _ in range(min(needed, most) - len(self._workers)):
            try:
                worker = Worker(self._memory_mb, self.lanes)
            except OSError:
                if not self._workers:
                    raise
                break  # no memory or descriptors for another now; make do with those we have
            self._workers.append(worker)
            self._switchboard.add(worker)

    def _free_slots(self) -> tuple[int, int]:
        """How many more chunks may be judged now: of others, of async rewards."""
        busy = [worker.chunk.lane.is_async for worker in self._workers if worker.chunk is not None]
        return self._size - busy.count(False), ASYNC_SLOTS - busy.count(True)

    def _assign(self) -> None:
        while self._assign_one():
            pass

    def _assign_one(self) -> bool:
        """Give one idle worker one chunk, the rewards taking turns."""
        idle = [worker for worker in self._workers if worker.idle]
        if not idle:
            return False
        idle.sort(key=lambda worker: worker.fresh)  # keep the unused ones in reserve
        free_slots, free_async = self._free_slots()
        for _ in self.lanes:
            self._turn = (self._turn + 1) % len(self.lanes)
            lane = self.lanes[self._turn]
            if (free_async if lane.is_async else free_slots) <= 0:
                continue
            able = [worker for worker in idle if lane.id not in worker.lacks]
            while lane.alone and able:
                worker = able[-1] if lane.alone[0].fresh else able[0]
                if lane.alone[0].fresh and not worker.fresh:
                    break  # `_staff` is getting one
                item = lane.alone.popleft()
                if item.wanted and self._hand(worker, lane, [item]):
                    return True
            while lane.queue and able:
                size = lane.chunk_size(self._size)
                taken = [lane.queue.popleft() for _ in range(size)]
                items = [item for item in taken if item.wanted]
                if items and self._hand(able[0], lane, items):
                    return True
        return False

    def _hand(self, worker: Worker, lane: Lane, items: list[Item]) -> bool:
        """Give a worker a chunk. False when nothing is left to be done for it: one row that
        cannot be sent is an error, several are set apart, to be tried one by one."""
        samples = [sample for item in items for sample in item.samples]
        try:
            blob = pickle.dumps([pack_sample(sample) for sample in samples], -1)
        except Exception as error:
            if len(items) > 1:
                lane.alone.extend(items)
                return True
            reason = f"its row cannot be sent to a worker: {failed(error).reason}"
            items[0].charge(Outcome.error, reason, 0.0)
            return False
        self._serial += 1
        now = time.monotonic()
        worker.chunk = Chunk(self._serial, lane, items, now, set(range(len(items))))
        worker.fresh = False
        worker.process.heartbeat.limit = float(len(items))
        message = ("judge", self._serial, lane.id, lane.call, lane.deadline_s, blob)
        worker.process.send(frame(message))
        return True

    # --- hearing from workers ----------------------------------------------------

    def _listen(self) -> set[Worker]:
        """Wait for news, at most until a deadline may have passed; who had some."""
        heard: set[Worker] = set()
        for worker, messages, ended in self._switchboard.listen(self._workers, self._patience()):
            heard.add(worker)
            for message in messages:
                self._hear(worker, *message)
            if ended and worker in self._workers:
                self._died(worker, worker.process.how_it_died())
        return heard

    def _patience(self) -> float | None:
        """Seconds until somebody may have overrun; None when nobody can."""
        waits = [STALL_S] if self._dying else []
        now = time.monotonic()
        for worker in self._workers:
            if worker.to_build:
                waits.append(STALL_S)
            elif worker.chunk is not None:
                _, since = worker.at()
                left = since + worker.chunk.lane.deadline_s - now
                waits.append(min(max(left, 0.001), STALL_S))
        return min(waits, default=None)

    def _hear(self, worker: Worker, kind: str, *rest: object) -> None:
        if kind == "built":
            self._built(worker, *rest)  # type: ignore[arg-type]
            return
        chunk = worker.chunk
        assert chunk is not None and chunk.serial == rest[0], "a worker answers what it was asked"
        if kind == "unreadable":
            worker.chunk = None
            self._unreadable(chunk, str(rest[1]))
            return
        self._verdicts(chunk, rest[1])  # type: ignore[arg-type]
        if kind == "done":
            worker.chunk = None
            chunk.lane.queue.extendleft(chunk.items[i] for i in sorted(chunk.open, reverse=True))
        elif kind == "memory":
            reason = f"out of memory (a worker may have {self._memory_mb} MB)"
            self._died(worker, reason, index=rest[2])  # type: ignore[arg-type]

    def _verdicts(self, chunk: Chunk, verdicts: Sequence[tuple[int, object, float]]) -> None:
        lane = chunk.lane
        if lane.call is Call.group and verdicts:
            seconds = sum(verdict[2] for verdict in verdicts)
            chunk.open.discard(0)
            chunk.items[0].settle([unpack_score(packed) for _, packed, _ in verdicts], seconds)
            return
        total = 0.0
        for i, packed, seconds in verdicts:
            total += seconds
            chunk.open.discard(i)
            chunk.items[i].settle((unpack_score(packed),), seconds)
        if verdicts:
            mean = total / len(verdicts)
            lane.cost_s = mean if lane.cost_s is None else 0.7 * lane.cost_s + 0.3 * mean
            if lane.warm is None and lane.deterministic and mean < 1.0:
                sample = chunk.items[verdicts[0][0]].samples[0]
                lane.warm = pickle.dumps(pack_sample(sample), -1)

    def _unreadable(self, chunk: Chunk, reason: str) -> None:
        if len(chunk.items) == 1:
            why = f"its row cannot be read by a worker: {reason}"
            chunk.items[0].charge(Outcome.error, why, 0.0)
        else:
            chunk.lane.alone.extend(chunk.items)

    def _built(self, worker: Worker, lane_id: int, reason: str) -> None:
        lane = worker.to_build.pop(0)
        assert lane.id == lane_id, "rewards are built in order"
        worker.started = time.monotonic()
        self._false_starts = lane.failed_builds = 0
        if reason:
            self._break(lane, reason)
            worker.lacks.add(lane.id)

    def _break(self, lane: Lane, reason: str) -> None:
        lane.broken = f"a worker cannot make this reward: {reason}"
        lane.broken_at = time.monotonic()
        lane.failed_builds = 0
        self._give_up(lane)

    def _give_up(self, lane: Lane) -> None:
        for item in (*lane.queue, *lane.alone):
            item.charge(Outcome.error, lane.broken, 0.0)
        lane.queue.clear()
        lane.alone.clear()

    # --- when they do not return -----------------------------------------------------

    def _check(self, heard: set[Worker]) -> None:
        """Enforce deadlines, on every worker that had nothing to say."""
        self._suspects = 0
        for worker in list(self._workers):
            if worker in heard or worker not in self._workers:
                continue
            if worker.process.dead:  # and a child of its own keeps the socket open
                self._died(worker, worker.process.how_it_died())
                continue
            if worker.to_build:
                if time.monotonic() - worker.started > BUILD_S:
                    self._died(worker, f"took more than {BUILD_S:g} s")
                continue
            chunk = worker.chunk
            if chunk is None:
                continue
            index, since = worker.at()
            took = time.monotonic() - since
            limit = chunk.lane.deadline_s
            if index == RESTING:
                limit = max(limit, SILENCE_S)
            if took > limit:
                self._overran(worker, chunk, index, took)
                continue
            if took > max(STALL_S, limit / 4):
                self._suspects += 1
            if index >= 0 and took > STALL_S and chunk.lane.call is Call.single:
                self._recall(worker, chunk, index)

    def _recall(self, worker: Worker, chunk: Chunk, index: int) -> None:
        """Give what comes after a slow sample to other workers. The worker may have
        moved on just now; then one sample is judged twice and the first verdict counts."""
        rest = sorted(i for i in chunk.open if i > index)
        if rest:
            worker.process.heartbeat.limit = float(index + 1)
            chunk.open.difference_update(rest)
            chunk.lane.queue.extendleft(chunk.items[i] for i in reversed(rest))

    def _overran(self, worker: Worker, chunk: Chunk, index: int, took: float) -> None:
        self._dismiss(worker)
        lane = chunk.lane
        if index == WHOLE:
            lane.cost_s = max(lane.cost_s or 0.0, took / len(chunk.items))
        for i in sorted(chunk.open, reverse=True):
            item = chunk.items[i]
            if index == RESTING:
                self._try_again(lane, item, "its worker did not answer")
            elif i == index or len(chunk.items) == 1:
                reason = f"no verdict within {lane.deadline_s:g} s"
                item.charge(Outcome.timeout, reason, took)
            elif index == WHOLE:
                lane.alone.appendleft(item)
            else:
                lane.queue.appendleft(item)

    def _died(self, worker: Worker, reason: str, index: int | None = None) -> None:
        """A worker is gone by itself. What it was at is tried once more, alone and in a
        new worker, before it is charged; what it had not begun goes back."""
        at = None
        if worker.chunk is not None:
            at, _ = worker.at()
        chunk, building = worker.chunk, worker.to_build
        begun = worker.process.heartbeat.read()[2] > 0
        self._dismiss(worker)
        if building:
            self._died_building(building[0], reason, begun)
        if chunk is None:
            return
        at = at if index is None else index
        lane = chunk.lane
        for i in sorted(chunk.open, reverse=True):
            item = chunk.items[i]
            if i == at or (at == WHOLE and len(chunk.items) == 1):
                if item.fresh:
                    item.charge(Outcome.error, reason, 0.0)
                else:
                    item.fresh = True
                    lane.alone.appendleft(item)
            elif at == WHOLE:
                lane.alone.appendleft(item)
            elif at == RESTING:
                self._try_again(lane, item, reason)
            else:
                lane.queue.appendleft(item)

    def _died_building(self, lane: Lane, reason: str, begun: bool) -> None:
        if begun:
            lane.failed_builds += 1
            if lane.failed_builds >= MAX_TRIES:
                self._break(lane, reason)
            return
        self._false_starts += 1  # no reward's fault: Python itself did not come up
        if self._false_starts >= MAX_FALSE_STARTS:
            self._false_starts = 0
            for lane in self.lanes:
                if lane.waits:
                    self._break(lane, f"no worker process comes up: {reason}")

    def _try_again(self, lane: Lane, item: Item, reason: str) -> None:
        item.tries += 1
        if item.tries >= MAX_TRIES:
            item.charge(Outcome.error, f"{reason}, {MAX_TRIES} times", 0.0)
        else:
            lane.alone.appendleft(item)

    def _dismiss(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._switchboard.remove(worker)
        worker.process.kill()
        self._dying.append(worker.process)

    def _shut_down(self) -> None:
        with self._lock:
            self._closing = True
        unfinished = [item for w in self._workers if w.chunk is not None for item in w.chunk.items]
        for worker in list(self._workers):
            self._dismiss(worker)
        for process in self._dying:
            process.wait(5.0)
        self._collect()
        reason = f"the scorer failed: {self._crash!r}" if self._crash else "the scorer was closed"
        for lane in self.lanes:
            unfinished += [*lane.queue, *lane.alone]
        for item in unfinished:
            item.charge(Outcome.error, reason, 0.0)
        self._switchboard.close()
