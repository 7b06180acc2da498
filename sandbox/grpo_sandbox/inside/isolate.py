"""The inner walls: what every forked job puts on before it reads its task.

Runs once a job, in the child, single-threaded; whatever can be is prepared before. The order matters: mounts need
the capabilities that are dropped next, and seccomp comes last because it
refuses the calls that build all the rest.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from dataclasses import dataclass

from grpo_sandbox.linux import kernel, landlock, policy
from grpo_sandbox.linux.kernel import (
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    Call,
    call,
)
from grpo_sandbox.linux.namespaces import SCRATCH

_MB = 1 << 20
_STACK_MB = 64
"""For the main thread, whose stack RLIMIT_DATA does not count."""


@dataclass(frozen=True)
class Walls:
    """What the zygote worked out once for all its jobs."""

    tier: int
    landlock: int
    """The landlock version, 0 for none."""
    rules: list[tuple[int, int]]
    """Landlock rules that every job has: open descriptors and rights."""
    memory_mb: int
    data_mb: int
    """Private writable memory that the interpreter holds before any job."""
    space_mb: int
    """Its address space."""
    threads: int
    """0 where the kernel counts threads a user, not a job; then the parent counts."""
    files: int
    scratch_mb: int
    cpu_s: int


@dataclass(frozen=True)
class Prepared:
    """The walls as system calls, converted once: a page of the zygote's memory that a
    child touches is copied for it, and those copies are most of what a child costs."""

    walls: Walls
    place: list[Call]
    drop: list[Call]
    limit: list[Call]
    ruleset: landlock.Ruleset
    as_first: list[Call]
    """Loads the seccomp program of a process that is the first of its namespace."""


def prepare(walls: Walls) -> Prepared:
    """Once, in the zygote."""
    place = [call("prctl", kernel.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)]
    if walls.tier == 1:
        size = f"size={walls.scratch_mb}m,nr_inodes=4096,mode=700".encode()
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        place += [
            call("unshare", CLONE_NEWNS),
            call("mount", "tmpfs", SCRATCH, "tmpfs", flags, size),
        ]
    drop = [call("umask", 0o077)]
    if walls.tier:
        drop += kernel.dropping_capabilities()
        drop.append(call("prctl", kernel.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    drop.append(call("prctl", kernel.PR_SET_DUMPABLE, 0, 0, 0, 0))
    as_first = kernel.loading_filter(policy.job_filter(1, metadata=walls.tier == 1))
    ruleset = landlock.Ruleset(walls.rules, walls.landlock)
    return Prepared(walls, place, drop, _limits(walls), ruleset, as_first)


def isolate(prepared: Prepared, scratch: str) -> None:
    """Put this process behind the walls. `scratch` is its directory in tier 2 and
    below; tier 1 mounts its own. Raises OSError naming the step."""
    walls = prepared.walls
    kernel.make(prepared.place)
    scratch = scratch or SCRATCH
    os.chdir(scratch)
    kernel.make(prepared.drop)
    if walls.tier and walls.landlock:
        here = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
        prepared.ruleset.enforce(here)
        os.close(here)
    kernel.make(prepared.limit)
    if walls.tier == 1 and os.getpid() == 1:
        kernel.make(prepared.as_first)
    elif walls.tier:
        kernel.load_filter(policy.job_filter(os.getpid(), metadata=walls.tier == 1))


def _limits(walls: Walls) -> list[Call]:
    data = (walls.data_mb + walls.memory_mb) * _MB
    space = (walls.space_mb + 2 * walls.memory_mb + 512) * _MB
    limits = {
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_AS: space,
        resource.RLIMIT_STACK: _STACK_MB * _MB,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: walls.scratch_mb * _MB,
        resource.RLIMIT_NOFILE: walls.files,
        resource.RLIMIT_CPU: walls.cpu_s,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if walls.threads:
        limits[resource.RLIMIT_NPROC] = walls.threads
    calls = []
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        calls.append(call("prlimit64", 0, limit, struct.pack("=QQ", value, value), 0))
    return calls
