"""The inner walls: what every forked job puts on before it reads its task.

Runs once a job, in the child, single-threaded. The order matters: mounts need
the capabilities that are dropped next, and seccomp comes last because it
refuses the calls that build all the rest.
"""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass

from grpo_sandbox.linux import kernel, landlock, policy
from grpo_sandbox.linux.kernel import CLONE_NEWNS, MS_NODEV, MS_NOEXEC, MS_NOSUID
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


def isolate(walls: Walls, scratch: str) -> None:
    """Put this process behind the walls. `scratch` is its directory in tier 2 and
    below; tier 1 mounts its own. Raises OSError naming the step."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if walls.tier == 1:
        kernel.unshare(CLONE_NEWNS)
        kernel.mount(
            "tmpfs",
            SCRATCH,
            "tmpfs",
            MS_NOSUID | MS_NODEV | MS_NOEXEC,
            f"size={walls.scratch_mb}m,nr_inodes=4096,mode=700",
        )
        scratch = SCRATCH
    os.chdir(scratch)
    os.umask(0o077)
    if walls.tier:
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if walls.tier and walls.landlock:
        here = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
        landlock.restrict([*walls.rules, (here, landlock.WRITE)], walls.landlock)
        os.close(here)
    set_limits(walls)
    if walls.tier:
        kernel.load_filter(policy.job_filter(os.getpid(), metadata=walls.tier == 1))


def set_limits(walls: Walls) -> None:
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
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(limit, (value, value))
