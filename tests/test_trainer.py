"""The trainer end to end on a tiny random model: what it writes, that it repeats
itself exactly, goes on exactly, and stops well."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

import pyarrow.parquet as parquet  # noqa: E402
import typer  # noqa: E402

from grpo_core.cli import train as command  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.metrics import RunFolder  # noqa: E402
from grpo_core.stopping import TrainingStopped, check_finite  # noqa: E402


@pytest.fixture
def train(project, monkeypatch):
    """Run `grpo train` here; returns the run's folder."""
    monkeypatch.chdir(project)

    def run(name="run", *overrides, resume=False):
        out = project / "runs" / name
        command.train(project / "grpo.yaml", [f"train.output_dir={out}", *overrides], resume=resume)
        return out

    return run


def lines(run, clock=False):
    """metrics.jsonl; without what depends on the clock or the machine."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("step_time", "time/", "system/")
    return [{k: v for k, v in line.items() if clock or not k.startswith(timed)} for line in found]


def rows(run, name):
    return parquet.read_table(run / "samples" / f"{name}.parquet").to_pylist()


class TestWhatARunLeaves:
    def test_metrics_a_line_a_step_under_the_names_of_the_field(self, train):
        found = lines(train(), clock=True)
        assert [line["step"] for line in found] == [1, 2, 3, 4]
        assert {
            "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "num_tokens",
            "rewards/digits/mean", "rewards/digits/std", "rewards/brevity/mean",
            "completions/mean_length", "completions/min_length", "completions/max_length",
            "completions/clipped_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean",
            "clip_ratio/region_mean", "learning_rate", "step_time", "loss", "grad_norm",
            "outcomes/digits/scored", "outcomes/digits/timeout",
            "time/rollout", "time/score", "time/score_hidden", "time/update",
        } <= set(found[0])  # fmt: skip
        assert found[0]["outcomes/digits/scored"] == 12
        assert found[-1]["num_tokens"] > found[0]["num_tokens"]

    def test_samples_hold_every_verdict(self, train):
        run = train()
        judged = rows(run, "step-000001")
        assert len(judged) == 12
        first = judged[0]
        assert first["digits/outcome"] == "scored"
        assert json.loads(first["columns"])["answer"]
        total = first["digits/value"] + 0.1 * first["brevity/value"]
        assert first["total"] == pytest.approx(total)
        assert {row["group"] for row in judged} == {0, 1, 2}

    def test_evaluations_are_kept_before_during_and_after(self, train):
        run = train()
        names = sorted(path.stem for path in (run / "samples").glob("eval-*"))
        assert names == [
            f"eval-{step:06d}-{mode}" for step in (0, 2, 4) for mode in ("greedy", "sampled")
        ]
        summary = json.loads((run / "summary.json").read_text())
        sampled = rows(run, "eval-000004-sampled")
        assert summary["after"]["n"] == len(sampled) == 6
        share = sum(row["digits/value"] == 1.0 for row in sampled) / 6
        assert summary["after"]["pass@1"] == share
        low, high = summary["after"]["pass@1_interval"]
        assert low <= share <= high
        assert summary["outcomes"]["digits"]["scored"] == 48
        assert lines(run)[1]["eval/pass@1"] is not None

    def test_checkpoints_load_with_from_pretrained(self, train):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        run = train()
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
            "step-000002",
            "step-000004",
        ]
        model = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-000004")
        tokenizer = AutoTokenizer.from_pretrained(run / "checkpoints" / "step-000004")
        assert model.config.vocab_size == len(tokenizer)

    def test_only_the_newest_checkpoints_stay(self, train):
        run = train("run", "train.save_every=1", "train.keep=2")
        assert len(list((run / "checkpoints").iterdir())) == 2

    def test_a_run_in_the_way_is_moved_aside_not_lost(self, train, project):
        first = lines(train("same"))
        train("same", "train.seed=1")
        assert lines(project / "runs" / "same.1") == first

    def test_tensorboard_gets_the_metrics(self, train):
        pytest.importorskip("tensorboard")
        run = train("board", "train.trackers=[tensorboard]", "train.steps=2")
        assert list(run.rglob("events.out.tfevents*"))


class TestSameSeedSameRun:
    def test_twice_is_the_same(self, train):
        assert lines(train("one")) == lines(train("two"))

    def test_another_seed_is_another_run(self, train):
        assert lines(train("one")) != lines(train("two", "train.seed=1"))

    def test_resuming_gives_the_undisturbed_run(self, train, project):
        whole = lines(train("whole", "train.save_every=2"))
        run = train("cut", "train.save_every=2")
        # as after a crash in step 4: its line torn, its checkpoint not there
        text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(text[:3]) + text[3][:20])
        (run / "checkpoints" / "step-000004").rename(run / "checkpoints" / "partial-step-000004")
        (run / "summary.json").unlink()
        train("cut", "train.save_every=2", resume=True)
        assert lines(run) == whole
        assert json.loads((run / "summary.json").read_text())["outcomes"]["digits"]["scored"] == 48

    def test_resuming_a_finished_run_changes_nothing(self, train):
        run = train()
        before = lines(run)
        train(resume=True)
        assert lines(run) == before

    def test_nothing_to_resume(self, train):
        from grpo_core.errors import ConfigError

        with pytest.raises(ConfigError, match="nothing to resume"):
            train("none", resume=True)


class TestSettings:
    def test_it_learns(self, train):
        """A reward that a random model can raise in a few steps is raised."""
        run = train("learn", "train.steps=30", "train.learning_rate=1e-2", "eval.every=0")
        found = lines(run)
        first, last = (
            sum(line["rewards/digits/mean"] for line in part) / 5
            for part in (found[:5], found[-5:])
        )
        assert last > first + 0.2

    def test_without_a_penalty_no_kl_with_one_it_grows_from_zero(self, train):
        assert lines(train("free"))[0]["kl"] is None
        kls = [line["kl"] for line in lines(train("held", "grpo.beta=0.1"))]
        assert kls[0] == pytest.approx(0, abs=1e-9)
        assert kls[-1] > 0

    def test_the_clip_acts_only_from_the_second_iteration(self, train):
        once = lines(train("once", "train.learning_rate=0.01"))
        twice = lines(train("twice", "train.learning_rate=0.01", "grpo.iterations=3"))
        assert {line["clip_ratio/region_mean"] for line in once} == {0.0}
        assert max(line["clip_ratio/region_mean"] for line in twice) > 0

    @pytest.mark.parametrize(
        "objective", ["grpo", "bnpo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"]
    )
    def test_every_objective_trains(self, train, objective):
        high = ["grpo.epsilon_high=5.0"] if objective == "cispo" else []
        run = train("run", f"grpo.objective={objective}", "train.steps=2", *high)
        assert all(line["loss"] is not None for line in lines(run))

    def test_the_size_of_micro_batches_changes_no_result(self, train):
        def weights(name, tokens):
            run = train(name, f"train.tokens_per_micro_batch={tokens}", "train.steps=1")
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-000001")
            return torch.cat([p.flatten() for p in model.parameters()])

        # AdamW's first step is the sign of the gradient where it is not tiny
        difference = (weights("whole", 100_000) - weights("split", 30)).abs()
        assert (difference > 1e-5).float().mean() < 0.01

    def test_a_group_without_signal_changes_nothing(self, train, project):
        from transformers import AutoModelForCausalLM

        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n    return [1.0 for _ in completions]\nbrevity = digits\n"
        )
        run = train("flat", "train.steps=2", "train.save_every=1")
        assert lines(run)[0]["frac_reward_zero_std"] == 1.0
        one, two = (
            AutoModelForCausalLM.from_pretrained(run / "checkpoints" / f"step-{n:06d}")
            for n in (1, 2)
        )
        for before, after in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(before, after)

    def test_learning_rate_warms_up_and_decays(self, train):
        run = train("rates", "train.warmup_steps=2", "train.decay=linear", "train.learning_rate=1")
        assert [line["learning_rate"] for line in lines(run)] == pytest.approx([0.5, 1.0, 1.0, 0.5])

    def test_chat_prompts_go_through_the_template(self, train, project, tiny_qwen):
        (project / "my_rewards.py").write_text(
            "def digits(prompts, completions, **_):\n"
            "    assert prompts[0][0]['role'] == 'system' and completions[0][0]['role'] == 'assistant'\n"
            "    return [float(len(c[0]['content'])) for c in completions]\n"
            "brevity = digits\n"
        )
        text = (project / "grpo.yaml").read_text()
        chat = 'prompt: [{role: system, content: "Box it."}, {role: user, content: "{question}"}]'
        (project / "grpo.yaml").write_text(text.replace('prompt: "{question}"', chat))
        run = train("chat", f"model.name={tiny_qwen}", "train.steps=2")
        assert rows(run, "step-000001")[0]["prompt"].startswith("[system]Box it.\n[user]")
        assert lines(run)[0]["outcomes/digits/scored"] == 12

    def test_gradient_checkpointing_changes_no_result(self, train):
        plain = lines(train("plain", "train.steps=2"))
        saved = lines(train("saved", "train.steps=2", "train.gradient_checkpointing=true"))
        assert saved[1]["loss"] == pytest.approx(plain[1]["loss"], abs=1e-6)


class TestAdapters:
    LORA = ("model.lora.rank=4", "grpo.beta=0.1", "train.save_every=2", "train.learning_rate=0.01")

    def test_only_adapters_are_trained_and_saved(self, train, tiny_model):
        pytest.importorskip("peft")
        from transformers import AutoModelForCausalLM

        run = train("lora", *self.LORA)
        saved = run / "checkpoints" / "step-000004"
        assert (saved / "adapter_model.safetensors").exists()
        assert not (saved / "model.safetensors").exists()
        before = AutoModelForCausalLM.from_pretrained(tiny_model)
        after = AutoModelForCausalLM.from_pretrained(saved)  # the base, with its adapters
        base = {n.replace(".base_layer", ""): p for n, p in after.named_parameters()}
        for name, parameter in before.named_parameters():
            assert torch.equal(parameter, base[name])
        lora = [p for n, p in after.named_parameters() if "lora_B" in n]
        assert lora and all(p.abs().sum() > 0 for p in lora)

    def test_the_reference_is_the_model_without_them(self, train):
        pytest.importorskip("peft")
        kls = [line["kl"] for line in lines(train("lora", *self.LORA))]
        assert kls[0] == pytest.approx(0, abs=1e-9) and kls[-1] > 0

    def test_resuming_gives_the_undisturbed_run(self, train):
        pytest.importorskip("peft")
        whole = lines(train("whole", *self.LORA))
        run = train("cut", *self.LORA)
        shutil.rmtree(run / "checkpoints" / "step-000004")
        train("cut", *self.LORA, resume=True)
        assert lines(run) == whole


class TestReference:
    HELD = ("grpo.beta=0.1", "train.learning_rate=0.01", "train.save_every=2")

    @pytest.mark.parametrize("every", [0, 2])
    def test_resuming_goes_on_with_the_same_reference(self, train, every):
        how = (*self.HELD, f"grpo.sync_reference_every={every}", "train.steps=4")
        whole = lines(train("whole", *how))
        run = train("cut", *how)
        shutil.rmtree(run / "checkpoints" / "step-000004")
        train("cut", *how, resume=True)
        assert lines(run) == whole

    def test_synchronised_the_kl_starts_from_zero_again(self, train):
        kls = [line["kl"] for line in lines(train("s", *self.HELD, "grpo.sync_reference_every=2"))]
        assert kls[1] > 1e-6
        assert kls[2] == pytest.approx(0, abs=1e-9)


class TestSteps:
    def test_tokens_learn_from_the_steps_that_end_at_or_after_them(self, train, project):
        """A reward that judges each half: what stands first is credited with both."""
        (project / "my_rewards.py").write_text(
            "from grpo_core import Reward, Score\n"
            "class digits(Reward):\n"
            "    def score(self, sample):\n"
            "        text = sample.completion_text\n"
            "        ends = sorted({max(1, len(text) // 2), len(text)}) if text else []\n"
            "        digits = [sum(c.isdigit() for c in text[:end]) for end in ends]\n"
            "        return Score(float(len(text)), steps=list(zip(ends, map(float, digits))))\n"
            "def brevity(completions, **_):\n    return [0.0 for _ in completions]\n"
        )
        run = train("steps", "eval=null", "train.steps=30", "train.learning_rate=0.01")

        def digits(step):
            texts = [row["completion"] for row in rows(run, f"step-{step:06d}")]
            return sum(c.isdigit() for text in texts for c in text) / len(texts)

        first, last = (sum(map(digits, part)) / 5 for part in (range(1, 6), range(26, 31)))
        assert last > first + 0.5
        assert "digits/steps" in rows(run, "step-000001")[0]


class TestDynamicSampling:
    REWARDS = (
        "def digits(prompts, completions, **_):\n"
        "    return [1.0 if p < '3' else sum(map(ord, c)) for p, c in zip(prompts, completions)]\n"
        "def brevity(completions, **_):\n    return [0.0 for _ in completions]\n"
    )

    def test_groups_without_signal_are_replaced_by_other_prompts(self, train, project):
        """Every prompt from 0 to 2 is always right: nothing can be learnt from it."""
        (project / "my_rewards.py").write_text(self.REWARDS)
        run = train("dynamic", "grpo.dynamic_sampling=10", "eval=null")
        found = lines(run)
        assert sum(line["sampling/replaced_groups"] for line in found) > 0
        assert {line["frac_reward_zero_std"] for line in found} == {0.0}
        for step in range(1, 5):
            judged = rows(run, f"step-{step:06d}")
            assert {row["group"] for row in judged} == {0, 1, 2}
            assert min(row["prompt"] for row in judged) >= "3"

    def test_what_was_replaced_is_kept_and_counted(self, train, project):
        (project / "my_rewards.py").write_text(self.REWARDS)
        run = train("dynamic", "grpo.dynamic_sampling=10", "eval=null")
        replaced = [parquet.read_table(path).num_rows for path in run.glob("samples/*-replaced-*")]
        assert sum(replaced) == 4 * sum(line["sampling/replaced_groups"] for line in lines(run))
        summary = json.loads((run / "summary.json").read_text())
        assert summary["outcomes"]["digits"]["scored"] == 48 + sum(replaced)

    def test_the_rounds_are_bounded(self, train, project):
        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n    return [1.0 for _ in completions]\nbrevity = digits\n"
        )
        run = train("flat", "grpo.dynamic_sampling=2", "train.steps=2", "eval=null")
        assert [line["sampling/replaced_groups"] for line in lines(run)] == [6, 6]


class TestGroups:
    def test_a_group_reward_sees_whole_groups_and_nothing_else(self, train, project):
        (project / "my_rewards.py").write_text(
            "from grpo_core import Reward\n"
            "class digits(Reward):\n"
            "    scope = 'group'\n"
            "    def score_batch(self, samples):\n"
            "        assert len({s.group for s in samples}) == 1\n"
            "        return [float(len(samples)) for s in samples]\n"
            "def brevity(completions, **_):\n    return [1.0 for _ in completions]\n"
        )
        judged = rows(train("groups", "eval=null"), "step-000001")
        assert {row["digits/value"] for row in judged} == {4.0}


class TestTrouble:
    def test_a_reward_that_mostly_fails_stops_the_run_with_its_reason(self, train, project, capsys):
        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n    raise ValueError('no such table')\nbrevity = digits\n"
        )
        with pytest.raises(typer.Exit) as stopped:
            train("broken", "eval=null")
        assert stopped.value.exit_code == 1
        assert "no such table" in " ".join(capsys.readouterr().err.split())

    def test_so_does_one_of_two_whose_failures_exclude_every_sample(self, train, project, capsys):
        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n    return [float(len(c)) for c in completions]\n"
            "def brevity(completions, **_):\n    raise ValueError('no such table')\n"
        )
        with pytest.raises(typer.Exit):
            train("half", "eval=null")
        told = " ".join(capsys.readouterr().err.split())
        assert "12 of 24 scores failed, 12 of 12 samples are excluded" in told
        assert "no such table" in told

    def test_a_logged_figure_that_is_no_number_is_null(self, train, project):
        (project / "my_rewards.py").write_text(
            "def digits(completions, log_metric=None, **_):\n"
            "    log_metric('odd', float('nan'))\n"
            "    return [float(len(c)) for c in completions]\n"
            "def brevity(completions, **_):\n    return [1.0 for _ in completions]\n"
        )
        for line in lines(train("odd", "eval=null")):
            assert [value for name, value in line.items() if "odd" in name] == [None]

    def test_a_loss_that_is_no_number_stops_the_run(self):
        check_finite({"loss": -0.5, "grad_norm": 2.0}, 3)
        with pytest.raises(TrainingStopped, match="step 3: the loss is nan"):
            check_finite({"loss": math.nan, "grad_norm": 2.0}, 3)

    def test_a_folder_is_one_processs_at_a_time(self, tmp_path):
        def claimed():
            return RunFolder(tmp_path / "runs" / "one").claimed()

        with claimed(), pytest.raises(ConfigError, match="another process is training"), claimed():
            pass
        with claimed():
            pass

    def test_half_a_character_is_written_as_its_escape(self, tmp_path):
        folder = RunFolder(tmp_path)
        folder.start()
        folder.add_samples("step", [{"completion": "half \ud83d"}])
        assert rows(tmp_path, "step") == [{"completion": "half \\ud83d"}]

    def test_a_policy_of_raise_stops_the_run_with_its_reason(self, train, project, capsys):
        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n    raise ValueError('no such table')\n"
            "def brevity(completions, **_):\n    return [1.0 for _ in completions]\n"
        )
        with pytest.raises(typer.Exit):
            train("raised", "rubric.rewards.0.on_error=raise", "eval=null")
        told = " ".join(capsys.readouterr().err.split())
        assert "reward 'digits' ended in error" in told and "no such table" in told

    def test_a_reward_that_sometimes_fails_does_not(self, train, project):
        (project / "my_rewards.py").write_text(
            "def digits(completions, **_):\n"
            "    return [float(len(c)) if len(c) % 3 else 1 / 0 for c in completions]\n"
            "def brevity(completions, **_):\n    return [1.0 for _ in completions]\n"
        )
        found = lines(train("sometimes", "train.max_failures=1.0"))
        assert len(found) == 4

    def test_ctrl_c_saves_and_says_how_to_go_on(self, project):
        process = subprocess.Popen(
            [
                sys.executable, "-c", "from grpo_core.cli import main; main()", "train", "grpo.yaml",
                "train.steps=100000", "train.save_every=0", "eval=null",
            ],
            cwd=project, stderr=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        metrics = project / "runs" / "grpo" / "metrics.jsonl"
        deadline = time.time() + 60
        while time.time() < deadline and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "--resume" in told
        done = len(metrics.read_text().splitlines())
        assert (project / "runs" / "grpo" / "checkpoints" / f"step-{done:06d}").is_dir()
