"""A run that is killed, preempted, or out of disk goes on to what it would have been.

Runs are real ones of a tiny model, in processes forked from one that has torch loaded.
"""

import contextlib
import errno
import io
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

import pyarrow.parquet as parquet  # noqa: E402
from rich.console import Console  # noqa: E402

from grpo_core import disk  # noqa: E402
from grpo_core.cli import train as command  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.metrics import RunFolder  # noqa: E402

FORKER = """
import json, os, socket, sys, traceback
import torch, transformers, accelerate, pyarrow.parquet
import grpo_core.trainer
from grpo_core import disk
from grpo_core.cli import main

disk.RETRY_S = 0.1


def run(folder, arguments, rank, ranks, port):
    os.chdir(folder)
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.argv = ["grpo", *arguments]
    try:
        main()
    except SystemExit as left:
        return left.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
    return 0


print("ready", flush=True)
for line in sys.stdin:
    folder, ranks, *arguments = json.loads(line)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pids = []
    for rank in range(ranks):
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(run(folder, arguments, rank, ranks, port))
    print(json.dumps(pids), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(codes[0], flush=True)
"""


@pytest.fixture(scope="module")
def forker():
    """A process that has torch loaded and forks one run after the other."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


class Grpo:
    """Runs `grpo` in a folder, one at a time."""

    undisturbed: ClassVar[dict] = {}

    def __init__(self, forker, folder):
        self.forker, self.folder, self.exit = forker, folder, 0
        self.plugins, self.ranks = [], 1

    def whole(self, *settings):
        """What the undisturbed run leaves, and how long it takes; run once for all tests."""
        key = (self.ranks, *settings)
        if key not in self.undisturbed:
            started = time.monotonic()
            assert self.run(*settings, "name=whole") == 0, self.told()
            took = time.monotonic() - started
            self.undisturbed[key] = outcome(self.folder / "runs" / "whole"), took
        return self.undisturbed[key]

    def start(self, *arguments):
        command = [*self.plugins, "train", "grpo.yaml", *arguments]
        self.forker.stdin.write(json.dumps([str(self.folder), self.ranks, *command]) + "\n")
        self.forker.stdin.flush()
        self.pids, self.exit = json.loads(self.forker.stdout.readline()), None
        self.pid = self.pids[0]

    def ended(self, within=0.0):
        return bool(select.select([self.forker.stdout], [], [], within)[0])

    def code(self):
        """Its exit code (of rank 0), once it has ended; negative for a signal."""
        assert self.ended(120), f"the run hangs: {self.told()}"
        self.exit = int(self.forker.stdout.readline())
        return self.exit

    def run(self, *arguments):
        self.start(*arguments)
        return self.code()

    def signal(self, number):
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def workers(self):
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def wait_for(self, happened):
        """Until it did or the run has ended; whether it did."""
        deadline = time.monotonic() + 60
        while not (done := happened()) and not self.ended(0.002):
            assert time.monotonic() < deadline, self.told()
        return done

    def told(self):
        path = self.folder / "log.txt"
        return " ".join(path.read_text().split()) if path.exists() else ""


@pytest.fixture
def grpo(forker, project):
    one = Grpo(forker, project)
    yield one
    if one.exit is None:  # the test has failed
        one.signal(signal.SIGKILL)
        one.code()


def whole_lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def outcome(run):
    """All that a run left, without what depends on the clock."""
    timed = ("step_time", "time/", "system/")
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in m.items() if not k.startswith(timed)}) for m in found]
    samples = {}
    for path in sorted((run / "samples").iterdir()):
        judged = parquet.read_table(path).to_pylist()
        samples[path.name] = [
            {k: v for k, v in row.items() if not k.endswith("/seconds")} for row in judged
        ]
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"]
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    weights = {
        path.relative_to(newest).as_posix(): path.read_bytes()
        for path in newest.rglob("*.safetensors")
    }
    return {"lines": lines, "samples": samples, "summary": summary, "weights": weights}


def assert_same(run, whole):
    found = outcome(run)
    assert found["lines"] == whole["lines"]
    assert found["samples"].keys() == whole["samples"].keys()
    for part in whole:
        assert found[part] == whole[part], part


# several updates a rollout, and a reference that moves, between steps that are saved and not
HARD = [
    "grpo.iterations=2", "grpo.beta=0.05", "grpo.sync_reference_every=3", "train.save_every=2",
    "train.keep=2", "eval.every=4",
]  # fmt: skip
LORA = ["model.lora={rank: 2}", "grpo.iterations=2", "grpo.beta=0.05", "train.save_every=2"]


def being_written(run):
    """The checkpoint that is: its folder's name and when it was last touched."""
    with contextlib.suppress(FileNotFoundError):
        for path in (run / "checkpoints").glob("partial-*"):
            return path.name, path.stat().st_mtime_ns
    return None


