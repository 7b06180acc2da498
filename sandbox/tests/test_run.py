"""Programs: what comes out, how they end, and what honest ones may do."""

import textwrap

import pytest

from grpo_sandbox import Limits, Outcome, Sandbox


def test_a_program_reads_stdin_and_prints(sandbox: Sandbox) -> None:
    run = sandbox.run("n = int(input())\nprint(n * 6)", stdin="7\n")
    assert (run.outcome, run.stdout, run.stderr, run.exit) == ("finished", "42\n", "", 0)
    assert run.tier == sandbox.tier and not run.unsafe
    assert 0 < run.wall_s < 5 and run.cpu_s > 0 and run.memory_mb > 1


@pytest.mark.parametrize(
    ("source", "code"), [("import sys; sys.exit(3)", 3), ("raise SystemExit", 0), ("1/0", 1)]
)
def test_the_exit_code_is_reported(sandbox: Sandbox, source: str, code: int) -> None:
    run = sandbox.run(source)
    assert (run.outcome, run.exit) == (Outcome.finished, code)


def test_an_uncaught_error_shows_its_own_lines_only(sandbox: Sandbox) -> None:
    run = sandbox.run("def f():\n    return [][1]\nf()\n")
    lines = run.stderr.splitlines(keepends=True)
    unmarked = "".join(line for line in lines if line.strip(" ~^\n"))  # marks are of a version
    assert unmarked == textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "program.py", line 3, in <module>
            f()
          File "program.py", line 2, in f
            return [][1]
        IndexError: list index out of range
        """
    )


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("x = bytearray(10**9)", "memory"),
        ("x = []\nwhile True: x.append('x' * 10**6)", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "denied"),
        ("import os; os.fork()", "denied"),
        ("open('/etc/shadow')", "denied"),
        ("def f(:", "finished"),
    ],
)
def test_how_a_program_ends(sandbox: Sandbox, source: str, outcome: str) -> None:
    run = sandbox.run(source, wall_s=0.5)
    if source.startswith("open('/etc") and sandbox.tier == 1:
        assert "FileNotFoundError" in run.stderr  # it is not even there
        return
    assert run.outcome == outcome, run
    assert bool(run.reason) == (outcome != "finished")


def test_output_is_kept_up_to_the_limit(sandbox: Sandbox) -> None:
    run = sandbox.run("print('start')\nwhile True: print('x' * 1000)")
    assert run.truncated and run.stdout.startswith("start\n")
    assert len(run.stdout) == sandbox.limits.output_kb * 1024


def test_output_before_a_kill_is_kept(sandbox: Sandbox) -> None:
    run = sandbox.run("print('so far', flush=True)\nwhile True: pass", wall_s=0.5)
    assert (run.outcome, run.stdout) == ("timeout", "so far\n")


def test_large_input_and_output(sandbox: Sandbox) -> None:
    run = sandbox.run("import sys; print(len(sys.stdin.read())); print('y' * 200_000)", "x" * 10**7)
    assert run.stdout == f"{10**7}\n{'y' * 200_000}\n"


def test_bytes_that_are_no_text(sandbox: Sandbox) -> None:
    run = sandbox.run("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", b"\xffok\x00")
    assert run.stdout == "\ufffdok\x00"


@pytest.mark.parametrize("source", ["\x00", "\ud800", "# -*- coding: rot13 -*-\n1/0", "(" * 10_000])
def test_sources_that_cannot_be_compiled_are_the_programs_own_fault(
    sandbox: Sandbox, source: str
) -> None:
    assert sandbox.run(source).exit == 1


def test_jobs_are_deterministic(sandbox: Sandbox) -> None:
    source = """
