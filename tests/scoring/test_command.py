"""`grpo score`, run as a user runs it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo_core.cli import main

HERE = Path(__file__).parent
LENGTH = ["--reward", "unruly.py:Length"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the unruly rewards in it."""
    (tmp_path / "unruly.py").write_text((HERE / "unruly.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def grpo(folder, monkeypatch, capfd):
    """`grpo("score", …)`: exit code and output."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["grpo", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=end.value.code or 0, stdout=out, stderr=err)

    run.path = folder
    return run


def start(*arguments):
    """The same as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from grpo_core.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write(path, *rows):
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )


def read(text):
    return [json.loads(line) for line in text.splitlines()]


def test_rows_come_out_in_order_with_id_total_and_scores(grpo):
    write(
        grpo.path / "in.jsonl",
        {"prompt": "p", "completion": "abc", "id": "first"},
        {"prompt": [{"role": "user", "content": "p"}], "completion": [{"content": "ab"}]},
        {"prompt": "p", "completion": "sys.exit", "answer": 3},
    )
    done = grpo("score", "in.jsonl", *LENGTH, "-o", "scale=0.5", "--out", "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = read((grpo.path / "out.jsonl").read_text())
    assert rows[:2] == [
        {
            "id": "first",
            "total": 1.5,
            "scores": {"Length": {"value": 1.5, "outcome": "scored", "reason": ""}},
        },
        {
            "id": 1,
            "total": 1.0,
            "scores": {"Length": {"value": 1.0, "outcome": "scored", "reason": ""}},
        },
    ]
    assert (rows[2]["id"], rows[2]["total"]) == (2, None)
    assert rows[2]["scores"]["Length"]["outcome"] == "error"
    assert done.stdout == ""
    assert "Length" in done.stderr and "1.2500" in done.stderr


def test_bad_rows_are_named_by_line_and_do_not_stop_the_rest(grpo):
    write(
        grpo.path / "in.jsonl",
        {"prompt": "p", "completion": "a"},
        "{not json",
        "[1]",
        "",
        {"prompt": "p"},
        {"prompt": 3, "completion": "a"},
        {"prompt": "p", "completion": ["a"]},
        {"prompt": "p", "completion": "a", "id": [1]},
        {"prompt": "p", "completion": "é\ud800"},
    )
    with (grpo.path / "in.jsonl").open("ab") as file:
        file.write(b'{"prompt": "\xff", "completion": "a"}\n{"prompt": "p", "completion": "z"}')
    done = grpo("score", "in.jsonl", *LENGTH)
    assert done.returncode == 1
    assert [row["id"] for row in read(done.stdout)] == [0, 8, 10]
    for line in (
        "in.jsonl line 2: not JSON: ",
        "in.jsonl line 3: a JSON array, not an object",
        "in.jsonl line 5: no 'completion'",
        "in.jsonl line 6: 'prompt' is neither a string nor a list of messages",
        "in.jsonl line 7: 'completion' is neither",
        "in.jsonl line 8: 'id' is neither a string nor a whole number",
        "in.jsonl line 10: not UTF-8: ",
    ):
        assert line in done.stderr


def test_many_bad_rows_are_counted_rather_than_listed(grpo):
    write(grpo.path / "in.jsonl", *["{"] * 50)
    done = grpo("score", "in.jsonl", *LENGTH)
    assert done.returncode == 1
    assert done.stderr.count("not JSON") == 20
    assert "30 more bad rows" in done.stderr


def test_standard_input_to_standard_output_with_prints_kept_out(grpo):
    rows = [{"prompt": "p", "completion": c} for c in ("print", "abc")]
    done = grpo("score", "-", *LENGTH, stdin="\n".join(map(json.dumps, rows)))
    assert [row["total"] for row in read(done.stdout)] == [5.0, 3.0]
    assert "loud" in done.stderr


def test_a_config_with_groups(grpo):
    (grpo.path / "grpo.yaml").write_text(
        "rubric: {rewards: [{use: 'unruly.py:Place', options: {size: 3}},"
        " {use: 'unruly.py:Length', weight: 10}]}"
    )
    rows = [
        {"prompt": "p", "completion": "x" * length, "group": group}
        for group, lengths in (("a", (2, 0, 1)), ("b", (1, 2, 3)))
        for length in lengths
    ]
    write(grpo.path / "in.jsonl", *rows, {"prompt": "p", "completion": "alone"})
    done = grpo("score", "in.jsonl", "--config", "grpo.yaml", "-o", "rubric.rewards.1.weight=100")
    assert done.returncode == 1
    assert [row["total"] for row in read(done.stdout)] == [202, 0, 101, 100, 201, 302]
    assert "line 7: no 'group', and a reward here judges whole groups" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --config and --reward"),
        ([*LENGTH, "--config", "x.yaml"], "give one of --config and --reward"),
        (["--config", "x.yaml"], "x.yaml: there is no such config file"),
        (["--reward", "unruly.py:Lenght"], "did you mean 'Length'?"),
        (["--reward", "nothing-like-it"], "no plugin registers a reward 'nothing-like-it'"),
        ([*LENGTH, "-o", "scal=2"], "options.scal: unknown key; did you mean 'scale'?"),
        ([*LENGTH, "-o", "scale=big"], "options.scale: expected a number, got 'big'"),
        ([*LENGTH, "-o", "scale"], "-o scale: expected KEY=VALUE"),
        ([*LENGTH, "--resume"], "give --out"),
        ([*LENGTH, "--out", "in.jsonl"], "--out is the input"),
        (["--reward", "unruly.py:Needs"], "needs the column 'answer', which the data does not"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(grpo, arguments, message):
    write(grpo.path / "in.jsonl", {"prompt": "p", "completion": "a", "anwser": "b"})
    done = grpo("score", "in.jsonl", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (grpo.path / "in.jsonl").read_text()


def test_resume_goes_on_after_a_torn_line_and_gives_the_same_file(grpo):
    rows = [
        {"prompt": "p", "completion": "x" * (i % 7), "group": i // 2, "id": f"r{i}"}
        for i in range(1500)
    ]
    write(grpo.path / "in.jsonl", *rows[:700], "bad", *rows[700:])
    command = ["score", "in.jsonl", "--reward", "unruly.py:Place", "-o", "size=2"]
    whole = grpo(*command, "--out", "whole.jsonl")
    expected = (grpo.path / "whole.jsonl").read_bytes()
    lines = expected.splitlines(keepends=True)
    assert len(lines) == 1500
    out = grpo.path / "out.jsonl"
    for kept in (0, 511, 513, 1500):
        out.write_bytes(b"".join(lines[:kept]) + (b'{"id": "torn' if kept < 1500 else b""))
        done = grpo(*command, "--out", "out.jsonl", "--resume")
        assert out.read_bytes() == expected, kept
        assert done.returncode == whole.returncode == 1
        assert done.stderr == whole.stderr  # the bad row, and the summary of all rows


def test_resume_refuses_a_file_that_is_not_its_own(grpo):
    rows = [{"prompt": "p", "completion": "x", "id": f"r{i}"} for i in range(4)]
    write(grpo.path / "in.jsonl", *rows)
    grpo("score", "in.jsonl", *LENGTH, "--out", "out.jsonl")
    before = (grpo.path / "out.jsonl").read_bytes()
    write(grpo.path / "in.jsonl", *rows[:2])
    resume = ["--out", "out.jsonl", "--resume"]
    assert "the input ends before it" in grpo("score", "in.jsonl", *LENGTH, *resume).stderr
    write(grpo.path / "in.jsonl", *reversed(rows))
    assert "written from another input" in grpo("score", "in.jsonl", *LENGTH, *resume).stderr
    other = grpo("score", "in.jsonl", "--reward", "unruly.py:lengths", *resume)
    assert other.returncode == 2 and "has scores of Length, not of lengths" in other.stderr
    assert (grpo.path / "out.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_resumes_to_the_same_file(grpo, how):
    rows = [{"prompt": "p", "completion": f"sleep 0.001{i:05}"} for i in range(2500)]
    write(grpo.path / "in.jsonl", *rows)
    command = ["score", "in.jsonl", *LENGTH, "--out", "out.jsonl"]
    grpo(*command[:-1], "whole.jsonl")
    process = start(*command)
    out = grpo.path / "out.jsonl"
    while not out.exists() or not out.stat().st_size:
        time.sleep(0.01)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -9)
    if how == signal.SIGINT:
        rows_out = read(out.read_text())  # every line is whole
        assert 0 < len(rows_out) < 2500
        assert f"stopped after {len(rows_out):,} rows; --resume goes on from there" in err
    assert grpo(*command, "--resume").returncode == 0
    assert out.read_bytes() == (grpo.path / "whole.jsonl").read_bytes()


def test_whoever_reads_the_output_may_leave(grpo):
    write(grpo.path / "in.jsonl", *[{"prompt": "p", "completion": "abc"}] * 3000)
    process = start("score", "in.jsonl", *LENGTH)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 1
    assert "Traceback" not in process.stderr.read()


def test_a_raise_policy_ends_the_command(grpo):
    (grpo.path / "grpo.yaml").write_text(
        "rubric: {rewards: [{use: 'unruly.py:Length', on_error: raise}]}"
    )
    write(grpo.path / "in.jsonl", {"prompt": "p", "completion": "raise it", "id": "here"})
    done = grpo("score", "in.jsonl", "--config", "grpo.yaml")
    assert done.returncode == 1
    assert "reward 'Length' ended in error on sample here: ValueError: it" in done.stderr