def kill_loop(grpo, settings, kills, steps, seed=0):
    """Kill and resume until `kills` were made, starting over where a run got to its end.

    Every second kill comes while a checkpoint is being written. Returns how many did.
    """
    chance = random.Random(seed)
    settings = [*settings, f"train.steps={steps}"]
    whole, took = grpo.whole(*settings)
    run, made, writing, resume = grpo.folder / "runs" / "cut", 0, 0, []
    while True:
        left = being_written(run)
        grpo.start(*settings, "name=cut", *resume)
        if made < kills:
            if made % 2:
                grpo.wait_for(lambda left=left: being_written(run) not in (None, left))
                time.sleep(chance.uniform(0, 0.01))
            else:
                grpo.ended(chance.uniform(0, took / 2))
            grpo.signal(signal.SIGKILL)
        code = grpo.code()
        if code == 0:
            assert_same(run, whole)
            if made >= kills:
                return writing
            shutil.rmtree(run)
            resume = []
        else:
            assert code == -signal.SIGKILL, grpo.told()
            made += 1
            writing += being_written(run) not in (None, left)
            resume = ["--resume"] if run.is_dir() else []


class TestKilled:
    def test_three_times(self, grpo):
        kill_loop(grpo, HARD, kills=3, steps=6)

    @pytest.mark.slow
    def test_twenty_times_also_while_a_checkpoint_is_being_written(self, grpo):
        assert kill_loop(grpo, HARD, kills=20, steps=16) > 3

    @pytest.mark.slow
    def test_with_adapters(self, grpo):
        assert kill_loop(grpo, LORA, kills=8, steps=12) > 1

    @pytest.mark.slow
    def test_with_two_processes(self, grpo):
        grpo.ranks = 2
        assert kill_loop(grpo, HARD, kills=8, steps=12) > 1

    def test_before_its_first_checkpoint_it_starts_again(self, grpo):
        settings = ["train.save_every=0", "eval=null", "name=cut"]
        run = grpo.folder / "runs" / "cut"
        grpo.start(*settings)
        grpo.wait_for(lambda: whole_lines(run / "metrics.jsonl") >= 1)
        grpo.signal(signal.SIGKILL)
        assert grpo.code() == -signal.SIGKILL
        assert grpo.run(*settings, "--resume") == 0
        assert "no checkpoint yet; starting from the first step" in grpo.told()
        assert whole_lines(run / "metrics.jsonl") == 4
        assert whole_lines(run.with_name("cut.1") / "metrics.jsonl") >= 1


class TestWhatIsNotStored:
    @pytest.mark.slow
    def test_no_generator_of_the_process_matters(self, grpo):
        """Why a checkpoint holds no state of random generators: nothing draws from them."""
        (grpo.folder / "noise.py").write_text(
            "import os, random\n"
            "import numpy, torch\n"
            "from grpo_core import hookimpl\n\n"
            "@hookimpl\n"
            "def on_step(step, metrics):\n"
            "    random.seed(os.urandom(8))\n"
            "    numpy.random.seed(int.from_bytes(os.urandom(4)))\n"
            "    torch.manual_seed(int.from_bytes(os.urandom(7)))\n"
        )
        grpo.plugins = ["--plugin", "noise.py"]
        assert grpo.run("name=noisy") == 0, grpo.told()
        grpo.plugins = []
        assert_same(grpo.folder / "runs" / "noisy", grpo.whole()[0])