import os, random, time, locale, sys
print(hash("x"), random.random(), dict(os.environ), time.tzname, sys.argv)
print(sys.stdout.encoding, locale.getlocale(), list({"a", "b", "c", "d"}))
"""
    first, second = sandbox.run(source), sandbox.run(source)
    assert first.stdout == second.stdout
    assert "{} ('UTC', 'UTC') ['program.py']\nutf-8" in first.stdout


def test_nothing_of_one_job_reaches_the_next(sandbox: Sandbox) -> None:
    sandbox.run("import builtins, math; builtins.len = None; math.pi = 3; open('left', 'w')")
    run = sandbox.run("import math, os; print(len('ab'), math.pi > 3, os.listdir('.'))")
    assert run.stdout == "2 True []\n"


HONEST = {
    "threads": """
        import threading
        total = []
        threads = [threading.Thread(target=total.append, args=(i,)) for i in range(12)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(sum(total))
        """,
    "thread pool": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            print(sum(pool.map(lambda x: x * x, range(100))))
        """,
    "asyncio": """
        import asyncio
        async def f(x):
            await asyncio.sleep(0.001)
            return x
        async def main():
            print(sum(await asyncio.gather(*(f(i) for i in range(10)))))
        asyncio.run(main())
        """,
    "sqlite in memory": """
        import sqlite3
        db = sqlite3.connect(":memory:")
        db.execute("create table t (x)"); db.executemany("insert into t values (?)", [(1,), (2,)])
        print(*db.execute("select sum(x) from t"))
        """,
    "sqlite in scratch": """
        import sqlite3
        with sqlite3.connect("file.db") as db:
            db.execute("create table t (x)"); db.execute("insert into t values (7)")
        print(*sqlite3.connect("file.db").execute("select x from t"))
        """,
    "tempfile": """
        import os, shutil, tempfile
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "a")
            with open(path, "w") as f: f.write("kept")
            shutil.copy2(path, path + "b"); os.chmod(path, 0o600)
            print(open(path + "b").read())
        with tempfile.TemporaryFile() as f: f.write(b"x")
        """,
    "decimal": """
        from decimal import Decimal, getcontext
        getcontext().prec = 50
        print(Decimal(1) / Decimal(7))
        """,
    "dataclasses and pickle": """
        import copy, pickle
        from dataclasses import dataclass
        @dataclass
        class P: x: int
        print(pickle.loads(pickle.dumps(copy.deepcopy(P(3)))))
        """,
    "big recursion": """
        import sys
        sys.setrecursionlimit(200_000)
        def f(n): return 0 if n == 0 else 1 + f(n - 1)
        print(f(100_000))
        """,
    "recursion in a big thread": """
        import sys, threading
        sys.setrecursionlimit(100_000); threading.stack_size(64 * 2**20)
        def f(n): return 0 if n == 0 else 1 + f(n - 1)
        t = threading.Thread(target=lambda: print(f(50_000))); t.start(); t.join()
        """,
    "imports of the rest of the library": """
        import argparse, bz2, csv, difflib, email.mime.text, fractions, glob, graphlib, html, inspect
        import ipaddress, logging, lzma, pathlib, pprint, queue, secrets, selectors, shlex, ssl
        import struct, textwrap, unittest, urllib.parse, uuid, xml.etree.ElementTree, zipfile, zlib
        print(uuid.uuid4().version, secrets.token_hex(2) != "", pathlib.Path(".").resolve().exists())
        """,
    "unittest": """
        import unittest
        class T(unittest.TestCase):
            def test(self): self.assertEqual(1, 1)
        print(unittest.main(exit=False).result.wasSuccessful())
        """,
    "exit handlers and finalizers": """
        import atexit
        class Last:
            def __del__(self): print("finalizer")
        keep = Last()
        atexit.register(print, "handler")
        """,
    "signals": """
        import signal
        def handler(*_): print("alarm"); raise SystemExit
        signal.signal(signal.SIGALRM, handler); signal.setitimer(signal.ITIMER_REAL, 0.01)
        while True: pass
        """,
    "main guard and own module": """
        with open("helper.py", "w") as f: f.write("x = 5")
        import helper
        if __name__ == "__main__": print(helper.x)
        """,
    "denial that is caught": """
        import subprocess
        try: subprocess.run(["ls"])
        except OSError as e: print("sandbox" in str(e))
        """,
}


@pytest.mark.parametrize("name", HONEST)
def test_ordinary_programs_work(sandbox: Sandbox, name: str) -> None:
    run = sandbox.run(textwrap.dedent(HONEST[name]))
    assert (run.outcome, run.exit) == ("finished", 0), run
    assert run.stdout.strip()


def test_what_is_denied_says_so(sandbox: Sandbox) -> None:
    for source in ("import os; os.system('ls')", "import socket; socket.socket()"):
        assert "denied by the sandbox's policy" in sandbox.run(source).stderr


def test_a_job_finds_its_interpreter_as_if_it_had_been_started(sandbox: Sandbox) -> None:
    """Although it was forked past what Python puts right after a fork."""
    source = """
import gc, hashlib, os, random, signal, threading
main = threading.main_thread()
print(main is threading.current_thread(), main.native_id == threading.get_native_id())
print(threading.active_count(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(gc.isenabled(), dict(os.environ), hashlib.sha256(b"x").hexdigest()[:4], random.random())
"""
    first, again = sandbox.run(source), sandbox.run(source)
    assert first.stdout.startswith("True True\n1 True\nTrue {} 2d71 0.8444"), first
    assert first.stdout == again.stdout


def test_more_threads_than_allowed(sandbox: Sandbox) -> None:
    source = """
import threading, time
for i in range(100):
    threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()
"""
    run = sandbox.run(source)
    assert run.outcome == "denied" or "can't start new thread" in run.stderr


def test_preloaded_modules_work_and_others_do_not_exist() -> None:
    pytest.importorskip("numpy")
    with Sandbox(Limits(), preload=["numpy"]) as sandbox:
        run = sandbox.run("import numpy as np, numpy.linalg\nprint(np.linalg.det(np.eye(3)))")
        assert run.stdout == "1.0\n", run
        assert "ModuleNotFoundError" in sandbox.run("import pytest").stderr


def test_in_bulk_and_async(sandbox: Sandbox) -> None:
    import asyncio

    with Sandbox(Limits(), workers=2, tier=sandbox.tier) as two:
        runs = two.run_many([(f"print({n})", "") for n in range(20)])
        assert [run.stdout for run in runs] == [f"{n}\n" for n in range(20)]

        async def some() -> list[str]:
            return [r.stdout for r in await asyncio.gather(*(two.run_async("print(1)"),) * 1)]

        assert asyncio.run(some()) == ["1\n"]


@pytest.mark.parametrize("bad", [{"wall_s": 0}, {"memory_mb": -1}, {"files": 4}, {"threads": True}])
def test_limits_must_make_sense(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Limits(**bad)  # type: ignore[arg-type]


def test_a_closed_sandbox_says_so() -> None:
    sandbox = Sandbox()
    sandbox.close()
    assert sandbox.run("print(1)").outcome is Outcome.error
