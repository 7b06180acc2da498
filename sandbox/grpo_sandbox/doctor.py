"""What this machine offers for isolation: each primitive's state, the tier and why not
a higher one, a short self-attack, and the median latency.

States are found out by using the primitive in a child process, never by reading
version numbers.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from grpo_sandbox import probe
from grpo_sandbox.linux import kernel, landlock, numbers
from grpo_sandbox.results import Limits, SandboxUnavailable

if TYPE_CHECKING:
    from grpo_sandbox.sandbox import Sandbox

_ATTACKS = {
    "read /etc/passwd": "print(open('/etc/passwd').read())",
    "list processes": "import os; print(os.listdir('/proc'))",
    "reach the network": "import socket; socket.socket(); print('out')",
    "start a program": "import os; os.system('true'); os.execv('/bin/sh', ['sh', '-c', 'echo out'])",
    "kill everyone": "import os; os.kill(-1, 9); print('out')",
    "use shared memory": "import ctypes\nif ctypes.CDLL(None).shmget(1, 4096, 0o1600) >= 0: print('out')",
    "never end": "while True: pass",
    "take all memory": "x = []\nwhile True: x.append(bytearray(10**7))",
    "flood the output": "while True: print('x' * 10**5)",
}


@dataclass
class Report:
    """What the doctor found. `tier` 0 means that nothing isolates."""

    tier: int
    machine: str
    primitives: dict[str, str]
    """`yes`, or why not."""
    refused: dict[int, str] = field(default_factory=dict)
    """Tiers that cannot be had, and why."""
    attacks: dict[str, str] = field(default_factory=dict)
    """`contained`, or what got out."""
    latency_ms: float | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def as_text(self) -> str:
        lines = [self.machine, ""]
        width = max(map(len, [*self.primitives, *self.attacks]))
        lines += [f"  {name:<{width}}  {state}" for name, state in self.primitives.items()]
        lines.append("")
        names = {
            1: "tier 1: namespaces, landlock, seccomp, resource limits",
            2: "tier 2: landlock, seccomp, resource limits; no namespaces",
            0: f"no tier: code cannot be isolated here. {probe.REMEDY}",
        }
        lines += [f"no tier {tier}: {why}" for tier, why in self.refused.items()]
        lines.append(names[self.tier])
        if self.attacks:
            lines.append("")
            lines += [f"  {name:<{width}}  {state}" for name, state in self.attacks.items()]
        if self.latency_ms is not None:
            lines += ["", f"median latency of print(1+1): {self.latency_ms:.1f} ms"]
        return "\n".join(lines)


def examine() -> Report:
    """Look at this machine. Takes about a second."""
    machine = f"{platform.system()} {platform.release()} on {platform.machine()}, uid " + (
        str(os.getuid()) if hasattr(os, "getuid") else "?"
    )
    if sys.platform != "linux" or not numbers.SUPPORTED:
        return Report(0, machine, {"Linux on x86-64 or arm64": "no"})
    from grpo_sandbox.sandbox import Sandbox

    report = Report(0, machine, primitives())
    for tier in (1, 2):
        try:
            with Sandbox(Limits(wall_s=1.0), tier=tier) as sandbox:
                report.tier = tier
                report.attacks = {name: _attack(sandbox, s) for name, s in _ATTACKS.items()}
                report.latency_ms = _latency(sandbox)
            return report
        except SandboxUnavailable as error:
            report.refused[tier] = error.reasons[tier]
    return report


def _attack(sandbox: Sandbox, source: str) -> str:
    run = sandbox.run(source)
    if run.outcome == "finished" and run.exit == 0 and run.stdout:
        return f"NOT contained: {run.stdout[:100]!r}"
    if run.outcome == "error":
        return f"the sandbox failed: {run.reason}"
    return "contained"


def _latency(sandbox: Sandbox) -> float:
    times = []
    for _ in range(50):
        started = time.perf_counter()
        sandbox.run("print(1+1)")
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def primitives() -> dict[str, str]:
    """The state of everything that isolation is made of."""
    user = kernel.CLONE_NEWUSER if os.getuid() else 0
    found = {
        "user namespace": _tried(lambda: kernel.unshare(kernel.CLONE_NEWUSER)),
        "mount namespace": _tried(lambda: kernel.unshare(user | kernel.CLONE_NEWNS)),
        "pid namespace": _tried(lambda: kernel.unshare(user | kernel.CLONE_NEWPID)),
        "network namespace": _tried(lambda: kernel.unshare(user | kernel.CLONE_NEWNET)),
        "ipc namespace": _tried(lambda: kernel.unshare(user | kernel.CLONE_NEWIPC)),
        "uts namespace": _tried(lambda: kernel.unshare(user | kernel.CLONE_NEWUTS)),
        "tmpfs mount": _tried(lambda: _mount_tmpfs(user)),
        "landlock": _tried(lambda: landlock.Ruleset([], max(1, landlock.abi())).enforce()),
        "seccomp filter": _tried(_seccomp),
        "pidfd": _tried(lambda: os.close(os.pidfd_open(os.getpid()))),
        "memfd": _tried(lambda: os.close(os.memfd_create("x"))),
    }
    if found["landlock"] == "yes":
        found["landlock"] = f"yes, version {landlock.abi()}"
    return found


def _mount_tmpfs(user: int) -> None:
    kernel.unshare(user | kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", 0)


def _seccomp() -> None:
    from grpo_sandbox.linux.policy import job_filter

    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.load_filter(job_filter(os.getpid(), metadata=False))


def _tried(attempt: Callable[[], None]) -> str:
    """Try it in a child, which cannot undo it."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            attempt()
            os.write(write, b"yes")
        except OSError as error:
            os.write(write, f"no: {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        answer = f.read().decode()
    os.waitpid(pid, 0)
    return answer or "no: it ended the process"
