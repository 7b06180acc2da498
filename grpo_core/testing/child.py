"""The other half of `bench`: builds one reward, judges what it is sent, and notes what it touches.

Runs in a process of its own, which the parent kills at will. Network and writes
outside the temporary folder are seen through Python's audit events, and refused:
a check must not do what it looks for. Not seen: what C code or a child process
does on its own. Left out: what is right or wrong (`checks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from grpo_core.rewards import Reward, Sample, Score
from grpo_core.scoring import judge
from grpo_core.scoring.recipe import Recipe
from grpo_core.scoring.wire import frame, pack_sample, pack_score, receive
from grpo_core.testing.state import changes, snapshot

CANARY = "GRPO_KIT_TOUCHED"
"""Hostile completions hold code that sets this variable; only a judge that runs them would."""

HEAVY = ("torch", "transformers", "sympy", "numpy", "scipy", "pandas", "sklearn", "tensorflow")


@dataclass
class Touched:
    """What a reward did to the world while it judged."""

    network: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    executed: bool = False
    """It ran code that stood in the completion."""
    samples: bool = False
    """It changed the samples it was given."""


def main(fd: int, memory_mb: int, allowed: str) -> NoReturn:
    """Serve until the parent hangs up. `allowed` names, with commas, what is not refused."""
    from grpo_core.scoring.worker import die_with, limit_memory

    die_with(os.getppid())
    limit_memory(memory_mb)
    judge.NOT_OURS = ()
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    watch = Watch({*allowed.split(",")})
    child = Child(connection, watch)
    try:
        while True:
            kind, *arguments = receive(connection)
            child.build(*arguments) if kind == "build" else child.judge(*arguments)
    except (EOFError, ConnectionError):
        os._exit(0)


class Child:
    def __init__(self, connection: socket.socket, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._reward = Reward()
        self._kind = judge.Call.single
        self._loop = asyncio.new_event_loop()
        self._before = snapshot()
        self._modules = len(sys.modules)
        sys.addaudithook(watch)

    def build(self, recipe: Recipe) -> None:
        loaded = set(sys.modules)
        facts: dict[str, Any] = {"problem": ""}
        started = time.perf_counter()
        try:
            reward = self._reward = recipe.build()
            facts["seconds"] = time.perf_counter() - started
            facts["kind"] = self._kind = judge.call_of(reward)
            facts["heavy"] = [name for name in HEAVY if name in sys.modules and name not in loaded]
            facts["options"] = repr(reward.options)
            facts["requires"] = tuple(reward.requires)
            facts["range"] = tuple(reward.range)
        except BaseException as error:
            facts["problem"] = judge.failed(error).reason
        self._send(facts, self._touched())

    def judge(self, calls: Sequence[Sequence[tuple[Any, ...]]], in_thread: bool) -> None:
        """Judge call by call; an answer a call, so that the parent sees which one hangs."""
        for packed in calls:
            samples = [Sample(*fields) for fields in packed]
            before = _copied(samples)
            memory = Memory()
            started = time.perf_counter()
            scores = _elsewhere(self._call, samples) if in_thread else self._call(samples)
            seconds = time.perf_counter() - started
            grown = memory.grown_mb()
            touched = self._touched()
            touched.samples = before is not None and before != [pack_sample(s) for s in samples]
            self._send([pack_score(score) for score in scores], seconds, grown, touched)

    def _call(self, samples: Sequence[Sample]) -> list[Score]:
        reward, kind = self._reward, self._kind
        loop = self._loop
        if threading.current_thread() is not threading.main_thread():
            loop = asyncio.new_event_loop()

        def wait(awaitable: Awaitable[Any]) -> Any:
            return loop.run_until_complete(_as_coroutine(awaitable))

        try:
            if kind is judge.Call.concurrent and len(samples) > 1:
                return list(wait(_at_once(reward, samples)))
            if kind in (judge.Call.bulk, judge.Call.group):
                return judge.judge_together(reward, samples, wait)
            return [judge.judge_one(reward, sample, wait) for sample in samples]
        except MemoryError as error:
            return [judge.failed(error)] * len(samples)

    def _touched(self) -> Touched:
        touched = self._watch.take()
        touched.executed = os.environ.pop(CANARY, None) is not None
        now = snapshot()
        # Many libraries add filters when they are imported; that is not the reward's doing.
        ignored = {"warnings filters"} if len(sys.modules) > self._modules else set()
        touched.state = changes(self._before, now, ignored)
        self._before, self._modules = now, len(sys.modules)
        return touched

    def _send(self, *message: Any) -> None:
        self._connection.sendall(frame(message))


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _at_once(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    async def one(sample: Sample) -> Score:
        try:
            raw = await _as_coroutine(reward.score(sample))  # type: ignore[arg-type]
        except BaseException as error:
            return judge.failed(error)
        return judge.judge_result(reward, lambda: raw, sample)

    return await asyncio.gather(*(one(sample) for sample in samples))


def _elsewhere(
    function: Callable[[Sequence[Sample]], list[Score]], samples: Sequence[Sample]
) -> list[Score]:
    """Call it in a thread that is not the main one."""
    results: list[list[Score]] = []
    thread = threading.Thread(target=lambda: results.append(function(samples)), daemon=True)
    thread.start()
    thread.join()
    return results[0]


def _copied(samples: Sequence[Sample]) -> list[Any] | None:
    try:
        return copy.deepcopy([pack_sample(sample) for sample in samples])
    except RecursionError:  # too deeply nested to compare
        return None


class Memory:
    """The peak of resident memory since it was made. Linux; elsewhere the growth of the
    all-time peak, which sees less."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
        self._at_start = self._peak_mb()

    def grown_mb(self) -> float:
        return max(0.0, self._peak_mb() - self._at_start)

    @staticmethod
    def _peak_mb() -> float:
        try:
            with open("/proc/self/status") as file:
                for line in file:
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) / 1024
        except OSError:
            pass
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


# --- what it touches ---------------------------------------------------------------

_NETWORK = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
"""Audit events that reach for a network, and which argument says where to."""

_WRITES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "sqlite3.connect": ((0, None),),
}
"""Audit events that change files: the arguments that name one, each with the argument that
holds its folder's descriptor."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook that notes, and refuses, network and writes outside temp."""

    def __init__(self, allowed: set[str]) -> None:
        import tempfile

        self._allowed = allowed
        self._free = (os.path.realpath(tempfile.gettempdir()), "/dev", "/proc")
        self._seen = Touched()

    def take(self) -> Touched:
        seen, self._seen = self._seen, Touched()
        return seen

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._write("opened for writing", path, None)
        elif event in _WRITES:
            for which, folder in _WRITES[event]:
                descriptor = arguments[folder] if folder is not None else None
                self._write(event, arguments[which], descriptor)
        elif event in _NETWORK:
            target = arguments[_NETWORK[event]]
            if event.endswith(("addrinfo", "byname")) or isinstance(target, tuple):
                self._network(event, target)

    def _network(self, event: str, target: Any) -> None:
        self._seen.network.append(f"{event} {target!r}")
        if "network" not in self._allowed:
            raise PermissionError(f"a reward under test may not use the network ({target!r})")

    def _write(self, event: str, path: Any, folder: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor that is open already, or a database in memory
        name = os.fsdecode(path)
        if name in (":memory:", "") or "__pycache__" in name:
            return
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
            with contextlib.suppress(OSError):
                name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if any(name == free or name.startswith(free + os.sep) for free in self._free):
            return
        self._seen.files.append(f"{event} {name}")
        if "files" not in self._allowed:
            raise PermissionError(f"a reward under test may not write outside temp ({name})")
