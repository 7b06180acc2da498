"""How fast the sandbox is, beside the ways people use instead.

    python benchmarks/sandbox.py [--data HumanEval.jsonl.gz] [--jobs 300] [--soak 0]

Latency of `print(1+1)` and jobs a second with one and two workers, for each tier that this
machine has, for plain `python -I -S -c`, and for bubblewrap around it where that is installed.
`check` with one call and with a hundred. With --data, HumanEval's canonical solutions.
With --soak N, N mixed jobs, a fifth of them hostile, counting what is left over.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from grpo_sandbox import Limits, Sandbox, SandboxUnavailable

PROGRAM = "print(1+1)"


def plain() -> str:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def bubblewrap() -> str:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/", "/"]
    command += [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(name: str, one: Callable[[], str], jobs: int) -> None:
    """Print median and 99th percentile of one after another, and the rate of two at once."""
    assert one() == "2\n"
    times = []
    began = time.perf_counter()
    for _ in range(jobs):
        started = time.perf_counter()
        one()
        times.append(time.perf_counter() - started)
    alone = jobs / (time.perf_counter() - began)
    with ThreadPoolExecutor(2) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: one(), range(2 * jobs)))
        together = 2 * jobs / (time.perf_counter() - began)
    times.sort()
    median, p99 = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    print(f"{name:<28} {median:7.2f} {p99:7.2f} ms {alone:7.0f} {together:7.0f} jobs/s")


def checks(sandbox: Sandbox, jobs: int) -> None:
    for calls in (1, 100):
        tests = f"def check(c):\n    for n in range({calls}): assert c(n) == n + 1"
        times = []
        for _ in range(jobs):
            started = time.perf_counter()
            assert sandbox.check("def f(n): return n + 1", tests, "f").passed
            times.append(time.perf_counter() - started)
        print(f"  check, {calls:3d} calls: median {statistics.median(times) * 1e3:.2f} ms")


def humaneval(sandbox: Sandbox, path: str) -> None:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    jobs = [
        (r["prompt"] + r["canonical_solution"], r["test"], r["entry_point"], r["prompt"])
        for r in rows
    ]
    began = time.perf_counter()
    verdicts = sandbox.check_many(jobs)
    took = time.perf_counter() - began
    passed = sum(verdict.passed for verdict in verdicts)
    print(f"  HumanEval: {passed} of {len(rows)} canonical solutions pass, {took:.2f} s")


def soak(sandbox: Sandbox, jobs: int) -> None:
    """A fifth hostile, 2% to their deadline; every answer checked."""
    hostile = ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"]
    hostile += [
        "x = bytearray(10**10)",
        "import os; os.fork()",
        "open('f', 'w').write('x' * 10**6)",
    ]
    hostile += ["while True: print('x' * 10000)", "import os; os.kill(-1, 9)"]

    def job(n: int) -> bool:
        if n % 50 == 7:
            return sandbox.run("while True: pass", wall_s=0.5).outcome == "timeout"
        if n % 5 == 0:
            return sandbox.run(hostile[n // 5 % len(hostile)]).outcome != "error"
        if n % 5 == 1:
            return sandbox.call("def f(x): return x + 1", "f", [(n,)])[0].value == n + 1
        if n % 5 == 2:
            wrong = n % 2
            verdict = sandbox.check(f"def f(x): return x + {wrong}", "assert f(1) == 1", "f")
            return verdict.outcome == "finished" and verdict.passed is not bool(wrong)
        return sandbox.run("print(int(input()) + 1)", f"{n}\n").stdout == f"{n + 1}\n"

    def held() -> tuple[int, int]:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
        return len(os.listdir("/proc/self/fd")), resident

    with ThreadPoolExecutor(sandbox.workers) as threads:
        list(threads.map(job, range(200)))
        before, began = held(), time.perf_counter()
        wrong = [n for n, right in enumerate(threads.map(job, range(jobs))) if not right]
    took = time.perf_counter() - began
    print(f"  soak: {jobs} jobs in {took:.0f} s, {len(wrong)} wrong {wrong[:5]}")
    print(f"  descriptors and resident MB before {before}, after {held()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="HumanEval.jsonl.gz")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--soak", type=int, default=0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}: {'quiet' if load < 0.5 else 'BUSY'}")
    print(f"{'':<28}  median     p99    alone  two at once")
    for tier in (1, 2):
        try:
            sandbox = Sandbox(Limits(), workers=2, tier=tier)
        except SandboxUnavailable as error:
            print(f"tier {tier}: {error}")
            continue
        with sandbox:
            measure(f"sandbox, tier {tier}", lambda: sandbox.run(PROGRAM).stdout, options.jobs)  # noqa: B023
            checks(sandbox, options.jobs // 3)
            if options.data:
                humaneval(sandbox, options.data)
            if options.soak:
                soak(sandbox, options.soak)
    measure("python -I -S -c", plain, options.jobs)
    if shutil.which("bwrap"):
        measure("bwrap --unshare-all python", bubblewrap, options.jobs)
    else:
        print("bwrap is not installed")


if __name__ == "__main__":
    main()
