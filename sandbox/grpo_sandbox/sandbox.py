"""Sandbox: run a program, call a function, check a candidate; each alone, in bulk, async.

The expected answer never enters a process that holds untrusted code: `run` and
`call` return what came out, for the caller to compare; `check` runs the asserts
in a process of their own. Left out: what the walls are (`linux`, `inside`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from grpo_sandbox import probe, wire
from grpo_sandbox.jobs import KINDS, End, Job, Stream, sealed
from grpo_sandbox.linux import numbers
from grpo_sandbox.results import (
    Limits,
    Outcome,
    Reply,
    Run,
    SandboxError,
    SandboxUnavailable,
    Verdict,
)
from grpo_sandbox.worker import Plan, TierUnavailable, Zygote

T = TypeVar("T")
Text = str | bytes

_TAKE_S = 30.0


class Sandbox:
    """Warm, isolated processes for jobs; a context manager, safe from any thread.

    Picks the strongest tier that a probe job proves, or raises SandboxUnavailable
    with the reason. `tier` insists on one; `unsafe=True` accepts, where neither
    can be had, a tier 0 that contains nothing but honest mistakes, and is
    recorded in every result. `workers` jobs run at the same time. `preload`
    names modules that every job finds loaded; others outside the standard
    library do not exist for a job.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        *,
        workers: int = 1,
        preload: Sequence[str] = (),
        tier: int | None = None,
        unsafe: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if tier not in (None, 1, 2):
            raise ValueError(f"tier must be 1, 2 or None, not {tier!r}")
        self.limits, self.workers = limits, workers
        self._preload = (*probe.STANDARD, *preload)
        self._slots = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[Zygote] = []
        self._busy: set[Zygote] = set()
        self._owner = os.getpid()
        self._closed = False
        self._plan, zygote = self._choose(tier, unsafe)
        self._idle.append(zygote)
        self.tier = self._plan.tier
        self.unsafe = self.tier == 0

    def _choose(self, tier: int | None, unsafe: bool) -> tuple[Plan, Zygote]:
        if sys.platform != "linux" or not numbers.SUPPORTED:
            raise SandboxUnavailable(
                "grpo-sandbox needs Linux on x86-64 or arm64; this is "
                f"{sys.platform} on {platform.machine()}. Run it in a Linux container or VM"
            )
        reasons: dict[int, str] = {}
        for candidate in (1, 2) if tier is None else (tier,):
            if candidate in _refused and tier is None:
                reasons[candidate] = _refused[candidate]
                continue
            try:
                return self._proven(candidate)
            except TierUnavailable as error:
                _refused[candidate] = reasons[candidate] = str(error)
        if unsafe:
            plan = Plan(0, self.limits, self._preload)
            return plan, Zygote(plan)
        why = "; ".join(f"tier {tier}: {reason}" for tier, reason in reasons.items())
        raise SandboxUnavailable(f"no isolation can be had here ({why}). {probe.REMEDY}", reasons)

    def _proven(self, tier: int) -> tuple[Plan, Zygote]:
        plan = Plan(tier, self.limits, self._preload)
        zygote = Zygote(plan)
        try:
            failures = probe.failures(self._run(zygote, probe.SOURCE, b"", probe.WALL_S), tier)
        except SandboxError as error:
            zygote.close()
            raise TierUnavailable(f"the probe job failed: {error}") from None
        if failures:
            zygote.close()
            raise TierUnavailable(f"the probe job was not contained: {failures}")
        return plan, zygote

    # --- one job ----------------------------------------------------------------

    def run(self, source: str, stdin: Text = "", *, wall_s: float | None = None) -> Run:
        """Run a program with `stdin`; `wall_s` may shorten the deadline."""
        data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        try:
            return self._with_zygote(lambda zygote: self._run(zygote, source, data, wall_s))
        except SandboxError as error:
            return Run(
                Outcome.error, "", "", None, 0.0, 0.0, 0.0, False, str(error), *self._recorded()
            )

    def call(
        self,
        source: str,
        function: str,
        calls: Sequence[Sequence[Any]],
        *,
        kwargs: Sequence[Mapping[str, Any]] | None = None,
        wall_s: float | None = None,
    ) -> list[Reply]:
        """Load `source` once and call `function` with each of `calls`, in one process.

        Arguments and values are plain (`wire.encode`). One reply a call, whatever
        happens. Raises ValueError when an argument is not plain.
        """
        named = kwargs if kwargs is not None else [{}] * len(calls)
        if len(named) != len(calls):
            raise ValueError(f"{len(calls)} calls but {len(named)} kwargs")
        payload = [
            [wire.encode(tuple(args)), wire.encode(dict(keywords))]
            for args, keywords in zip(calls, named, strict=True)
        ]
        job = {"kind": "call", "source": source, "function": function, "calls": payload}
        try:
            return self._with_zygote(lambda zygote: self._call(zygote, job, wall_s))
        except SandboxError as error:
            return [self._no_reply(Outcome.error, str(error)) for _ in calls]

    def check(
        self,
        candidate: str,
        tests: str,
        entry_point: str | Sequence[str],
        setup: str = "",
        *,
        wall_s: float | None = None,
    ) -> Verdict:
        """Run trusted asserts against an untrusted candidate, each in its own process.

        `tests` may call `entry_point` (or several) by name, or define
        `check(candidate)`; `setup` is trusted code that runs before them and that
        the candidate cannot redefine. Arguments cross as copies, so a function
        that changes its arguments in place is not seen to do so.
        """
        names = [entry_point] if isinstance(entry_point, str) else list(entry_point)
        if not names:
            raise ValueError("check needs the name of a function to test")
        try:
            return self._with_zygote(
                lambda zygote: self._check(zygote, candidate, tests, names, setup, wall_s)
            )
        except SandboxError as error:
            return Verdict(False, Outcome.error, str(error), 0, 0.0, 0.0, 0.0, *self._recorded())

    # --- in bulk, and async -----------------------------------------------------

    def run_many(
        self, jobs: Iterable[tuple[str, Text]], *, wall_s: float | None = None
    ) -> list[Run]:
        """`run` for each (source, stdin), `workers` at a time, in order."""
        return self._many(lambda job: self.run(*job, wall_s=wall_s), jobs)

    def call_many(
        self, jobs: Iterable[tuple[str, str, Sequence[Sequence[Any]]]], **options: Any
    ) -> list[list[Reply]]:
        """`call` for each (source, function, calls), `workers` at a time, in order."""
        return self._many(lambda job: self.call(*job, **options), jobs)

    def check_many(
        self, jobs: Iterable[tuple[str, str, str | Sequence[str], str]], **options: Any
    ) -> list[Verdict]:
        """`check` for each (candidate, tests, entry_point, setup), in order."""
        return self._many(lambda job: self.check(*job, **options), jobs)

    def _many(self, do: Callable[[Any], T], jobs: Iterable[Any]) -> list[T]:
        if self.workers == 1:
            return [do(job) for job in jobs]
        with ThreadPoolExecutor(self.workers, "grpo-sandbox") as threads:
            return list(threads.map(do, jobs))

    async def run_async(self, *args: Any, **options: Any) -> Run:
        """`run`, without holding up the event loop."""
        return await asyncio.to_thread(self.run, *args, **options)

    async def call_async(self, *args: Any, **options: Any) -> list[Reply]:
        """`call`, without holding up the event loop."""
        return await asyncio.to_thread(self.call, *args, **options)

    async def check_async(self, *args: Any, **options: Any) -> Verdict:
        """`check`, without holding up the event loop."""
        return await asyncio.to_thread(self.check, *args, **options)

    # --- zygotes ----------------------------------------------------------------

    def _with_zygote(self, do: Callable[[Zygote], T]) -> T:
        """Do it with a zygote of our own; once more with a new one if that one fails."""
        with self._slots:
            for attempt in (1, 2):
                zygote = self._acquire()
                try:
                    result = do(zygote)
                except SandboxError:
                    self._discard(zygote)
                    if attempt == 2:
                        raise
                except BaseException:
                    self._discard(zygote)
                    raise
                else:
                    self._release(zygote)
                    return result
        raise AssertionError("unreachable")

    def _acquire(self) -> Zygote:
        with self._lock:
            if self._closed:
                raise SandboxError("this sandbox is closed")
            if os.getpid() != self._owner:  # we are a fork; the zygotes are our parent's
                for theirs in [*self._idle, *self._busy]:
                    theirs.close()
                self._idle, self._busy, self._owner = [], set(), os.getpid()
            zygote = self._idle.pop() if self._idle else None
        zygote = zygote or Zygote(self._plan)
        with self._lock:
            self._busy.add(zygote)
        return zygote

    def _release(self, zygote: Zygote) -> None:
        with self._lock:
            self._busy.discard(zygote)
            if not self._closed:
                self._idle.append(zygote)
                return
        zygote.close()

    def _discard(self, zygote: Zygote) -> None:
        with self._lock:
            self._busy.discard(zygote)
        zygote.close()

    def close(self) -> None:
        """End every process. Jobs in progress end with the outcome `error`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for zygote in self._busy:
                zygote.hang_up()
        for zygote in idle:
            zygote.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "tier"):
            self.close()

    # --- the three jobs ---------------------------------------------------------

    def _run(self, zygote: Zygote, source: str, stdin: bytes, wall_s: float | None) -> Run:
        with _job(zygote, 1, self._wall(wall_s), self.limits) as job:
            cap = int(self.limits.output_kb * 1024)
            out, err = job.pipe(cap), job.pipe(cap)
            written = job.write_ends()
            given = [sealed(stdin)] if stdin else []  # else it stays /dev/null
            try:
                message = {
                    "kind": "run",
                    "source": source,
                    "streams": [0, 1, 2] if given else [1, 2],
                }
                job.start(0, message, [*given, *written])
            finally:
                for fd in given:
                    os.close(fd)
                job.close_write_ends()
            job.attend()
            told = job.messages(0)
            end = job.end(0, wire.word(told[0], "kind") if told else "")
            return Run(
                end.outcome,
                _text(out),
                _text(err),
                end.ended.exit,
                end.wall_s,
                end.ended.cpu_s,
                end.ended.memory_mb,
                out.over or err.over,
                end.reason,
                zygote.plan.tier,
                zygote.plan.tier == 0,
            )

    def _call(self, zygote: Zygote, message: dict[str, Any], wall_s: float | None) -> list[Reply]:
        with _job(zygote, 1, self._wall(wall_s), self.limits) as job:
            job.start(0, {**message, "streams": []}, [])
            job.attend(live=0)
            told = job.messages(0, max(1, len(message["calls"])))
            end = job.end(0)
            if told and "load" in told[0]:
                outcome = KINDS.get(wire.word(told[0], "kind"), Outcome.finished)
                load = f"the program did not load: {wire.word(told[0], 'load')}"
                return [self._raised(outcome, load) for _ in message["calls"]]
            replies = [self._reply(reply) for reply in told]
            missing = len(message["calls"]) - len(replies)
            if end.outcome is Outcome.finished:
                left = self._raised(end.outcome, "SystemExit: the program ended itself")
            else:
                left = self._no_reply(end.outcome, end.reason)
            return replies + [left] * missing

    def _reply(self, told: dict[str, Any]) -> Reply:
        if "raised" in told:
            outcome = KINDS.get(wire.word(told, "kind"), Outcome.finished)
            return self._raised(outcome, wire.word(told, "raised"))
        try:
            value = wire.decode(told.get("value"))
        except wire.ProtocolError as error:
            return self._raised(Outcome.finished, f"ProtocolError: {error}")
        return Reply(value, None, Outcome.finished, "", *self._recorded())

    def _raised(self, outcome: Outcome, exception: str) -> Reply:
        return Reply(None, exception, outcome, exception, *self._recorded())

    def _no_reply(self, outcome: Outcome, reason: str) -> Reply:
        return Reply(None, None, outcome, reason, *self._recorded())

    def _check(
        self,
        zygote: Zygote,
        candidate: str,
        tests: str,
        names: list[str],
        setup: str,
        wall_s: float | None,
    ) -> Verdict:
        with _job(zygote, 2, self._wall(wall_s), self.limits) as job:
            near, far = socket.socketpair()
            with near, far:
                serve = {"kind": "serve", "source": candidate, "names": names, "streams": []}
                judge = {
                    "kind": "judge",
                    "setup": setup,
                    "tests": tests,
                    "names": names,
                    "streams": [],
                }
                job.start(0, serve, [far.fileno()])
                job.start(1, judge, [near.fileno()])
            job.attend(live=1, stop_when=job.channels[1])
            told = job.messages(1)
            if told:  # a verdict is a verdict, even one that came at the deadline
                job.timed_out = False
            if not told or told[0].get("gone"):  # unless it never began
                job.messages(0)
            return self._verdict(job, told[0] if told else None)

    def _verdict(self, job: Job, told: dict[str, Any] | None) -> Verdict:
        candidate, tester = job.end(0), job.end(1)
        if told is None:
            end: End = candidate if candidate.outcome is not Outcome.finished else tester
            if end.outcome is Outcome.finished:
                raise SandboxError("the tests ended without a verdict")
            return self._as_verdict(
                False, end.outcome, f"the tests got no end: {end.reason}", 0, candidate
            )
        passed = told.get("passed") is True
        calls, reason = int(told["calls"]), " ".join(wire.word(told, "reason").split())
        outcome = Outcome.finished
        if told.get("broken"):
            outcome = Outcome.error
        elif told.get("gone"):
            outcome = candidate.outcome
            reason = f"{reason} ({candidate.reason})" if candidate.reason else reason
        elif not passed:
            outcome = KINDS.get(wire.word(told, "kind"), outcome)
        return self._as_verdict(passed, outcome, reason, calls, candidate)

    def _as_verdict(
        self, passed: bool, outcome: Outcome, reason: str, calls: int, end: End
    ) -> Verdict:
        return Verdict(
            passed,
            outcome,
            reason,
            calls,
            end.wall_s,
            end.ended.cpu_s,
            end.ended.memory_mb,
            *self._recorded(),
        )

    def _wall(self, wall_s: float | None) -> float:
        return self.limits.wall_s if wall_s is None else min(wall_s, self.limits.wall_s)

    def _recorded(self) -> tuple[int, bool]:
        return self.tier, self.unsafe


_refused: dict[int, str] = {}
"""Tiers that this process found it cannot have, and why."""


@contextlib.contextmanager
def _job(zygote: Zygote, children: int, wall_s: float, limits: Limits) -> Iterator[Job]:
    taken = zygote.take(children, time.monotonic() + _TAKE_S)
    job = Job(zygote, taken, wall_s, limits)
    try:
        yield job
    finally:
        job.close()


def _text(stream: Stream) -> str:
    return stream.data.decode("utf-8", "replace")
