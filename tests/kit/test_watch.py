"""What the kit sees of a reward that reaches out of its process, and what it lets pass."""

import os
import random
import socket
import sys
import textwrap

import pytest

from grpo_core.testing import Lab
from grpo_core.testing.check import run_check
from grpo_core.testing.conduct import no_network, no_traces, no_writes
from grpo_core.testing.state import changes, snapshot

OUTSIDE = os.path.expanduser("~/grpo-kit-test-outside")


def judged(tmp_path, body, check):
    """What a check says of a plain function with this body; errors in it are let pass."""
    body = textwrap.indent(textwrap.dedent(body).strip(), "        ")
    (tmp_path / "reward.py").write_text(
        "import os, socket, sqlite3, shutil, tempfile, pathlib, random\n"
        f"OUTSIDE = {OUTSIDE!r}\n"
        "def f(prompts, completions):\n"
        f"    try:\n{body}\n"
        "    except Exception as error:\n        assert isinstance(error, (OSError, sqlite3.Error))\n"
        "    return [1.0] * len(prompts)\n"
    )
    with Lab("reward.py:f", base_dir=tmp_path) as lab:
        return run_check(lab, check, {})


@pytest.mark.parametrize(
    "body",
    [
        "pathlib.Path(OUTSIDE).write_text('x')",
        "os.close(os.open(OUTSIDE, os.O_CREAT | os.O_WRONLY))",
        "os.rename(tempfile.mkstemp()[1], OUTSIDE)",
        "sqlite3.connect(OUTSIDE)",
        "os.chdir(os.path.dirname(OUTSIDE)); open(os.path.basename(OUTSIDE), 'a')",
    ],
)
def test_a_write_outside_temp_is_seen_and_refused(tmp_path, body):
    result = judged(tmp_path, body, no_writes)
    assert result.status == "failed" and OUTSIDE in result.saw[0]
    assert not os.path.exists(OUTSIDE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('x')",
        "open(os.devnull, 'w').write('x')",
        "sqlite3.connect(':memory:').execute('create table t (x)')",
        "open(__file__).read()",
    ],
)
def test_temporary_files_and_reading_are_fine(tmp_path, body):
    assert judged(tmp_path, body, no_writes).status == "passed"


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("socket.socket().connect(('127.0.0.1', 9))", "('127.0.0.1', 9)"),
        ("socket.getaddrinfo('a.invalid', 80)", "a.invalid"),
    ],
)
def test_reaching_for_the_network_is_seen_and_refused(tmp_path, body, seen):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = judged(tmp_path, body.replace("9)", f"{port})"), no_network)
        assert result.status == "failed" and seen.replace("9)", f"{port})") in result.saw[0]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody came through
            server.accept()


@pytest.mark.slow
def test_talking_to_a_child_of_its_own_is_fine(tmp_path):
    body = "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'"
    assert judged(tmp_path, body, no_network).status == "passed"


@pytest.mark.slow
def test_a_generator_of_its_own_leaves_no_trace(tmp_path):
    assert judged(tmp_path, "random.Random(0).random()", no_traces).status == "passed"


def test_changes_name_what_changed_and_nothing_else(monkeypatch):
    before = snapshot()
    assert changes(before, snapshot()) == []
    monkeypatch.setenv("KIT_TEST", "1")
    state = random.getstate()
    random.random()
    seen = changes(before, snapshot())
    random.setstate(state)
    assert seen == ["environment: KIT_TEST was not there, is '1'", "random state: changed"]


def test_what_a_library_brings_along_is_no_change():
    before = snapshot()
    before.pop("default socket timeout", None)
    assert "socket" in sys.modules and changes(before, snapshot()) == []
