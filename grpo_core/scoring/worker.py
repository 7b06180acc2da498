"""The worker: a child process that builds rewards and judges what it is sent.

Started by `process.WorkerProcess`, never by hand. It imports no torch unless a
reward does, dies with its parent, and is killed without ceremony: whatever
matters has been sent before. Left out: deadlines (the parent kills) and what
becomes of a sample whose worker died (`pool`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from grpo_core.rewards import Outcome, Reward, Sample, Score
from grpo_core.scoring import judge
from grpo_core.scoring.imports import ImportClock
from grpo_core.scoring.recipe import Recipe
from grpo_core.scoring.wire import RESTING, WHOLE, Heartbeat, frame, pack_score, receive

if TYPE_CHECKING:
    import asyncio

FLUSH_S = 0.01
"""Verdicts wait at most about this long before they are sent, so little is lost with a worker."""

building = False
"""True while a reward's module is imported; a scorer refuses to start then (see `Scorer`)."""

Verdict = tuple[int, Any, float]
"""Index in the chunk, packed score, seconds it took."""


def main(socket_fd: int, heartbeat_fd: int, memory_mb: int, parent: int) -> NoReturn:
    """Serve until the parent hangs up."""
    die_with(parent)
    limit_memory(memory_mb)
    judge.NOT_OURS = ()
    for fd in (socket_fd, heartbeat_fd):
        os.set_inheritable(fd, False)  # programs a reward starts must not hold them open
    heartbeat = Heartbeat(heartbeat_fd)
    ImportClock(heartbeat).install()
    worker = Worker(socket.socket(fileno=socket_fd), heartbeat)
    try:
        while True:
            worker.handle(receive(worker.connection))
    except (EOFError, ConnectionError):
        os._exit(0)  # no atexit handler of a reward may keep the process


class Worker:
    def __init__(self, connection: socket.socket, heartbeat: Heartbeat) -> None:
        self.connection = connection
        self.heartbeat = heartbeat
        self.rewards: dict[int, Reward] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle(self, message: tuple[Any, ...]) -> None:
        kind, *arguments = message
        if kind == "build":
            self.build(*arguments)
        else:
            self.judge_chunk(*arguments)

    def send(self, *message: Any) -> None:
        self.heartbeat.start(RESTING, time.monotonic())
        self.connection.sendall(frame(message))

    # --- building ------------------------------------------------------------

    def build(self, lane: int, recipe: Recipe, warm: bytes | None) -> None:
        """Make a reward and let it load what it needs, before a deadline runs.

        It may have a method `warm_up` for that; and where a sample is known to be
        harmless, it judges that one.
        """
        global building
        self.heartbeat.begin(0, lane, time.monotonic())
        reason = ""
        building = True
        try:
            reward = self.rewards[lane] = recipe.build()
            if (warm_up := getattr(reward, "warm_up", None)) is not None:
                warm_up()
            if warm is not None:
                judge.judge_one(reward, Sample(*pickle.loads(warm)), self.wait)
        except BaseException as error:
            reason = judge.failed(error).reason
        finally:
            building = False
        self.send("built", lane, reason)

    # --- judging -------------------------------------------------------------

    def judge_chunk(
        self, serial: int, lane: int, call: judge.Call, deadline: float, blob: bytes
    ) -> None:
        """Judge one chunk, sending verdicts as they come and `done` at the end."""
        self.heartbeat.begin(serial, RESTING, time.monotonic())
        try:
            samples = [Sample(*fields) for fields in pickle.loads(blob)]
        except Exception as error:
            self.send("unreadable", serial, judge.failed(error).reason)
            return
        out: list[Verdict] = []
        reward = self.rewards[lane]
        out_of_memory = False
        try:
            if call is judge.Call.single:
                self._one_by_one(serial, reward, samples, out)
            elif call is judge.Call.concurrent:
                self._at_once(serial, reward, samples, deadline, out)
            else:
                self._in_bulk(reward, samples, call, out)
        except MemoryError:
            out_of_memory = True  # acted on below, when its traceback holds nothing any more
        if out_of_memory:
            _, index, _ = self.heartbeat.read()
            self.send("memory", serial, out, index)
            os._exit(0)  # this heap may be full of anybody's leavings; a new worker's is not
        self.send("done", serial, out)

    def _one_by_one(
        self, serial: int, reward: Reward, samples: Sequence[Sample], out: list[Verdict]
    ) -> None:
        heartbeat, clock, one, wait = self.heartbeat, time.monotonic, judge.judge_one, self.wait
        now = flushed = clock()
        for i, sample in enumerate(samples):
            if i >= heartbeat.limit:
                return  # the pool gave the rest to somebody else
            if now - flushed > FLUSH_S:
                self.send("scores", serial, out)
                out.clear()
                now = flushed = clock()
            started = now
            heartbeat.start(i, started)
            score = one(reward, sample, wait)
            now = clock()
            out.append((i, pack_score(score), now - started))

    def _in_bulk(
        self, reward: Reward, samples: Sequence[Sample], call: judge.Call, out: list[Verdict]
    ) -> None:
        started = time.monotonic()
        self.heartbeat.start(WHOLE, started)
        if call is judge.Call.group:
            scores = judge.judge_together(reward, samples, self.wait)
        else:
            scores = judge.judge_bulk(
                reward,
                samples,
                self.wait,
                lambda i: self.heartbeat.start(i, time.monotonic()),
            )
        each = (time.monotonic() - started) / len(samples)
        out.extend((i, pack_score(score), each) for i, score in enumerate(scores))

    # --- coroutines ----------------------------------------------------------

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(_as_coroutine(awaitable))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _at_once(
        self,
        serial: int,
        reward: Reward,
        samples: Sequence[Sample],
        deadline: float,
        out: list[Verdict],
    ) -> None:
        """Await all samples of the chunk together, each under its own deadline."""
        import asyncio

        async def one(i: int, sample: Sample) -> None:
            started = time.monotonic()
            score = await judge_waiting(reward, sample, deadline)
            out.append((i, pack_score(score), time.monotonic() - started))

        async def all_of_them() -> None:
            left = {asyncio.ensure_future(one(i, sample)) for i, sample in enumerate(samples)}
            while left:
                # While the loop turns, nothing is stuck: say so, and send what is there.
                if out:
                    self.send("scores", serial, out)
                    out.clear()
                self.heartbeat.start(WHOLE, time.monotonic())
                done, left = await asyncio.wait(left, timeout=2 * FLUSH_S)
                for task in done:
                    task.result()

        self.heartbeat.start(WHOLE, time.monotonic())
        self.loop.run_until_complete(all_of_them())


async def judge_waiting(reward: Reward, sample: Sample, deadline: float) -> Score:
    """`await reward.score(sample)`, given up at its deadline even if it will not be cancelled."""
    import asyncio

    task = asyncio.ensure_future(_as_coroutine(reward.score(sample)))  # type: ignore[arg-type]
    done, _ = await asyncio.wait({task}, timeout=deadline)
    if not done:
        task.cancel()
        return Score(None, Outcome.timeout, f"no verdict within {deadline:g} s")
    return judge.judge_result(reward, task.result, sample)


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def die_with(parent: int) -> None:
    """On Linux the kernel kills this process when the pool's thread ends; elsewhere
    it notices at its next message."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before we asked


def limit_memory(memory_mb: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, a core file is not
    if memory_mb:
        size = memory_mb * 2**20
        # DATA counts what is written to; an address-space limit would refuse
        # libraries that reserve far more than they use.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (size, size))
