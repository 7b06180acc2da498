"""The probe job: whether a tier really holds here, found out by trying to get out.

Left out: a full self-attack (`doctor`, and the tests).
"""

from __future__ import annotations

from grpo_sandbox.results import Outcome, Run

REMEDY = (
    "Use Linux 5.13 or newer with landlock and seccomp (most distributions have both; in a "
    "container, the runtime must not forbid the landlock calls: Docker 20.10.10 and newer "
    "allow them), or allow unprivileged user namespaces. `python -m grpo_sandbox doctor` shows "
    "each primitive. unsafe=True runs without isolation, and says so in every result"
)

WALL_S = 10.0


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STANDARD = _words(
    """
    abc bisect collections copy dataclasses datetime decimal enum fractions functools
    heapq io itertools json math operator random re statistics string threading time traceback
    types typing
    """
)
"""Modules that every job finds loaded. Others load when they are imported."""

SOURCE = """
import os, socket, sys, threading
def tried(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print("leak:", what)
def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
tried("files", lambda: os.listdir("/etc"))
tried("processes", lambda: os.listdir("/proc/self"))
tried("the network", lambda: socket.socket(socket.AF_INET).close())
tried("sockets", lambda: socket.socket(socket.AF_UNIX).close())
tried("fork", lambda: fork())
tried("exec", lambda: os.execv(sys.executable, ["python", "-c", "print('leak: exec')"]))
tried("signals", lambda: os.kill(os.getppid() or 2, 0))
thread = threading.Thread(target=lambda: print("threads work"))
thread.start(); thread.join()
with open("file", "w") as f:
    f.write("x")
import wave
print("done")
"""


def failures(run: Run, tier: int) -> str:
    """What the probe job got away with, or could not do; empty when all is well."""
    wanted = ["threads work", "done"]
    lines = run.stdout.split("\n")[:-1]
    if run.outcome is Outcome.finished and lines == wanted:
        return ""
    leaks = [line for line in lines if line.startswith("leak:")]
    return "; ".join(leaks) or f"{run.outcome}: {run.reason} {run.stderr.strip()[-500:]}"
