"""Several processes on gloo: the same gradients as one, one folder written once, and an end
everywhere, with its reason, when one of them fails."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import pyarrow.parquet as parquet  # noqa: E402

from grpo_core import checkpoint  # noqa: E402
from grpo_core.cli import train as command  # noqa: E402
from grpo_core.distributed.watch import LOST_S, State, judge  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.passes import deal  # noqa: E402

HERE = Path(__file__).parent
TRAIN = ["-c", "from grpo_core.cli import main; main()", "train", "grpo.yaml"]
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def launch(world, *command, cwd=None, seconds=200, **env):
    """As torchrun does, without its second copy of torch; exit codes and standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        told = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("step_time", "time/", "system/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in found]


class TestSameUpdate:
    """Weights after one update, against one process with the same rollout (in float64): every
    objective, ragged lengths, groups without signal, more passes on one rank than on another,
    several updates a rollout."""

    def learnt(self, world, tiny_model, tmp_path_factory):
        out = tmp_path_factory.mktemp("ranks") / "out.json"
        codes, told = launch(world, HERE / "learn_on_ranks.py", tiny_model, out)
        assert codes == [0] * world, told
        everywhere = json.loads(out.read_text())
        assert len(everywhere) == world
        return everywhere

    def check(self, everywhere):
        for cases in everywhere:
            for how, apart in cases.items():
                assert (apart["moved"] == 0) == how.startswith("no group teaches"), how
                assert apart["weights"] < 1e-6, how
                assert apart["metrics"] < 1e-6 and apart["same_names"], how

    def test_two_processes(self, tiny_model, tmp_path_factory):
        self.check(self.learnt(2, tiny_model, tmp_path_factory))

    @pytest.mark.slow
    def test_three_processes(self, tiny_model, tmp_path_factory):
        self.check(self.learnt(3, tiny_model, tmp_path_factory))


class TestRun:
    def test_two_processes_write_one_run(self, project):
        """Under FSDP2: drawn with gathered weights, saved whole, each thing once."""
        codes, told = launch(2, *TRAIN, "train.output_dir=run", cwd=project, **FSDP2)
        assert codes == [0, 0], told
        run = project / "run"
        assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
        assert told[0].count("training passes") == 1 and "training passes" not in told[1]
        judged = parquet.read_table(run / "samples" / "step-000001.parquet").to_pylist()
        assert [row["group"] for row in judged] == [0] * 4 + [1] * 4 + [2] * 4
        for group in range(3):
            assert len({row["prompt"] for row in judged if row["group"] == group}) == 1
        assert len({row["completion"] for row in judged}) > 6  # ranks draw with seeds of their own
        assert lines(run)[0]["outcomes/digits/scored"] == 12
        summary = json.loads((run / "summary.json").read_text())
        assert summary["outcomes"]["digits"]["scored"] == 48
        assert summary["after"]["n"] == 6
        from transformers import AutoModelForCausalLM

        newest = checkpoint.latest(run / "checkpoints")
        assert newest is not None and newest.name == "step-000004"
        model, said = AutoModelForCausalLM.from_pretrained(newest, output_loading_info=True)
        assert not said["missing_keys"] and not said["unexpected_keys"]
        assert all(p.isfinite().all() for p in model.parameters())

    def test_more_processes_than_prompts(self, project, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "4")
        with pytest.raises(ConfigError, match="train.prompts_per_step: a group is never split"):
            command.train(project / "grpo.yaml", ["train.output_dir=run"])
        assert not (project / "run").exists()

    @pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
    def test_deepspeed_without_a_gpu_is_refused(self, project, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(ConfigError, match="accelerate runs DeepSpeed on GPUs only"):
            command.train(project / "grpo.yaml", ["train.output_dir=run"])

    @pytest.mark.slow
    @pytest.mark.parametrize("env", [{}, FSDP2], ids=["ddp", "fsdp2"])
    def test_resuming_gives_the_undisturbed_run(self, project, env):
        kl = ["grpo.beta=0.1", "grpo.iterations=2", "grpo.sync_reference_every=1"]
        arguments = [*TRAIN, "train.output_dir=run", *kl]
        assert launch(2, *arguments, cwd=project, **env)[0] == [0, 0]
        run = project / "run"
        whole = lines(run)
        (run / "checkpoints" / "step-000004").rename(run / "checkpoints" / "partial-step-000004")
        (run / "summary.json").unlink()
        codes, told = launch(2, *arguments, "--resume", cwd=project, **env)
        assert codes == [0, 0], told
        assert lines(run) == whole

    @pytest.mark.slow
    @pytest.mark.parametrize("env", [{}, FSDP2], ids=["ddp", "fsdp2"])
    def test_a_rank_with_nothing_to_draw_comes_along(self, project, env):
        """One held-out row and single silent groups to replace, for two processes."""
        (project / "my_rewards.py").write_text(
            "def digits(prompts, completions, **columns):\n"
            "    return [float(len(c)) if p < '3' else 1.0 for p, c in zip(prompts, completions)]\n"
            "def brevity(completions, **columns):\n    return [1.0 for _ in completions]\n"
        )
        settings = ["train.output_dir=run", "eval.limit=1", "grpo.dynamic_sampling=2"]
        codes, told = launch(2, *TRAIN, *settings, cwd=project, **env)
        assert codes == [0, 0], told
        found = lines(project / "run")
        assert len(found) == 4
        assert any(line["sampling/replaced_groups"] % 2 for line in found)
        assert all(line["completions/mean_length"] > 0 for line in found)

    @pytest.mark.slow
    def test_ddp_and_fsdp2_learn_the_same(self, project):
        for name, env in (("ddp", {}), ("fsdp2", FSDP2)):
            codes, told = launch(2, *TRAIN, f"train.output_dir={name}", cwd=project, **env)
            assert codes == [0, 0], told
        ddp, fsdp2 = lines(project / "ddp"), lines(project / "fsdp2")
        for one, other in zip(ddp, fsdp2, strict=True):
            assert one.keys() == other.keys()
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)

    @pytest.mark.slow
    def test_one_process_goes_on_from_what_two_have_saved(self, project):
        arguments = [*TRAIN, "train.output_dir=run", "train.steps=2"]
        assert launch(2, *arguments, cwd=project, **FSDP2)[0] == [0, 0]
        longer = [*TRAIN, "train.output_dir=run", "train.steps=3", "--resume"]
        codes, told = launch(1, *longer, cwd=project)
        assert codes == [0], told
        assert [line["step"] for line in lines(project / "run")] == [1, 2, 3]

    @pytest.mark.slow
    def test_adapters_under_fsdp2(self, project):
        lora = ["model.lora={rank: 2, targets: all-linear}", "grpo.beta=0.1"]
        arguments = [*TRAIN, "train.output_dir=run", "train.gradient_checkpointing=true", *lora]
        codes, told = launch(2, *arguments, cwd=project, **FSDP2)
        assert codes == [0, 0], told
        assert (project / "run/checkpoints/step-000004/adapter_model.safetensors").exists()
        assert lines(project / "run")[-1]["kl"] > 0

    @pytest.mark.slow
    def test_a_signal_to_one_rank_stops_all_behind_the_same_step(self, project):
        (project / "my_rewards.py").write_text(
            TROUBLE.format(rank=1, call=11, trouble="os.kill(os.getpid(), signal.SIGTERM)")
        )
        arguments = [*TRAIN, "train.output_dir=run", "eval=null", "train.steps=50"]
        codes, told = launch(2, *arguments, cwd=project)
        assert codes == [143, 143], told
        newest = checkpoint.latest(project / "run" / "checkpoints")
        assert newest.name == f"step-{lines(project / 'run')[-1]['step']:06d}"


TROUBLE = """
import os, signal, time
from grpo_core import Reward

class digits(Reward):
    isolation = "inline"
    calls = 0

    def score(self, sample):
        digits.calls += 1
        if os.environ["RANK"] == "{rank}" and digits.calls == {call}:
            {trouble}
        return sum(c.isdigit() for c in sample.completion_text) / 8

def brevity(completions, **columns):
    return [1.0 for _ in completions]
"""


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.slow
class TestTrouble:
    """One rank of two in trouble: both end, within a minute, and say why."""

    @pytest.mark.parametrize(
        ("rank", "trouble", "reason"),
        [
            (1, "raise ValueError('no such table')", "no such table"),
            (0, "raise ValueError('no such table')", "no such table"),
            (1, "time.sleep(1000)", "judging: digits"),
            (0, "time.sleep(1000)", "judging: digits"),
            (1, KILL, "rank 1 is gone"),
            (0, KILL, "rank 0 is gone"),
        ],
    )
    @pytest.mark.parametrize("env", [{}, FSDP2], ids=["ddp", "fsdp2"])
    def test_ends_everywhere(self, project, rank, trouble, reason, env):
        # in its third step: of three groups of four, two are rank 0's
        (project / "my_rewards.py").write_text(
            TROUBLE.format(rank=rank, call=(19, 11)[rank], trouble=trouble)
        )
        short = [f"rubric.rewards.{n}.deadline_s=1" for n in (0, 1)]
        settings = ["eval=null", "train.save_every=1", "train.stall_s=3", *short]
        settings += ["rubric.rewards.0.on_error=raise", "train.output_dir=run"]
        began = time.monotonic()
        codes, told = launch(2, *TRAIN, *settings, cwd=project, **env)
        assert all(codes), told
        assert reason in " ".join(told[1 - rank].split()), told  # where nothing is wrong
        assert time.monotonic() - began < 90  # the start and two steps of it included
        newest = checkpoint.latest(project / "run" / "checkpoints")
        assert newest is not None and newest.name == "step-000002"
        assert len(lines(project / "run")) == 2

    @pytest.mark.slow
    def test_a_stalled_rank_ends_the_run_within_a_minute_as_configs_come(self, project):
        stall = "open('stalled', 'w').close(); time.sleep(1000)"
        (project / "my_rewards.py").write_text(TROUBLE.format(rank=1, call=11, trouble=stall))
        settings = ["eval=null", "train.save_every=1", "train.output_dir=run"]
        codes, told = launch(2, *TRAIN, *settings, cwd=project)
        assert all(codes), told
        assert "judging: digits" in " ".join(told[0].split())
        assert time.time() - (project / "stalled").stat().st_mtime < 60


class TestJudgement:
    """What rank 0 makes of what the ranks say."""

    well = State(1, "updating", 0.1, False, False)
    waits = State(1, "scoring", 0.1, True, False)
    still = State(1, "scoring (judging: math)", 70.0, False, False)

    def test_nothing_is_wrong(self):
        assert judge([self.well, self.well], [0, 1], 60) is None

    def test_one_that_waits_for_one_that_works_is_not_stalled(self):
        assert judge([self.waits, self.well], [0, 1], 60) is None

    def test_a_stalled_one_is_named_with_what_it_was_at(self):
        reason = judge([self.waits, self.still], [0, 1], 60)
        assert "rank 1" in reason and "math" in reason and "rank 0" not in reason

    def test_while_another_still_works_there_is_time(self):
        assert judge([self.waits, self.still, self.well], [0, 0, 0], 60) is None

    def test_all_in_a_collective_that_hangs(self):
        reason = judge([self.still, self.still], [0, 0], 60)
        assert "rank 0" in reason and "rank 1" in reason

    def test_all_waiting_is_an_exchange_under_way(self):
        assert judge([self.waits, self.waits], [0, 0], 60) is None

    def test_writing_may_take_any_time(self):
        writes = self.still._replace(busy=True)
        assert judge([writes, self.waits], [0, 0], 60) is None

    def test_silence_is_death_whatever_was_said_last(self):
        assert "rank 1 is gone" in judge([self.well, self.waits], [0, LOST_S + 1], 60)


class TestDealing:
    def test_whole_and_even(self):
        shares = deal({0: 10, 1: 9, 2: 1, 3: 1, 4: 1}, 2)
        assert shares == [[0, 3], [1, 2, 4]]

    def test_fewer_than_hands(self):
        assert deal({4: 7}, 3) == [[4], [], []]
        assert deal({}, 2) == [[], []]
