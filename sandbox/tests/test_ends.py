"""Nothing survives: not a job, not the controller's death, not a thousand jobs."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from grpo_sandbox import Limits, Outcome, Sandbox

CONTROLLER = """
import sys, threading
from grpo_sandbox import Sandbox
sandbox = Sandbox(tier=int(sys.argv[1]), workers=2)
threading.Thread(target=sandbox.run, args=("open('f', 'w').write('x' * 5000)\\nwhile True: pass",)).start()
threading.Thread(target=sandbox.check, args=("def f(): return 1", "f()\\nwhile True: pass", "f")).start()
import time; time.sleep(0.3)
print("up", flush=True)
time.sleep(100)
"""


def children(pid: int) -> list[int]:
    """Every process below this one, nearest first."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] != "Z":
                parents[int(entry)] = int(stat[1])
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def gone(pids: list[int]) -> bool:
    """Wait until none of these processes runs any more."""
    for _ in range(500):
        alive = []
        for pid in pids:
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    alive.append(pid)
            except OSError:
                pass
        if not alive:
            return True
        time.sleep(0.01)
    return False


def scratches() -> set[str]:
    return {
        entry for entry in os.listdir(tempfile.gettempdir()) if entry.startswith("grpo-sandbox-")
    }


def test_a_killed_controller_leaves_nothing(sandbox: Sandbox) -> None:
    before, mounts = scratches(), Path("/proc/mounts").read_text()
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(sandbox.tier)], stdout=subprocess.PIPE
    )
    assert controller.stdout is not None and controller.stdout.readline() == b"up\n"
    below = children(controller.pid)
    assert len(below) >= 4
    controller.kill()
    controller.wait()
    controller.stdout.close()
    assert gone(below)
    assert scratches() == before
    assert Path("/proc/mounts").read_text() == mounts


@pytest.mark.parametrize("which", range(6))
def test_after_any_kill_the_next_job_works(sandbox: Sandbox, which: int) -> None:
    with Sandbox(Limits(wall_s=3), tier=sandbox.tier) as ours:
        everyone = children(os.getpid())
        ours.run("print(1)")
        mine = [pid for pid in children(os.getpid()) if pid not in everyone] or everyone[-2:]
        job = threading.Thread(target=ours.run, args=("import time; time.sleep(0.5)",))
        job.start()
        time.sleep(0.1)
        targets = [pid for pid in children(os.getpid()) if pid in mine or pid not in everyone]
        if which < len(targets):
            try:
                os.kill(targets[which], signal.SIGKILL)
            except ProcessLookupError:
                pytest.skip("it had just ended")
        job.join()
        assert ours.run("print(2)").stdout == "2\n"
        assert ours.check("def f(): return 1", "assert f() == 1", "f").passed


def test_what_was_left_by_the_killed_is_swept_and_the_living_is_not() -> None:
    with Sandbox(tier=2) as ours:
        (mine,) = [
            path
            for path in (Path(tempfile.gettempdir(), name) for name in scratches())
            if (path / "jobs").exists()
        ][:1]
        left = Path(tempfile.mkdtemp(prefix="grpo-sandbox-"))
        (left / "jobs" / "1").mkdir(parents=True)
        for path in (left, mine):
            os.utime(path, (1, 1))
        Sandbox(tier=2).close()
        assert not left.exists() and mine.exists()
        assert ours.run("print(1)").stdout == "1\n"


def test_a_fork_of_the_controller_gets_its_own_zygote(sandbox: Sandbox) -> None:
    with Sandbox(tier=sandbox.tier) as ours:
        assert ours.run("print(1)").stdout == "1\n"
        pid = os.fork()
        if not pid:
            os._exit(0 if ours.run("print(2)").stdout == "2\n" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert ours.run("print(3)").stdout == "3\n"


def test_a_child_that_is_slow_to_begin_does_not_use_up_the_jobs_time(sandbox: Sandbox) -> None:
    with Sandbox(tier=sandbox.tier) as ours:
        ours.run("print(1)")
        waiting = [child.pidfd for zygote in ours._idle for child in zygote.children.values()]
        for pidfd in waiting:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        later = threading.Timer(
            0.6, lambda: [signal.pidfd_send_signal(fd, signal.SIGCONT) for fd in waiting]
        )
        later.start()
        run = ours.run("print(2)", wall_s=0.2)
        assert (run.outcome, run.stdout) == ("finished", "2\n")
        later.join()


def test_closing_ends_a_job_in_progress(sandbox: Sandbox) -> None:
    ours = Sandbox(tier=sandbox.tier)
    below = children(os.getpid())
    runs = []
    job = threading.Thread(target=lambda: runs.append(ours.run("while True: pass")))
    job.start()
    time.sleep(0.1)
    ours.close()
    job.join(3)
    assert not job.is_alive() and runs[0].outcome is Outcome.error
    assert len(children(os.getpid())) < len(below)


def soak(sandbox: Sandbox, jobs: int) -> None:
    """Mixed jobs, a fifth of them hostile; every verdict right, and nothing left over."""
    hostile = [
        ("import os; os._exit(3)", "finished"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("x = bytearray(10**10)", "memory"),
        ("import os; os.fork()", "denied"),
        ("import os\nfor n in range(30): os.makedirs(f'{n}/a'); open(f'{n}/b', 'w')", "finished"),
        ("import os\nfor fd in range(3, 64):\n try: os.write(fd, b'junk')\n except OSError: pass", "finished"),
        ("while True: print('x' * 10000)", "output"),
    ]  # fmt: skip
    with Sandbox(Limits(wall_s=0.5), tier=sandbox.tier) as ours:

        def batch(count: int) -> None:
            for n in range(count):
                if n % 50 == 1:
                    assert ours.run("while True: pass").outcome == "timeout"
                elif n % 5 == 0:
                    source, outcome = hostile[n // 5 % len(hostile)]
                    assert ours.run(source, wall_s=5).outcome == outcome, source
                elif n % 5 == 1:
                    (reply,) = ours.call("def f(x): return x + 1", "f", [(n,)])
                    assert reply.value == n + 1
                elif n % 5 == 2:
                    right = n % 2
                    verdict = ours.check(f"def f(x): return x + {right}", "assert f(1) == 2", "f")
                    assert verdict.passed is bool(right), verdict
                else:
                    assert ours.run("print(int(input()) + 1)", f"{n}\n").stdout == f"{n + 1}\n"

        batch(20)
        before = state()
        batch(jobs)
        for _ in range(500):  # the last job is being cleaned up behind our back
            if all(now <= then for now, then in zip(state(), before, strict=True)):
                return
            time.sleep(0.01)
        assert state() == before


def state() -> tuple[int, int, int]:
    """Open descriptors, processes, and scratch directories of jobs."""
    jobs = sum(len(_jobs(scratch)) for scratch in scratches())
    return len(os.listdir("/proc/self/fd")), len(children(os.getpid())), jobs


def _jobs(scratch: str) -> list[str]:
    try:
        return os.listdir(f"/tmp/{scratch}/jobs")
    except OSError:
        return []


def test_a_short_soak_leaks_nothing(sandbox: Sandbox) -> None:
    soak(sandbox, 75)


@pytest.mark.slow
def test_a_long_soak_leaks_nothing(sandbox: Sandbox) -> None:
    soak(sandbox, int(os.environ.get("GRPO_SANDBOX_SOAK", "5000")))
