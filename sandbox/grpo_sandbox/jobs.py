"""One job from its start to its end: streams, deadline, and what the end means.

Trusted code that reads what an enemy wrote: every stream has a cap, every frame
is parsed strictly. Left out: starting children (`worker`), the public calls
(`sandbox`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

from grpo_sandbox import wire
from grpo_sandbox.inside import scratch
from grpo_sandbox.results import Limits, Outcome, SandboxError
from grpo_sandbox.worker import Child, Ended, Zygote, cpu_limit_s

_GRACE_S = 10.0
"""How long a killed child may take to be reported before the zygote is given up."""
_BEGIN_S = 20.0
_CHECK_EVERY_S = 0.01
"""How long a child may take to begin its job, and how often it is asked whether it has.
Until then its time does not run."""
_LOOK_EVERY_S = 0.05
"""How often threads and scratch are counted where the kernel does not."""
_CHUNK = 1 << 16
_MAX_REPLIES = wire.MAX_FRAME + (1 << 16)


KINDS = {"memory": Outcome.memory, "denied": Outcome.denied}
"""What a job may say of the error that ended it; anything else means nothing."""


@dataclass
class Stream:
    """What arrives on one descriptor, up to a cap."""

    fd: int
    cap: int
    data: bytearray = field(default_factory=bytearray)
    over: bool = False
    open: bool = True
    live: bool = True
    """Whether it is read while the job runs; else only what is left at the end."""

    def read(self) -> None:
        """Take what is there. Past the cap, nothing is kept."""
        try:
            chunk = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.open = False
        room = self.cap - len(self.data)
        self.data += chunk[:room]
        self.over = self.over or len(chunk) > room

    def drain(self) -> None:
        """Take what is left of a process that has ended."""
        os.set_blocking(self.fd, False)
        while self.open and not self.over:
            before = len(self.data)
            self.read()
            if len(self.data) == before:
                return


def frames(data: bytes | bytearray, most: int) -> list[dict[str, Any]]:
    """The whole frames at the start of `data`, at `most` so many. Raises ProtocolError."""
    found: list[dict[str, Any]] = []
    at = 0
    while at + 4 <= len(data) and len(found) < most:
        (length,) = struct.unpack_from("=I", data, at)
        if length > wire.MAX_FRAME:
            raise wire.ProtocolError(f"a frame of {length} bytes")
        if at + 4 + length > len(data):
            break
        found.append(wire.parse(bytes(data[at + 4 : at + 4 + length])))
        at += 4 + length
    return found


@dataclass
class End:
    """How the child that holds untrusted code ended."""

    outcome: Outcome
    reason: str
    ended: Ended
    wall_s: float


class NotBegun(SandboxError):
    """The child never got to run its job: the sandbox's failure, worth another try."""


