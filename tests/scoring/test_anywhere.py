"""The same few lines work wherever Python runs: scripts with and without a guard,
standard input, a console, a notebook, a server's thread; and what a parent's end means."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

REWARD = """
import grpo_core
from grpo_core import Reward, Sample, Score

BONUS = 1

class Length(Reward):
    def score(self, sample):
        if sample.completion_text == "spin":
            while True:
                pass
        return len(sample.completion_text) + BONUS
"""
WORK = """
from grpo_core.rubric import Rubric, Term
rubric = Rubric((Term("length", Length(), deadline_s=0.5),))
samples = [Sample("p", text) for text in ("abc", "spin", "abcd")]
"""
UNGUARDED = f"{REWARD}{WORK}\nprint(grpo_core.score(samples, rubric).totals)\n"
GUARDED = (
    f"{REWARD}\nif __name__ == '__main__':\n"
    + "\n".join(f"    {line}" for line in WORK.splitlines())
    + "\n    print(grpo_core.score(samples, rubric).totals)\n"
)
FROM_FILE = f"""
import grpo_core
from grpo_core import Rubric, Sample
rubric = Rubric.from_config({{"rewards": [{{"use": "{HERE}/unruly.py:Length"}}]}})
print(grpo_core.score([Sample("p", text) for text in ("ab", "abc", "exit")], rubric).totals)
"""
SERVER = f"""
{REWARD}
{WORK}
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(scorer.score(samples).totals).encode())
    def log_message(self, *arguments):
        pass

with grpo_core.Scorer(rubric) as scorer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(urlopen(f"http://127.0.0.1:{{server.server_port}}").read().decode())
    server.shutdown()
"""
CONSOLE = f"""
import code
console = code.InteractiveInterpreter()
for cell in ({REWARD!r}, {WORK!r}, "print(grpo_core.score(samples, rubric).totals)"):
    console.runcode(compile(cell, "<cell>", "exec"))
"""


def python(*arguments, stdin=None, cwd=None):
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", [UNGUARDED, GUARDED], ids=["unguarded", "guarded"])
def test_a_script_that_defines_its_own_reward(tmp_path, script):
    pytest.importorskip("cloudpickle")
    (tmp_path / "script.py").write_text(script)
    assert python("script.py", cwd=tmp_path) == "[4.0, None, 5.0]\n"  # printed once


@pytest.mark.slow
def test_a_script_with_a_reward_from_a_file(tmp_path):
    (tmp_path / "script.py").write_text(FROM_FILE)
    assert python("script.py", cwd=tmp_path) == "[2.0, 3.0, None]\n"


def test_standard_input():
    assert python("-", stdin=FROM_FILE) == "[2.0, 3.0, None]\n"
    assert python("-c", FROM_FILE) == "[2.0, 3.0, None]\n"


def test_standard_input_that_defines_its_own_reward():
    pytest.importorskip("cloudpickle")
    assert python("-", stdin=UNGUARDED) == "[4.0, None, 5.0]\n"


@pytest.mark.slow
def test_a_console_which_is_what_a_notebook_is():
    pytest.importorskip("cloudpickle")
    assert python("-c", CONSOLE) == "[4.0, None, 5.0]\n"


@pytest.mark.slow
def test_a_notebook(tmp_path):
    """A real one: its kernel runs an event loop, and its cells have no file.

    Needs `pip install nbclient ipykernel`, too much for every developer's install.
    """
    pytest.importorskip("cloudpickle")
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [
        REWARD,
        f"{WORK}\nprint(grpo_core.score(samples, rubric).totals)",
        "with grpo_core.Scorer(rubric, workers=2) as scorer:\n"
        "    print((await scorer.score_async(samples)).totals)\n"
        "    print(scorer.score(samples).totals)",
        REWARD.replace("BONUS = 1", "BONUS = 2"),  # the cell is changed and run again
        f"{WORK}\nprint(grpo_core.score(samples, rubric).totals)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = [
        "".join(out.text for out in cell.outputs if out.output_type == "stream")
        for cell in notebook.cells
    ]
    once = "[4.0, None, 5.0]\n"
    assert printed == ["", once, 2 * once, "", "[5.0, None, 6.0]\n"]


def test_a_thread_of_a_server(tmp_path):
    pytest.importorskip("cloudpickle")
    (tmp_path / "server.py").write_text(SERVER)
    assert python("server.py", cwd=tmp_path) == "[4.0, None, 5.0]\n"


def test_a_module_that_scores_when_it_is_imported_is_told_so(tmp_path):
    """Its workers import it to find the reward, which must not start workers again."""
    script = UNGUARDED.replace("rubric = Rubric", "Length.__module__ = __name__\nrubric = Rubric")
    (tmp_path / "module.py").write_text(script.replace(".totals)", ".scores['length'][0].reason)"))
    out = python("-c", "import module", cwd=tmp_path)
    assert "scoring was started while a worker imports the module" in out


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    script = FROM_FILE.replace('"exit"', '"spin"').replace(
        "print(", "import sys; print('ready', flush=True); ("
    )
    script = script.replace('unruly.py:Length"}', 'unruly.py:Length", "deadline_s": 1000}')
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, text=True
    )
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 20
    while not (workers := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    workers = children(process.pid)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.mark.slow
def test_an_unclosed_scorer_does_not_keep_the_interpreter_from_ending(tmp_path):
    script = f"{REWARD}{WORK}\nscorer = grpo_core.Scorer(rubric)\nscorer.start()\n"
    pytest.importorskip("cloudpickle")
    assert python("-c", script + "print(scorer.score(samples).totals)") == "[4.0, None, 5.0]\n"


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_forked_child_is_told_to_make_its_own(tmp_path):
    script = FROM_FILE + (
        "\nimport os\nscorer = grpo_core.Scorer(rubric)\nscorer.start()\n"
        "if os.fork() == 0:\n"
        "    try:\n        scorer.score([Sample('p', 'a')])\n"
        "    except RuntimeError as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert "forked from; make another here" in python("-W", "ignore", "-c", script)
