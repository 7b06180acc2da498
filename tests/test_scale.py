"""The cost model of `benchmarks/scale.py`: what it counts, against recounts and the engine."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def folder():
    """The benchmarks import each other by plain names."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield BENCHMARKS
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture(scope="module")
def model(folder):
    import _scale_model

    return _scale_model


@pytest.fixture(scope="module")
def scale(folder):
    import scale

    return scale


@pytest.fixture
def shape(model):
    return model.Shape(2, 32, 64, 32, 32, 128)


@pytest.fixture
def load(model):
    return model.Load(prompts=4, group=4, prompt=16, completion=8)


class TestAmounts:
    def test_published_sizes(self, model):
        """Qwen2.5 technical report, arXiv 2412.15115: with and without embeddings."""
        assert model.SMALL.parameters == pytest.approx(0.49e9, rel=0.02)
        assert model.SMALL.body == pytest.approx(0.36e9, rel=0.02)
        assert model.LARGE.parameters == pytest.approx(7.61e9, rel=0.01)
        assert model.LARGE.body == pytest.approx(6.53e9, rel=0.01)

    def test_a_real_model_has_as_many_parameters(self, model):
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = model.Shape(3, 32, 88, 48, 16, 100)
        made = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32, num_hidden_layers=3, intermediate_size=88, head_dim=12,
                num_attention_heads=4, num_key_value_heads=1, vocab_size=100,
            )
        )  # fmt: skip
        shape = replace(shape, key_value_width=12)
        norms = 32 * (2 * 3 + 1)
        assert sum(p.numel() for p in made.parameters()) == shape.parameters + norms

    def test_drawing_recounted_token_by_token(self, model, shape, load):
        """Every completion token is read once, and looks at all before it."""
        load = replace(load, completion=20)  # longer than the prompt: a row for each
        assert load.abreast == 1
        flops = cache = 0.0
        for _ in range(load.prompts):
            for t in range(load.prompt):
                flops += 2 * shape.body + 4 * shape.layers * shape.width * (t + 0.5)
            for _ in range(load.group):
                for t in range(load.completion):
                    context = load.prompt + t + 0.5
                    flops += 2 * (shape.body + shape.head)
                    flops += 4 * shape.layers * shape.width * context
                    cache += 2 * shape.layers * shape.key_value_width * 4 * context
        amounts = model.work(shape, load)
        assert amounts["draw_flops"] == pytest.approx(flops)
        assert amounts["cache_read"] == pytest.approx(cache)
        assert amounts["decode_layers"] == shape.layers * load.completion

    def test_drawing_groups_as_rows_recounted(self, model, shape, load):
        """Behind a long prompt: a step reads the row once, and compares each of its tokens
        with all of it."""
        load = replace(load, prompt=20, completion=10, group=4)
        assert load.abreast == 4
        flops = cache = 0.0
        for _ in range(load.prompts):
            for t in range(load.prompt):
                flops += 2 * shape.body + 4 * shape.layers * shape.width * (t + 0.5)
            for t in range(load.completion):
                context = load.prompt + load.group * (t + 0.5)
                flops += load.group * 2 * (shape.body + shape.head)
                flops += load.group * 4 * shape.layers * shape.width * context
                cache += 2 * shape.layers * shape.key_value_width * 4 * context
        amounts = model.work(shape, load)
        assert amounts["draw_flops"] == pytest.approx(flops)
        assert amounts["cache_read"] == pytest.approx(cache)

    def test_passes_are_those_that_the_engine_makes(self, model, folder, tmp_path, monkeypatch):
        """`grpo train` on a model whose completions all have one length: layers started in
        drawing, rows and tokens of every pass."""
        import torch
        import yaml

        from _engine_models import Setting, build
        from grpo_core.cli import train as command
        from grpo_core.passes import Passes, pack
        from grpo_core.rollout.reading import Cached

        load = model.Load(prompts=3, group=4, prompt=6, completion=8, budget=100)
        build(Setting("", 32, 2, 2, 64, 128, 6, 8, None, 3, 4), tmp_path, rows=8)
        (tmp_path / "grpo.yaml").write_text(
            yaml.safe_dump(
                {
                    "model": {"name": "model"},
                    "data": {"path": "prompts.jsonl"},
                    "rubric": {"rewards": [{"use": f"{folder}/_engine_rewards.py:hashed"}]},
                    "grpo": {"group_size": 4},
                    "rollout": {"max_tokens": 8},
                    "scoring": {"workers": 1},
                    "train": {
                        "prompts_per_step": 3,
                        "steps": 1,
                        "tokens_per_micro_batch": 100,
                        "output_dir": str(tmp_path / "run"),
                    },
                }
            )
        )
        passes, steps = [], []
        forward, step = Passes.forward, Cached.step

        def count_pass(self, groups, entropy=False):
            if torch.is_grad_enabled():
                layout = pack.packed(groups, 0, "cpu")
                passes.append((*layout.ids.shape, len(layout.source)))
            return forward(self, groups, entropy)

        def count_step(self, tokens):
            passes.clear()  # those of the check at the start
            steps.append(len(tokens))
            return step(self, tokens)

        monkeypatch.setattr(Passes, "forward", count_pass)
        monkeypatch.setattr(Cached, "step", count_step)
        command.train(tmp_path / "grpo.yaml", [], resume=False)
        line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
        assert line["completions/min_length"] == line["completions/max_length"] == 8

        shape = model.Shape(2, 32, 64, 32, 32, 128)
        assert len(passes) > 1
        assert sorted(passes) == sorted(model.rows_of_passes(shape, load))
        assert steps[-7:] == [12] * 7  # the first token comes with the prompt
        assert model.work(shape, load)["decode_layers"] / shape.layers == 7 + 1

    def test_a_sample_is_as_large_as_its_pickle(self, model, tmp_path):
        from grpo_core.collect import Rollout
        from grpo_core.rewards import Sample, Score
        from grpo_core.rollout import Completion
        from grpo_core.rubric import Table

        load = model.Load(prompts=4, group=8, prompt=128, completion=256)
        rng = np.random.default_rng(0)
        samples, prompts, completions = [], [], []
        for g in range(load.prompts):
            prompt = rng.integers(1000, 30_000, load.prompt).tolist()
            text = "".join(f"{n % 1000:03d} " for n in prompt)
            for j in range(load.group):
                ids = rng.integers(1000, 30_000, load.completion).tolist()
                told = "".join(f"{n % 1000:03d} " for n in ids)
                samples.append(
                    Sample(text, told, {"prompt": text}, group=g, index=j, id=f"{g}-{j}",
                           completion_ids=ids)
                )  # fmt: skip
                numbers = rng.normal(size=(2, load.completion)).tolist()
                completions.append(Completion(ids, *numbers, False))
                prompts.append(prompt)
        count = len(samples)
        scores = [Score(0.5, reason="as it should be") for _ in samples]
        table = Table(("r",), {"r": scores}, [[0.5]] * count, [0.5] * count, {"r": [()] * count})
        rollout = Rollout(samples, prompts, completions, table, {"r": [0.1] * count}, {}, 8)
        found = len(pickle.dumps(rollout)) / count
        assert model.sample_bytes(load) == pytest.approx(found, rel=0.15)


