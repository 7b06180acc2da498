"""The zygote: a warm interpreter that forks one isolated child after another.

It never reads a job. A child is forked ahead of need, isolates itself, and then
waits for its job on a socket whose other end the zygote has handed to the
controller; so nothing of one job can reach the next. Single-threaded; when its
controller is gone, so are it and everything it forked.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import gc
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

from grpo_sandbox import wire
from grpo_sandbox.inside import programs, scratch, tester
from grpo_sandbox.inside.isolate import Prepared, Walls, isolate, prepare
from grpo_sandbox.linux import kernel, landlock, namespaces

_CHANNEL = 3
_DOORS, _OWN = 10, 32
"""Descriptors from here on: doors to the standard library, the zygote's own. What a
child keeps must lie below `Limits.files`."""

_HINTS = {
    "socket.__new__": "network access",
    "os.fork": "starting processes",
    "os.forkpty": "starting processes",
    "os.posix_spawn": "starting processes",
    "os.exec": "starting programs",
    "os.system": "starting programs",
    "subprocess.Popen": "starting programs",
    "pty.spawn": "starting programs",
}
_SCAN = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
"""`json.loads` without what it does in Python: the controller is no enemy."""
_BEGAN = wire.pack({"began": True})
_armed = False
_open_to_the_end: list[object] = []
"""Sockets that only the end of the process may close: the tester takes their closing for
that end, and how it ended must be settled by then."""


def main(control_fd: int) -> None:
    own = fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, _OWN)
    os.close(control_fd)
    control = socket.socket(fileno=own)
    channel = _channel()
    config: dict[str, Any] = json.loads(control.recv(1 << 18))
    try:
        zygote = _prepare(control, channel, config)
    except Exception as error:
        code = getattr(error, "errno", None)
        wire_error = {"failed": f"{type(error).__name__}: {error}", "errno": code}
        with contextlib.suppress(OSError):
            control.send(json.dumps(wire_error).encode())
        os._exit(1)
    zygote.loop()


def _channel() -> socket.socket:
    """What each child finds its own socket at, in place of this one; taken from the
    start, so that no descriptor of ours can be there."""
    stand_in, other = socket.socketpair()
    with stand_in, other:
        aside = fcntl.fcntl(stand_in, fcntl.F_DUPFD_CLOEXEC, _OWN)
    os.dup2(aside, _CHANNEL)
    os.close(aside)
    return socket.socket(fileno=_CHANNEL)


def _prepare(control: socket.socket, channel: socket.socket, config: dict[str, Any]) -> Zygote:
    parent = os.pidfd_open(config["parent"])
    if os.getppid() != config["parent"]:
        os._exit(0)  # the controller died before we could watch it
    _preload(config["preload"], config["import_paths"])
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"preloading left {threads - 1} threads; a zygote cannot have any")
    _deterministic()
    sys.addaudithook(_explain)
    version = landlock.abi()
    tier: int = config["tier"]
    if tier == 2 and not version:
        raise OSError(errno.ENOSYS, "landlock: not in this kernel, or switched off")
    data_mb, space_mb = _memory()
    if tier == 1:
        namespaces.enter(config["readable"], config["devices"])
        keeper = os.fork()  # the child is the first process of the pid namespace
        if keeper:
            control.close()
            os.close(parent)
            _, status = os.waitpid(keeper, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        base = ""
    else:
        base = config["scratch"]
        doors = _doors(config["readable"]) if tier else {}
        if tier:
            namespaces.become_unprivileged(base)
        os.mkdir(base + "/jobs", 0o700)
        _use_doors(doors)
    rules = landlock.open_rules(config["readable"], config["devices"]) if version else []
    if tier == 2 or version:
        rules += [(fd, landlock.READ) for fd in sorted(_door_fds)]
    walls = Walls(
        tier=tier,
        landlock=version,
        rules=rules,
        memory_mb=config["memory_mb"],
        data_mb=data_mb,
        space_mb=space_mb,
        threads=_thread_limit(tier, config["threads"]),
        files=config["files"],
        scratch_mb=config["scratch_mb"],
        cpu_s=config["cpu_s"],
    )
    ready = {"ready": tier, "landlock": version, "counts_threads": bool(walls.threads)}
    control.send(json.dumps(ready).encode())
    gc.collect()
    gc.freeze()
    return Zygote(control, parent, channel, prepare(walls), base)


_door_fds: list[int] = []


def _doors(readable: list[str]) -> dict[str, int]:
    """Descriptors for the import paths that an unprivileged user could not reach.

    Root's Python may lie in root's home. With no mounts to show it elsewhere, an
    open directory is a door: what lies below it is reached without passing the
    directories above it.
    """
    if os.geteuid() != 0:
        return {}
    paths = [
        path for path in sys.path if os.path.isdir(path) and not namespaces.world_reaches(path)
    ]
    return {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths}


def _use_doors(doors: dict[str, int]) -> None:
    """Import from descriptors instead of paths."""
    moved: dict[str, str] = {}
    for path, fd in doors.items():
        number = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _DOORS)
        os.close(fd)
        _door_fds.append(number)
        moved[path] = f"/proc/self/fd/{number}"
    _move_imports(moved)


def _move_imports(moved: dict[str, str]) -> None:
    """Look for modules in other places, those of packages already loaded included."""

    def move(path: str) -> str:
        for old in sorted(moved, key=len, reverse=True):
            if path == old or path.startswith(old + "/"):
                return moved[old] + path[len(old) :]
        return path

    sys.path[:] = map(move, sys.path)
    for module in list(sys.modules.values()):
        if isinstance(getattr(module, "__path__", None), list):
            module.__path__[:] = map(move, module.__path__)
    sys.path_importer_cache.clear()


def _deterministic() -> None:
    os.environ.clear()
    os.environ["TZ"] = "UTC"
    time.tzset()
    del os.environ["TZ"]


def _preload(modules: list[str], paths: list[str]) -> None:
    # Without links: a job sees directories, not the links that may lead to them.
    _move_imports({path: os.path.realpath(path) for path in sys.path})
    sys.path += paths
    for name in modules:
        __import__(name)


def _memory() -> tuple[int, int]:
    """What this interpreter holds: private data and address space, in MB."""
    with open("/proc/self/statm") as f:
        fields = [int(n) for n in f.read().split()]
    page = os.sysconf("SC_PAGESIZE")
    return fields[5] * page >> 20, fields[0] * page >> 20


def _thread_limit(tier: int, threads: int) -> int:
    """RLIMIT_NPROC where it counts this zygote's processes alone, else 0.

    That is so for a user id of its own, and in a user namespace since Linux 5.14.
    On top come the zygote, and the children that wait or stand on the other side.
    """
    release = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    own = os.geteuid() >= namespaces._UID_BASE or (tier == 1 and release >= (5, 14))
    return threads + 4 if own else 0


def _explain(event: str, arguments: tuple[Any, ...]) -> None:
    """Say what the policy is where Python would only say `Operation not permitted`.

    A courtesy to honest programs; seccomp refuses these calls in any case.
    """
    if _armed and event in _HINTS:
        if event == "socket.__new__" and arguments[1] in (socket.AF_UNIX, -1):
            return
        raise PermissionError(
            errno.EPERM, f"Operation not permitted: {_HINTS[event]} is {programs._NOTE}"
        )


class Zygote:
    """The loop: fork a child when asked, report a child's end."""

    def __init__(
        self,
        control: socket.socket,
        parent: int,
        channel: socket.socket,
        prepared: Prepared,
        base: str,
    ) -> None:
        self.control, self.parent, self.channel = control, parent, channel
        self.prepared, self.base = prepared, base
        self.namespaces = prepared.walls.tier == 1
        self.children: dict[int, tuple[int, str]] = {}  # pidfd: (pid, scratch)
        self.forked = 0
        self.me = os.pidfd_open(os.getpid())

    def loop(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.parent, select.POLLIN)
        try:
            while True:
                for fd, _ in poll.poll():
                    if fd in self.children:
                        poll.unregister(fd)
                        self._bury(fd)
                    elif fd == self.control.fileno() and (orders := self.control.recv(64)):
                        for _ in orders:
                            poll.register(self._fork(), select.POLLIN)
                    else:
                        return
        except OSError:
            return
        finally:
            self._end()

    def _fork(self) -> int:
        self.forked += 1
        home = f"{self.base}/jobs/{self.forked}" if self.base else ""
        if home:
            os.mkdir(home, 0o700)
        ours, theirs = _socket.socketpair()
        if self.namespaces:
            kernel.unshare(kernel.CLONE_NEWPID)
        pid = kernel.fork()
        if not pid:
            _child(theirs.fileno(), self.channel, self.prepared, home)
        if self.namespaces:
            kernel.setns(self.me, kernel.CLONE_NEWPID)
        pidfd = os.pidfd_open(pid)
        self.children[pidfd] = (pid, home)
        theirs.close()
        fds = struct.pack("2i", ours.fileno(), pidfd)
        self.control.sendmsg(
            [os.fsencode(f"child {pid} {home}")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        )
        ours.close()
        return pidfd

    def _bury(self, pidfd: int) -> None:
        pid, home = self.children.pop(pidfd)
        _, status, usage = os.wait4(pid, 0)
        os.close(pidfd)
        code, cpu_s = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        try:
            self.control.send(f"ended {pid} {code} {cpu_s} {usage.ru_maxrss / 1024}".encode())
        finally:
            if home:
                scratch.remove(home)

    def _end(self) -> None:
        for pidfd in self.children:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pid, home in self.children.values():
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
            if home:
                scratch.remove(home)
        if self.base:
            with contextlib.suppress(OSError):
                scratch.remove(self.base)
        os._exit(0)


def _child(its_end: int, channel: socket.socket, prepared: Prepared, home: str) -> None:
    """A forked child, from its isolation to its end. Never returns."""
    code = 1
    try:
        os.dup2(its_end, _CHANNEL)
        try:
            isolate(prepared, home)
            _close_all_but(_door_fds)
        except Exception as error:
            wire.send(channel, {"setup": f"{type(error).__name__}: {error}"})
            os._exit(1)
        code = _work(channel)
    except BaseException as error:
        if not isinstance(error, (OSError, EOFError, MemoryError, wire.ProtocolError)):
            with contextlib.suppress(BaseException):
                programs._report(error)
    finally:
        os._exit(code)


def _close_all_but(keep: list[int]) -> None:
    at = _CHANNEL + 1
    for fd in [*sorted(set(keep)), 1 << 16]:
        if fd >= at:
            os.closerange(at, fd)
            at = fd + 1


def _work(channel: socket.socket) -> int:
    """Wait for the job, wire it up, do it."""
    global _armed
    head, passed, _, _ = channel.recvmsg(4, socket.CMSG_SPACE(4 * 4))
    if len(head) < 4:
        return 0  # nobody needs us any more
    fds = [fd for _, _, data in passed for (fd,) in struct.iter_unpack("i", data)]
    data = wire._exactly(channel, int.from_bytes(head, sys.byteorder))
    job, _ = _SCAN(data.decode(), 0)
    channel.sendall(_BEGAN)
    kind = job["kind"]
    peer = socket.socket(fileno=fds.pop()) if kind in ("serve", "judge") else None
    _open_to_the_end.append(peer)
    for fd, target in zip(fds, job["streams"], strict=True):
        os.dup2(fd, target)
        os.close(fd)
    random.seed(0)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # it was the zygote's
    sys.path.insert(0, os.getcwd())
    _armed = True
    if kind == "run":
        return programs.run_program(job, channel)
    if kind == "call":
        return programs.answer_calls(job, channel)
    assert peer is not None
    if kind == "serve":
        channel.close()
        return programs.serve_candidate(job, peer)
    return tester.judge(job, channel, peer)
