"""The controller's side of one zygote: starting it, taking children, seeing them end.

One thread at a time. Left out: what a job is and what its end means (`jobs`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_sandbox import paths
from grpo_sandbox.inside import scratch
from grpo_sandbox.results import Limits, SandboxError

_START_S = 30.0
_PREFIX = "grpo-sandbox-"
_FRESH_S = 60.0
"""A scratch directory younger than this may be one that is not locked yet."""
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LD_BIND_NOW": "1",  # else each child would look up symbols anew
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # an arena a thread would use up the address space
    "OPENBLAS_NUM_THREADS": "1",  # a zygote that forks must have one thread
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); fd = int(sys.argv[2]); "
    "from grpo_sandbox.inside.zygote import main; del sys.path[0]; main(fd)"
)


class TierUnavailable(SandboxError):
    """This tier cannot be had here; the message names the step that was refused."""


@dataclass(frozen=True)
class Plan:
    """How to start a zygote: everything that is the same for all of a sandbox's."""

    tier: int
    limits: Limits
    preload: tuple[str, ...]


@dataclass
class Ended:
    """How a child ended: exit code (a signal negative), and what it used."""

    exit: int
    cpu_s: float
    memory_mb: float


@dataclass
class Child:
    """A forked child that waits for a job, has one, or has ended."""

    pid: int
    home: str
    """Its scratch directory where this process can see it, else empty."""
    channel: socket.socket
    pidfd: int
    ended: Ended | None = None

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def cpu_limit_s(limits: Limits) -> int:
    """A bound for the case that nobody is left to keep the deadline."""
    return int(limits.wall_s * (os.cpu_count() or 1)) + 2


class Zygote:
    """One zygote process. Raises TierUnavailable when its walls cannot be built."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.owner = os.getpid()
        self.waiting: list[Child] = []
        self.children: dict[int, Child] = {}
        self.ordered = 0
        self._scratch = ""
        if plan.tier != 1:
            _sweep()
            self._scratch = tempfile.mkdtemp(prefix=_PREFIX, dir=paths.scratch_parent())
            self._lock = os.open(self._scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = _spawn(theirs.fileno())
            self.control.send(json.dumps(self._config()).encode())
            ready = self._handshake()
        except BaseException:
            self.close()
            raise
        self.landlock: int = ready["landlock"]
        self.counts_threads: bool = ready["counts_threads"]
        self.order(1)

    def _config(self) -> dict[str, Any]:
        limits = self.plan.limits
        show, import_from = paths.of_packages(self.plan.preload)
        return {
            "tier": self.plan.tier,
            "parent": os.getpid(),
            "readable": [*paths.readable(), *show],
            "devices": paths.DEVICES,
            "preload": list(self.plan.preload),
            "import_paths": import_from,
            "scratch": self._scratch,
            "memory_mb": int(limits.memory_mb),
            "threads": int(limits.threads),
            "files": int(limits.files),
            "scratch_mb": max(1, int(limits.scratch_mb)),
            "cpu_s": cpu_limit_s(limits),
        }

    def _handshake(self) -> dict[str, Any]:
        self.control.settimeout(_START_S)
        try:
            data = self.control.recv(1 << 16)
        except TimeoutError:
            raise SandboxError(f"the zygote did not start within {_START_S:.0f} s") from None
        finally:
            self.control.settimeout(None)
        if not data:
            raise TierUnavailable(f"the zygote died while starting ({self._how_it_died()})")
        message: dict[str, Any] = json.loads(data)
        if "failed" in message:
            raise TierUnavailable(message["failed"])
        return message

    def _how_it_died(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"exit code {self.process.wait(1)}"
        return "it hangs"

    def order(self, count: int) -> None:
        """Ask for more children; they come as messages. Raises SandboxError."""
        try:
            self.control.send(b"n" * count)
        except OSError:
            raise SandboxError("the zygote is gone") from None
        self.ordered += count

    def take(self, count: int, deadline: float) -> list[Child]:
        """Children that wait for a job; as many are forked anew. Raises SandboxError."""
        missing = count - len(self.waiting) - self.ordered
        if missing > 0:
            self.order(missing)
        while len(self.waiting) < count:
            self.control.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self.pump()
            except TimeoutError:
                raise SandboxError("the zygote forks no children") from None
            finally:
                self.control.settimeout(None)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.order(count)
        return taken

    def pump(self) -> None:
        """Read one message. Raises SandboxError when the zygote is gone."""
        try:
            data, fds, _, _ = _receive(self.control)
        except TimeoutError:
            raise
        except OSError:
            data, fds = b"", []
        if not data:
            raise SandboxError(f"the zygote is gone ({self._how_it_died()})")
        kind, pid, rest = os.fsdecode(data).split(" ", 2)
        if kind == "child":
            self.ordered -= 1
            child = Child(int(pid), rest, socket.socket(fileno=fds[0]), fds[1])
            self.waiting.append(child)
            self.children[child.pid] = child
            return
        code, cpu_s, memory_mb = rest.split()
        child = self.children.pop(int(pid))
        child.ended = Ended(int(code), float(cpu_s), float(memory_mb))
        if child in self.waiting:  # died before it had a job
            self.waiting.remove(child)
            child.close()

    def hang_up(self) -> None:
        """Make the zygote end, from any thread; whoever uses it sees it gone."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the zygote and everything it forked."""
        mine = os.getpid() == self.owner
        if mine:
            for child in self.children.values():
                child.kill()
        for child in self.children.values():
            child.close()
        self.children.clear()
        self.waiting.clear()
        self.control.close()
        if not mine:
            return
        process = getattr(self, "process", None)
        if process is not None:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._scratch:
            os.close(self._lock)
            scratch.remove(self._scratch)
            self._scratch = ""


def _sweep() -> None:
    """Remove what controllers left that were killed together with their zygotes: scratch
    directories that nobody holds a lock on any more."""
    top = paths.scratch_parent()
    for name in os.listdir(top):
        path = os.path.join(top, name)
        with contextlib.suppress(OSError):
            if not name.startswith(_PREFIX) or time.time() - os.stat(path).st_mtime < _FRESH_S:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                scratch.remove(path)
            finally:
                os.close(fd)


def _spawn(control: int) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise SandboxError("sys.executable is empty: there is no interpreter to start")
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", _BOOT, root, str(control)],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=[control],
        start_new_session=True,
    )


def _receive(sock: socket.socket) -> tuple[bytes, Sequence[int], int, Any]:
    return socket.recv_fds(sock, 1 << 16, 4)
