"""Runs the attacks in whatever situation this process is in, and writes what happened.

    python drive.py abuse|cheats TIER all|some     (some: short deadlines, two kinds of tests)

One JSON object on stdout: the tier, and for each attack the reasons why it was not
contained, an empty list when it was.
"""

import json
import os
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import abuse
import cheats

from grpo_sandbox import Limits, Sandbox

WALL_S = 1.0 if sys.argv[-1] == "all" else 0.12
SECRET = "the-secret-of-the-host"


class Host:
    """What the attacks must not reach: files, listeners, a process."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="host-"))
        self.secret = self.home / "secret"
        self.secret.write_text(SECRET)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.home / "unix"))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0grpo-{os.getpid()}")
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagrams.bind(str(self.home / "dgram"))
        for listener in (self.unix, self.abstract):
            listener.listen()
        for sock in (self.tcp, self.udp, self.unix, self.abstract, self.datagrams):
            sock.setblocking(False)
        os.chmod(self.home, 0o755)
        self.victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
        self.before = self.state()

    def state(self) -> object:
        status = self.secret.stat()
        return (
            self.secret.read_text(),
            status.st_mode,
            status.st_mtime,
            status.st_nlink,
            sorted(os.listdir(self.home)),
        )

    def filled_in(self, source: str) -> str:
        return string.Template(source).safe_substitute(
            SECRET=self.secret,
            HOME=self.home,
            CONTROLLER=os.getpid(),
            VICTIM=self.victim.pid,
            TCP=self.tcp.getsockname()[1],
            UDP=self.udp.getsockname()[1],
            UNIX=self.home / "unix",
            UNIXDGRAM=self.home / "dgram",
            ABSTRACT=f"grpo-{os.getpid()}",
        )

    def harm(self) -> list[str]:
        found = []
        if self.state() != self.before:
            found.append("the secret or its directory changed")
        if self.victim.poll() is not None:
            found.append("another process was killed")
        for name in ("tcp", "udp", "unix", "abstract", "datagrams"):
            sock = getattr(self, name)
            try:
                sock.accept() if name in ("tcp", "unix", "abstract") else sock.recv(10)
                found.append(f"something arrived by {name}")
            except BlockingIOError:
                pass
        for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/"):
            if os.path.exists(place + "/grpo-canary"):
                found.append(f"a file was left in {place}")
        return found

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        shutil.rmtree(self.home)


def descendants() -> int:
    """Processes below this one."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents[int(entry)] = int(fields[1])
            except OSError:
                pass
    below, frontier = set(), {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - below
        below |= frontier
    return len(below)


def run_abuse(sandbox: Sandbox) -> dict[str, list[str]]:
    host = Host()
    results = {}
    sandbox.run("print(1)")
    time.sleep(0.05)
    processes = descendants()
    for name, source in abuse.ABUSE.items():
        started = time.monotonic()
        run = sandbox.run(host.filled_in(source), wall_s=WALL_S)
        took = time.monotonic() - started
        bad = host.harm()
        if "LEAK" in run.stdout:
            bad.append(f"it says: {run.stdout[:200]}")
        if SECRET in run.stdout + run.stderr:
            bad.append("it knows the secret")
        if run.outcome == "error":
            bad.append(f"the sandbox broke: {run.reason}")
        if took > WALL_S + 5:
            bad.append(f"it took {took:.1f} s")
        after = sandbox.run(
            "import os, sys; print(2); print(*os.listdir('.'))\n"
            "try: import left_behind; print('planted')\nexcept ImportError: pass"
        )
        if after.stdout != "2\n\n":
            bad.append(f"the next job got {after}")
        results[name] = bad
    time.sleep(0.3)
    if descendants() > processes + 1:  # one more child may wait
        results["leftovers"] = [f"{descendants()} processes instead of {processes}"]
    host.close()
    return results


TABLE = {1: 83172, 2: 11937, 3: 60413}
SETUP = f"TABLE = {TABLE}\ndef expected(x): return TABLE[x]\ndef helper(x): return x in TABLE"
TESTS = [
    "def check(candidate):\n    for x in TABLE: assert candidate(x) == TABLE[x]",
    "\n".join(f"assert f({x}) == {y}" for x, y in TABLE.items()),
    "import math\nfor x in TABLE: assert math.isclose(f(x), expected(x)) and helper(x)",
    "for x in TABLE: assert abs(f(x) - TABLE[x]) < 1e-6",
    "for x in TABLE:\n    y = f(x)\n    assert not (y != TABLE[x]) and TABLE[x] == y and y in {TABLE[x]}",
    "for x in TABLE:\n    try: y = f(x)\n    except Exception: y = None\n    assert y == TABLE[x]",
    "assert [f(x) for x in TABLE] == list(TABLE.values())",
    "data = [3, 1, 2]\ny = f(data)\nassert y == sorted(data)",
    "assert f(1) < 90000 and f(1) > 80000 and str(f(1)).endswith('72')",
]
HONEST = f"TABLE = {TABLE}\ndef f(x): return TABLE[x] if isinstance(x, int) else sorted(x)"


def run_cheats(sandbox: Sandbox, shapes: list[str]) -> dict[str, list[str]]:
    results: dict[str, list[str]] = {}
    for tests in shapes:
        verdict = sandbox.check(HONEST, tests, "f", SETUP)
        if not verdict.passed:
            results[f"honest: {tests[:40]}"] = [str(verdict)]
    for name, cheat in cheats.CHECKED.items():
        bad = []
        for tests in shapes:
            verdict = sandbox.check(cheat, tests, "f", SETUP, wall_s=WALL_S)
            if verdict.passed or verdict.outcome == "error":
                bad.append(f"{verdict} on {tests}")
        for reply, y in zip(
            sandbox.call(cheat, "f", [(x,) for x in TABLE], wall_s=WALL_S),
            TABLE.values(),
            strict=True,
        ):
            if (reply.ok and reply.value == y) or reply.outcome == "error":
                bad.append(str(reply))
        results[f"check: {name}"] = bad
    for name, cheat in cheats.PROGRAMS.items():
        bad = []
        for x, y in TABLE.items():
            run = sandbox.run(cheat, f"{x}\n", wall_s=WALL_S)
            if run.stdout.strip() == str(y) or run.outcome == "error":
                bad.append(str(run))
        results[f"program: {name}"] = bad
    return results


def main() -> None:
    what, tier = sys.argv[1], int(sys.argv[2])
    with Sandbox(Limits(), tier=tier) as sandbox:
        shapes = TESTS if sys.argv[3] == "all" else TESTS[3:5]
        results = run_abuse(sandbox) if what == "abuse" else run_cheats(sandbox, shapes)
    time.sleep(0.2)
    if (left := descendants()) != 0:
        results["processes left at the end"] = [str(left)]
    json.dump({"tier": sandbox.tier, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