class TestPreempted:
    def test_sigterm_saves_and_the_rest_is_as_if_nothing_had_been(self, grpo):
        """Schedulers signal every process of a job: the workers, too."""
        settings = ["train.steps=12", "train.save_every=0", "eval=null"]
        run = grpo.folder / "runs" / "cut"
        grpo.start(*settings, "name=cut")
        grpo.wait_for(lambda: whole_lines(run / "metrics.jsonl") >= 1)
        for pid in [grpo.pid, *grpo.workers()]:
            os.kill(pid, signal.SIGTERM)
        assert grpo.code() == 143
        done = whole_lines(run / "metrics.jsonl")
        assert 1 <= done < 12
        assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:06d}"]
        assert "SIGTERM: finishing this step" in grpo.told() and "--resume" in grpo.told()
        assert grpo.run(*settings, "name=cut", "--resume") == 0, grpo.told()
        assert_same(run, grpo.whole(*settings)[0])

    def test_a_second_sigterm_stops_at_once(self, grpo):
        begun = grpo.folder / "begun"
        (grpo.folder / "my_rewards.py").write_text(
            "import pathlib, time\n\n"
            "def digits(completions, **_):\n"
            f"    pathlib.Path({str(begun)!r}).touch()\n"
            "    time.sleep(600)\n\n"
            "brevity = digits\n"
        )
        grpo.start("eval=null")
        assert grpo.wait_for(begun.exists), grpo.told()
        grpo.signal(signal.SIGTERM)
        assert grpo.wait_for(lambda: "again: stop at once" in grpo.told())
        grpo.signal(signal.SIGTERM)
        assert grpo.code() == 143
        assert not list((grpo.folder / "runs" / "grpo" / "checkpoints").iterdir())


class TestDamaged:
    def test_the_one_before_is_used_and_the_user_told_why(self, grpo):
        assert grpo.run() == 0, grpo.told()
        run = grpo.folder / "runs" / "grpo"
        weights = run / "checkpoints" / "step-000004" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        assert grpo.run("--resume") == 0, grpo.told()
        assert "step-000004 is damaged and left out: model.safetensors has" in grpo.told()
        assert "resuming from runs/grpo/checkpoints/step-000002" in grpo.told()
        assert_same(run, grpo.whole()[0])

    def test_when_none_is_whole_nothing_is_touched(self, grpo):
        assert grpo.run("eval=null") == 0, grpo.told()
        run = grpo.folder / "runs" / "grpo"
        before = (run / "metrics.jsonl").read_bytes()
        for path in (run / "checkpoints").iterdir():
            os.truncate(path / "optimizer.pt", 100)
        assert grpo.run("eval=null", "--resume") == 2
        assert "none of the 2 checkpoints in runs/grpo/checkpoints is whole" in grpo.told()
        assert (run / "metrics.jsonl").read_bytes() == before


class TestOtherSettings:
    def test_another_model_is_refused_others_are_told(self, grpo, tiny_qwen):
        assert grpo.run("train.steps=1", "eval=null") == 0, grpo.told()
        assert grpo.run("eval=null", f"model.name={tiny_qwen}", "--resume") == 2
        assert f"is {tiny_qwen} here" in grpo.told()
        assert grpo.run("eval=null", "model.lora={rank: 2}", "--resume") == 2
        assert "model.lora.rank was not set in runs/grpo and is 2 here" in grpo.told()
        assert grpo.run("train.steps=2", "eval=null", "--resume") == 0, grpo.told()
        assert "other settings than before: train.steps 1 -> 2" in grpo.told()


def mount(folder, options):
    """A tmpfs at `folder`; the test is skipped where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs needs root: {mounted.stderr.decode().splitlines()[0]}")


class TestFullDisk:
    @pytest.fixture
    def small(self, project):
        mount(project / "runs", "size=6m")
        yield project / "runs"
        subprocess.run(["umount", "--lazy", str(project / "runs")], check=True)

    @pytest.mark.parametrize("free_kb", [0, pytest.param(150, marks=pytest.mark.slow)])
    def test_a_run_waits_for_space_and_loses_nothing(self, grpo, small, free_kb):
        """Full from the start, or within the first checkpoint."""
        whole, _ = grpo.whole()
        shutil.rmtree(small / "whole", ignore_errors=True)
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(small).free - free_kb * 1024))
        grpo.start("name=cut")
        assert grpo.wait_for(lambda: "the disk is full" in grpo.told()), grpo.told()
        assert not grpo.ended(0.5)
        ballast.unlink()
        assert grpo.code() == 0, grpo.told()
        assert "going on" in grpo.told()
        assert_same(small / "cut", whole)

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """A run's folder on a disk that is full until somebody is told so."""
        monkeypatch.setattr(disk, "RETRY_S", 0.01)
        told, real = [], os.fsync
        folder = RunFolder(tmp_path / "run", told.append)
        folder.start()
        folder.told = told

        def fsync(descriptor):
            if not told:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        return folder

    def test_a_line_of_metrics_is_written_once(self, run):
        run.add_metrics({"step": 1, "reward": 0.5})
        run.add_metrics({"step": 2, "reward": 0.5})
        assert [line["step"] for line in run.read_metrics()] == [1, 2]
        assert "cannot write metrics.jsonl" in run.told[0] and str(run.path) in run.told[0]
        assert len(run.told) == 2

    def test_samples(self, run):
        run.add_samples("step-000001", [{"group": 0}])
        assert parquet.read_table(run.samples_path / "step-000001.parquet").to_pylist()
        assert [path.name for path in run.samples_path.iterdir()] == ["step-000001.parquet"]
        assert "step-000001.parquet" in run.told[0]

    def test_the_summary(self, run):
        run.write_summary({"before": {}})
        assert run.read_summary() == {"before": {}}

    def test_another_error_is_not_waited_out(self, run, monkeypatch):
        def broken(descriptor):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            run.add_metrics({"step": 1})
        assert run.read_metrics() == []