class TestWhatIsLinear:
    """The sentences of docs/scale.md, as laws of the counts."""

    def growth(self, model, shape, load, names, **change):
        before, after = (model.work(shape, each) for each in (load, replace(load, **change)))
        return [after[name] / before[name] for name in names]

    def test_decode_steps_go_with_the_longest_completion_alone(self, model, shape, load):
        for change in ({"group": 8}, {"prompt": 64}, {"prompts": 8}, {"processes": 2}):
            assert self.growth(model, shape, load, ["decode_layers"], **change) == [1]
        assert self.growth(model, shape, load, ["decode_layers"], completion=16) == [2]
        ragged = replace(load, mean=4.0)
        assert self.growth(model, shape, ragged, ["decode_layers"], mean=8.0) == [1]

    def test_more_rows_than_a_batch_are_drawn_in_turns(self, model, shape, load):
        few = replace(load, batch=16)
        assert self.growth(model, shape, few, ["decode_layers"], prompts=8) == [2]

    def test_attention_is_quadratic_in_the_packed_row(self, model, shape, load):
        one = replace(load, prompts=1, budget=10**6, prompt=1, completion=100)
        wide = replace(shape, hidden=10**6)  # a group is then never cut into several rows
        linear, square = self.growth(
            model, wide, one, ["train_flops", "attention_flops"], completion=200
        )
        assert linear == pytest.approx(2, rel=0.01)
        assert square == pytest.approx(4, rel=0.01)

    def test_groups_multiply_passes(self, model, shape, load):
        full = replace(load, budget=50)
        names = ["pass_layers", "train_flops", "attention_flops"]
        assert self.growth(model, shape, full, names, prompts=8) == [2, 2, 2]

    def test_the_budget_bounds_the_memory_of_a_pass(self, model, shape, load):
        full = replace(load, prompts=8, completion=20, budget=100)
        few, many = (
            model.phases(shape, each) for each in (full, replace(full, prompts=32, group=8))
        )
        assert many.values <= 100 * shape.layers * shape.kept
        assert many.cached == 8 * few.cached

    def test_one_process_moves_nothing(self, model, shape, load):
        for storage in (model.DDP, model.FSDP2):
            amounts = model.work(shape, load, storage)
            assert all(
                amounts[name] == 0 for name in ("draw_moved", "moved", "messages", "exchanged")
            )

    def test_ddp_moves_gradients_once_an_update(self, model, shape, load):
        two = replace(load, processes=2, budget=50)
        assert model.work(shape, two)["moved"] == 4 * shape.parameters
        for change in ({"prompts": 16}, {"group": 8}, {"completion": 64}):
            assert self.growth(model, shape, two, ["moved", "messages"], **change) == [1, 1]
        assert self.growth(model, shape, two, ["moved"], processes=4) == [1.5]
        assert self.growth(model, shape, two, ["moved"], iterations=3) == [3]

    def test_fsdp_moves_weights_every_pass(self, model, shape, load):
        two = replace(load, processes=2, budget=50)
        amounts = model.work(shape, two, model.FSDP2)
        passes = amounts["pass_layers"] / shape.layers
        assert passes > 1
        assert amounts["moved"] == passes * shape.parameters * (2 + 2 + 4) / 2
        assert amounts["draw_moved"] == shape.parameters * 2 / 2
        assert amounts["updated"] == shape.parameters / 2

    def test_the_exchange_is_linear_in_samples_times_processes(self, model, shape, load):
        """Over the whole network; what one process receives is all samples but its own."""

        def whole(prompts, processes):
            given = replace(load, prompts=prompts, processes=processes)
            return processes * model.work(shape, given)["exchanged"]

        assert whole(8, 2) == pytest.approx(2 * whole(4, 2))
        assert whole(8, 4) == pytest.approx(3 * whole(8, 2))  # each sample to the other three
        assert model.work(shape, replace(load, processes=4))["samples"] == load.samples

    def test_a_group_is_never_split(self, model, shape, load):
        """Five groups on four processes take as long as eight."""
        four = replace(load, processes=4)
        names = ["draw_flops", "train_flops", "pass_layers"]
        assert self.growth(model, shape, replace(four, prompts=5), names, prompts=8) == [1, 1, 1]

    def test_seconds_add_up(self, model):
        spent = model.seconds(
            {name: 1.0 for name in (*model.DRAW, *model.UPDATE, *model.REST)},
            {"decode_layers": 1.0, "train_flops": 2.0, "moved": 3.0, "samples": 4.0},
        )
        assert (spent.draw, spent.update, spent.rest, spent.total) == (1, 5, 4, 10)