class Job:
    """Children that run one job together, until all have ended or the deadline."""

    def __init__(self, zygote: Zygote, children: list[Child], wall_s: float, limits: Limits):
        self.zygote, self.children, self.limits = zygote, children, limits
        self.started = time.monotonic()
        self.wall_s = wall_s
        self.deadline = self.started + wall_s
        self.streams: list[Stream] = []
        self._reads: list[int] = []
        self._writes: list[int] = []
        self.channels = [self.listen(child.channel.fileno(), _MAX_REPLIES) for child in children]
        self.violation: tuple[Outcome, str] | None = None
        self.timed_out = False
        self.finished_s = 0.0

    def listen(self, fd: int, cap: int) -> Stream:
        stream = Stream(fd, cap)
        self.streams.append(stream)
        return stream

    def pipe(self, cap: int) -> Stream:
        """A pipe that this job reads; its other end is for a child (`write_ends`)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        self._reads.append(read)
        self._writes.append(write)
        return self.listen(read, cap)

    def write_ends(self) -> list[int]:
        return self._writes

    def close_write_ends(self) -> None:
        while self._writes:
            os.close(self._writes.pop())

    def start(self, which: int, job: dict[str, Any], fds: list[int]) -> None:
        """Hand a child its job. Raises NotBegun when it is dead."""
        sock = self.children[which].channel
        data = wire.pack(job)
        try:
            sock.settimeout(_BEGIN_S)
            sent = socket.send_fds(sock, [data], fds) if fds else sock.send(data)
            if sent < len(data):
                sock.sendall(data[sent:])
        except OSError as error:
            raise NotBegun(f"a child died before its job: {error}") from None

    def attend(self, live: int | None = None, stop_when: Stream | None = None) -> None:
        """Read streams until every child has ended; kill at the deadline and at a cap.

        Of the channels, only that of the child `live` is read while the job runs.

        With `stop_when`, a second frame on that channel (the verdict) ends it all.
        Raises SandboxError when the zygote is gone.
        """
        for which, channel in enumerate(self.channels):
            channel.live = which == live
        poll = select.poll()
        control = self.zygote.control.fileno()
        poll.register(control, select.POLLIN)
        by_fd = {stream.fd: stream for stream in self.streams}
        for fd, stream in by_fd.items():
            if stream.live:
                poll.register(fd, select.POLLIN)
        give_up = self.deadline + _GRACE_S
        looks = not self.zygote.counts_threads or any(c.home for c in self.children)
        next_look = self.started + _LOOK_EVERY_S
        begun, next_check = False, self.started + _CHECK_EVERY_S
        while any(child.ended is None for child in self.children):
            now = time.monotonic()
            if not begun and now >= next_check:
                begun = self._begun() or now > self.started + _BEGIN_S
                if not begun:  # a busy machine, not a slow program
                    self.deadline, give_up = now + self.wall_s, now + self.wall_s + _GRACE_S
                    next_check = now + _CHECK_EVERY_S
            if now >= self.deadline and not self.timed_out:
                self.timed_out = True
                self.kill()
            if now >= give_up:
                raise SandboxError("a killed child was not reported by its zygote")
            wake = give_up if self.timed_out else self.deadline
            if not begun:
                wake = min(wake, next_check)
            if looks and not self.timed_out:
                if now >= next_look:
                    self._look()
                    next_look = now + _LOOK_EVERY_S
                wake = min(wake, next_look)
            for fd, _ in poll.poll(max(1, int((wake - now) * 1000) + 1)):
                if fd == control:
                    self.zygote.pump()
                    continue
                stream = by_fd[fd]
                stream.read()
                if not stream.open:
                    poll.unregister(fd)
                elif stream.over:
                    poll.unregister(fd)
                    self.stop(Outcome.output, f"wrote more than {stream.cap >> 10} kB")
                elif stream is stop_when and _has_frames(stream.data, 2):
                    self.finished_s = time.monotonic() - self.started
                    self.kill()
        self.finished_s = self.finished_s or time.monotonic() - self.started
        for stream in self.streams:
            stream.drain()

    def stop(self, outcome: Outcome, reason: str) -> None:
        self.violation = self.violation or (outcome, reason)
        self.kill()

    def kill(self) -> None:
        for child in self.children:
            if child.ended is None:
                child.kill()

    def _begun(self) -> bool:
        """Whether every child has said that it has its job; it does so before it runs it."""
        for channel in self.channels:
            if not channel.data:
                channel.read()
        return all(channel.data for channel in self.channels)

    def _look(self) -> None:
        """Count what no kernel limit counts here: threads a job, bytes on a disk."""
        for child in self.children:
            if child.ended is not None:
                continue
            if child.home:
                most = int(self.limits.scratch_mb * (1 << 20))
                if scratch.used_bytes(child.home, most) > most:
                    self.stop(
                        Outcome.output, f"wrote more than {self.limits.scratch_mb} MB of files"
                    )
            if not self.zygote.counts_threads:
                with contextlib.suppress(OSError):
                    threads = os.stat(f"/proc/{child.pid}/task").st_nlink - 2
                    if threads > self.limits.threads + 1:
                        self.stop(Outcome.denied, f"more than {self.limits.threads} threads")

    def messages(self, which: int, most: int = 1) -> list[dict[str, Any]]:
        """What a child sent after it began, up to `most` and to the first that is no frame.

        Raises NotBegun when it did not begin: then no untrusted code has run.
        """
        try:
            found = frames(self.channels[which].data, most + 1)
        except wire.ProtocolError:
            found = [{"began": True}]  # only untrusted code sends nonsense
        if not found:
            raise NotBegun("a child died before its job")
        if "setup" in found[0]:
            raise NotBegun(f"a child could not be isolated: {found[0]['setup']}")
        return found[1:]

    def end(self, which: int, kind: str = "") -> End:
        """What the end of a child means; `kind` is what it said of its last error."""
        ended = self.children[which].ended
        assert ended is not None
        outcome, reason = Outcome.finished, ""
        if self.timed_out:
            outcome = Outcome.timeout
            reason = f"did not end within {self.wall_s:.3g} s"
        elif self.violation is not None:
            outcome, reason = self.violation
        elif ended.exit == -signal.SIGKILL and ended.cpu_s >= cpu_limit_s(self.limits) - 0.5:
            outcome, reason = Outcome.timeout, f"used {ended.cpu_s:.3g} s of processor time"
        elif ended.exit < 0:
            name = signal.Signals(-ended.exit).name
            if ended.memory_mb >= 0.9 * self.limits.memory_mb:
                outcome, reason = Outcome.memory, f"killed by {name} at the memory limit"
            else:
                outcome, reason = Outcome.crashed, f"killed by {name}"
        elif kind == "memory":
            outcome = Outcome.memory
            reason = f"needed more than {self.limits.memory_mb} MB"
        elif kind == "denied":
            outcome, reason = Outcome.denied, "ended on something that the sandbox denies"
        return End(outcome, reason, ended, self.finished_s)

    def close(self) -> None:
        self.close_write_ends()
        while self._reads:
            os.close(self._reads.pop())
        for child in self.children:
            if child.ended is not None:
                child.close()


def _has_frames(data: bytearray, count: int) -> bool:
    at = 0
    for _ in range(count):
        if at + 4 > len(data):
            return False
        at += 4 + int(struct.unpack_from("=I", data, at)[0])
    return at <= len(data)


def sealed(data: bytes) -> int:
    """A descriptor to read `data` from, that nobody can write to."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