def test_a_log_on_a_full_disk_ends_no_run():
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    display = command.Display(Console(file=Full()), steps=1)
    display.phase("evaluating", 0)
    display.say("SIGTERM: finishing this step")
    display.step(
        {"step": 1, "reward": 0.5, "completions/mean_length": 8, "kl": None, "step_time": 1.0}
    )


class TestRewinding:
    @pytest.fixture
    def run(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        folder.start()
        for step in (1, 2, 3):
            folder.add_metrics({"step": step, "loss": 0.1 + 0.2})
            folder.add_samples(f"step-{step:06d}", [{"group": 0}])
        folder.add_samples("eval-000003-greedy", [{"group": 0}])
        return folder

    def test_lines_stay_as_they_were_written(self, run):
        before = run.metrics_path.read_bytes().splitlines(keepends=True)
        run.rewind(2)
        assert run.metrics_path.read_bytes() == b"".join(before[:2])
        assert sorted(path.stem for path in run.samples_path.iterdir()) == [
            "step-000001",
            "step-000002",
        ]

    @pytest.mark.parametrize("tear", [1, 10])
    def test_a_torn_last_line_is_of_a_step_that_comes_again(self, run, tear):
        os.truncate(run.metrics_path, run.metrics_path.stat().st_size - tear)
        run.rewind(2)
        assert whole_lines(run.metrics_path) == 2

    def test_a_torn_line_before_the_checkpoint_is_the_users_to_mend(self, run):
        data = run.metrics_path.read_bytes()
        run.metrics_path.write_bytes(b"\0" * 10 + data[10:])
        with pytest.raises(ConfigError, match="line 1 is torn"):
            run.rewind(2)

    def test_a_half_written_sample_file_goes(self, run):
        (run.samples_path / "step-000003.partial").write_bytes(b"PAR1")
        run.rewind(2)
        assert not list(run.samples_path.glob("*.partial"))

    def test_a_folder_of_checkpoints_alone_is_moved_aside_too(self, run):
        """They may be the only trace of a run of days."""
        (run.checkpoints_path / "step-000002").mkdir()
        run.metrics_path.unlink()
        aside = run.start()
        assert (aside / "checkpoints" / "step-000002").is_dir()


class TestUnwritable:
    @pytest.fixture
    def read_only(self, tmp_path):
        folder = tmp_path / "fixed"
        if os.getuid() == 0:  # whom permissions do not stop
            mount(folder, "ro")
            yield folder
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        else:
            folder.mkdir(mode=0o555)
            yield folder

    def refused(self, project, out, monkeypatch):
        monkeypatch.chdir(project)
        monkeypatch.setattr("grpo_core.trainer.Trainer", None)  # nothing is loaded
        with pytest.raises(ConfigError) as refused:
            command.train(project / "grpo.yaml", [f"train.output_dir={out}"])
        assert str(refused.value).startswith(f"train.output_dir: cannot write to {out}: ")
        return str(refused.value)

    def test_a_read_only_folder(self, project, read_only, monkeypatch):
        told = self.refused(project, read_only / "run", monkeypatch)
        assert "read-only" in told or "permission denied" in told

    def test_a_file_where_the_folder_should_be(self, project, monkeypatch):
        (project / "taken").write_text("")
        assert "not a directory" in self.refused(project, project / "taken", monkeypatch)