def loads(model, load):
    """Enough different settings to tell every rate apart."""
    changes = [{}] + [{"group": n} for n in (8, 16)] + [{"prompt": n} for n in (64, 200)]
    changes += [{"completion": n} for n in (32, 100)] + [{"prompts": n} for n in (8, 16, 64)]
    changes += [{"processes": 2}, {"processes": 2, "prompts": 16}, {"processes": 4}]
    return [replace(load, **change) for change in changes]


class TestFit:
    RATES = {  # noqa: RUF012
        "decode_layers": 2e-4, "draw_flops": 3e-11, "cache_read": 5e-10, "pass_layers": 1e-3,
        "train_flops": 4e-11, "attention_flops": 1e-10, "updated": 2e-8, "moved": 3e-9,
        "steps": 0.01, "samples": 3e-4, "exchanged": 2e-8,
    }  # fmt: skip

    def test_finds_the_rates_that_made_the_table(self, model, shape, load):
        amounts = [model.work(shape, each) for each in loads(model, load)]
        found = model.fit([(each, model.seconds(each, self.RATES)) for each in amounts])
        assert found == pytest.approx(self.RATES, rel=1e-4)

    def test_a_cost_that_is_not_there_is_zero_and_none_is_negative(self, model, shape, load):
        rng = np.random.default_rng(0)
        rates = self.RATES | {"cache_read": 0.0, "pass_layers": 0.0, "exchanged": 0.0}
        table = []
        for each in (model.work(shape, each) for each in loads(model, load)):
            spent = model.seconds(each, rates)
            noise = rng.uniform(0.8, 1.25, 3)
            table.append(
                (each, model.Seconds(*(noise * [spent.draw, spent.update, spent.rest])))
            )  # fmt: skip
        found = model.fit(table)
        assert min(found.values()) >= 0
        for (each, measured), says in zip(
            table, [model.seconds(each, found) for each, _ in table], strict=True
        ):
            assert says.total == pytest.approx(measured.total, rel=0.4), each

    def test_the_points_of_the_benchmark_suffice(self, model, scale):
        """With 5% of noise on a table of known rates, held-out steps are predicted to 15%."""
        rng = np.random.default_rng(0)
        points = scale.points([1, 2], quick=False)
        amounts = [model.work(scale.MODEL, point.load) for point in points]
        held_out = [point.axis == "held out" for point in points]
        for _ in range(5):
            table = []
            for each in amounts:
                spent, noise = model.seconds(each, self.RATES), rng.normal(1, 0.05, 3)
                measured = model.Seconds(*(noise * [spent.draw, spent.update, spent.rest]))
                table.append((each, measured))
            found = model.fit([row for row, out in zip(table, held_out, strict=True) if not out])
            for (each, measured), out in zip(table, held_out, strict=True):
                if out:
                    says = model.seconds(each, found)
                    assert says.total == pytest.approx(measured.total, rel=0.15)

    def test_memory_whichever_phase_is_the_higher(self, model, shape, load):
        """A wide vocabulary of settings: in some the cache, in others the backward pass."""
        held = model.Held(2e7, 4.5, 1.7)
        given = [replace(each, budget=400) for each in loads(model, load)]
        table = [model.phases(shape, each) for each in given]
        drawing = [1.7 * p.cached > 4.5 * p.values + p.logits for p in table]
        assert len(set(drawing)) == 2
        found = model.fit_memory([(p, model.memory(p, held)) for p in table])
        assert found.fixed == pytest.approx(held.fixed, rel=1e-3)
        assert found.activation == pytest.approx(held.activation, rel=1e-3)
        assert found.cache == pytest.approx(held.cache, rel=1e-3)

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 9))
    def test_least_squares_is_the_bounded_optimum(self, model, seed, columns, rows):
        """The conditions of Karush, Kuhn and Tucker: no column with a positive share has a
        gradient, no other would lower the error by getting one."""
        rng = np.random.default_rng(seed)
        matrix, target = rng.normal(size=(rows, columns)), rng.normal(size=rows)
        x = model.least_squares(matrix, target)
        gradient = matrix.T @ (matrix @ x - target)
        assert (x >= 0).all()
        assert np.abs(gradient[x > 0]).max(initial=0) < 1e-6
        assert gradient.min(initial=0) > -1e-6

    def test_columns_of_any_size_and_of_nothing(self, model):
        rows = np.array([[1e12, 0.0, 1.0], [2e12, 0.0, 5.0], [3e12, 0.0, 2.0]])
        x = model.least_squares(rows, rows @ [1e-11, 7.0, 3.0])
        assert x == pytest.approx([1e-11, 0.0, 3.0])


class TestPredictions:
    def test_every_case_fits_on_the_card(self, scale, model):
        found = scale.predict()
        assert {row["gpus"] for row in found} >= {8, 64}
        for row in found:
            assert row["gb"] * 1e9 < model.H100.memory, row
            assert 0 < row["efficiency"] <= 1.0001, row
            assert row["network"] < row["step"], row

    def test_no_faster_than_the_arithmetic(self, model, scale):
        """A step is never shorter than its floating-point operations at the card's peak."""
        for case in scale.CASES:
            for gpus in case.gpus:
                amounts = model.work(case.shape, case.on(gpus), case.storage)
                rates = model.H100.rates(case.storage, gpus)
                flops = amounts["draw_flops"] + amounts["train_flops"]
                assert model.seconds(amounts, rates).total > flops / model.H100.bfloat16

    def test_the_page_shows_what_the_model_says(self, scale):
        """`python benchmarks/scale.py --predict --markdown` writes both tables anew."""
        page = (ROOT / "docs" / "scale.md").read_text()
        assert scale.prediction_grid(scale.predict()).markdown() in page
        assert scale.card_grid(scale.H100).markdown() in page


def command(*arguments):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "scale.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_quick_run_and_its_tables_again(tmp_path):
    """Measured with one and two processes, written, and shown again from the file."""
    out = tmp_path / "scale.json"
    shown = command("--quick", "--json", out)
    assert "processes" in shown and "held out" in shown and "measured by nobody" in shown
    kept = json.loads(out.read_text())
    for point in kept["points"]:
        (run,) = point["runs"]
        assert len(run["total"]) == 3 and run["peak"] > 0
        assert set(run["silent"]) == {0.0}
    assert min(kept["rates"].values()) >= 0
    again = command("--from", out, "--markdown")
    base = kept["model"][0]["step"]["measured"]
    assert f"{base:.3f} (" in again
