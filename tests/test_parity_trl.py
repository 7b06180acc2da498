"""Losses, gradients and advantages equal those of TRL's own code, to 1e-6 in float64.

Nothing of TRL is retyped here: `GRPOTrainer._compute_loss`, `get_high_entropy_mask` and
`_generate_and_score_completions` of the installed package run unbound, on a stand-in for
the trainer that holds its settings (defaults from `GRPOConfig`) and hands out tensors in
place of a model's outputs. A real trainer would run the same functions, but in float32 and
with ratios of 1; with the stand-in log-probabilities can be what they like.

Where this engine means to differ, the tests of `TestDifferencesMeant` say so by name.
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from types import MethodType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from trl.trainer.grpo_config import GRPOConfig  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402

from grpo_core.algorithm import (  # noqa: E402
    OBJECTIVES,
    Objective,
    count,
    entropy_bonus,
    group_advantages,
    high_entropy_mask,
    mismatch_weights,
    policy_loss,
)
from grpo_core.algorithm import objectives as formulas  # noqa: E402

NAN = math.nan
LONGEST = 9  # max_completion_length, the divisor of dr_grpo
DEFAULTS = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}


class OneProcess:
    """The accelerator of a run with one process on the CPU."""

    device = torch.device("cpu")
    num_processes = 1
    process_index = 0
    sync_gradients = True

    def gather(self, tensor):
        return tensor

    gather_for_metrics = gather

    def pad_across_processes(self, tensor, dim, pad_index):
        return tensor

    def reduce(self, tensor, reduction):
        return tensor


def trl_trainer(**changed):
    """What TRL's functions read of `self`: its options under the names it keeps them."""
    args = SimpleNamespace(**(DEFAULTS | changed))
    if args.epsilon_high is None:
        args.epsilon_high = args.epsilon
    trainer = SimpleNamespace(**vars(args))
    trainer.args = args
    trainer.pad_to_multiple_of = None
    trainer.epsilon_low = args.epsilon
    trainer.accelerator = OneProcess()
    trainer.model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    trainer.aux_loss_enabled = False
    trainer._entropy_bonus_enabled = args.entropy_coef != 0
    trainer.use_adaptive_entropy = False
    trainer._metrics = {"train": defaultdict(list)}
    trainer.get_high_entropy_mask = MethodType(GRPOTrainer.get_high_entropy_mask, trainer)
    trainer.get_gamma_weights = GRPOTrainer.get_gamma_weights
    return trainer


@dataclasses.dataclass
class Case:
    """Completions with ragged lengths; log-probabilities far enough apart to be clipped."""

    logp: torch.Tensor
    old: torch.Tensor
    ref: torch.Tensor
    sampler: torch.Tensor
    entropies: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def draw(cls, seed=0, rows=12, time=7):
        g = torch.Generator().manual_seed(seed)

        def rand(*shape):
            # numbers that float32 holds, since TRL reads a sampler's in float32
            return torch.randn(*shape, generator=g).double()

        old = -rand(rows, time).abs() - 0.1
        lengths = torch.randint(1, time + 1, (rows,), generator=g)
        lengths[0], lengths[1] = time, 0  # one full, one masked as truncated
        return cls(
            logp=old + 0.6 * rand(rows, time),
            old=old,
            ref=old + 0.4 * rand(rows, time),
            sampler=(old + 0.3 * rand(rows, time)).float().double(),
            entropies=rand(rows, time).abs(),
            advantages=rand(rows),
            mask=torch.arange(time) < lengths[:, None],
        )

    def micro_batches(self, steps):
        size = len(self.mask) // steps
        return [slice(i * size, (i + 1) * size) for i in range(steps)]


CASE = Case.draw()
CLIPS = {
    "default": {"epsilon": 0.2},
    "clip-higher": {"epsilon": 0.2, "epsilon_high": 0.28},
    "delta": {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 1.5},
}
KLS = [(0.0, False), (0.1, False), (0.1, True)]


def clip_of(name, objective):
    """cispo's epsilon_high is no margin but the cap itself, and required here."""
    cap = {"default": 1.2, "clip-higher": 1.6, "delta": 2.0}[name]
    return CLIPS[name] | ({"epsilon_high": cap} if objective == "cispo" else {})


def trl_loss(case, steps, weights=None, **options):
    """Loss, d loss / d logp and d loss / d entropies of TRL over `steps` micro-batches."""
    trainer = trl_trainer(
        gradient_accumulation_steps=steps,
        steps_per_generation=steps,
        max_completion_length=LONGEST,
        use_vllm=weights is not None,
        **options,
    )
    logp, entropies = case.logp.clone().requires_grad_(), case.entropies.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for rows in case.micro_batches(steps):
        trainer._get_per_token_logps_and_entropies = lambda *_, rows=rows, **__: (
            logp[rows],
            entropies[rows],
            None,
        )
        ids = torch.zeros_like(case.mask[rows], dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": case.mask[rows].long(),
            "advantages": case.advantages[rows],
            "old_per_token_logps": case.old[rows],
            "ref_per_token_logps": case.ref[rows],
            "num_items_in_batch": case.mask.sum(),
        }
        if weights is not None:
            inputs["importance_sampling_ratio"] = weights[rows]
        loss = GRPOTrainer._compute_loss(trainer, None, inputs)
        loss.backward()
        total = total + loss.detach()
    return total, logp.grad, entropies.grad, trainer._metrics["train"]


def our_loss(case, steps, objective, *, average=None, weights=None, **options):
    """The same of this engine; `average` names the objective whose count divides."""
    logp = case.logp.clone().requires_grad_()
    normalizer = count(average or objective, case.mask)
    total, metrics = torch.zeros((), dtype=torch.float64), {}
    for rows in case.micro_batches(steps):
        mask = case.mask[rows]
        # bnpo is a mean over a process's batch: of each micro-batch, as TRL has it
        each = count("bnpo", mask).clamp(min=1) * steps if objective == "bnpo" else normalizer
        loss = policy_loss(
            logp[rows],
            case.old[rows],
            case.advantages[rows],
            mask,
            objective=objective,
            ref_logp=case.ref[rows],
            token_weights=None if weights is None else weights[rows],
            max_completion_length=LONGEST,
            normalizer=each,
            **options,
        )
        loss.value.backward()
        total, metrics = total + loss.value.detach(), loss.metrics
    return total, logp.grad, metrics


def assert_same(ours, theirs):
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6), (ours, theirs)


def assert_parity(objective, level, clip, beta, bias, steps, case=CASE, ours=None, changed=()):
    """`ours` and `changed` put another formula or setting on our side alone."""
    options = clip_of(clip, objective)
    theirs = trl_loss(
        case, steps, loss_type=objective, importance_sampling_level=level, beta=beta,
        use_bias_correction_kl=bias, **options,
    )  # fmt: skip
    chosen = {"level": level, "beta": beta, "kl_bias_correction": bias} | options | dict(changed)
    found = our_loss(case, steps, ours or objective, average=objective, **chosen)
    assert_same(found[0], theirs[0])
    assert_same(found[1], theirs[1])
    return found[2], theirs[3]


class TestLoss:
    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize("clip", CLIPS)
    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_loss_and_gradients(self, objective, level, clip, steps):
        for (beta, bias), seed in itertools.product(KLS, (0, 1)):
            assert_parity(objective, level, clip, beta, bias, steps, Case.draw(seed))

    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_advantages_a_token(self, objective, level):
        case = Case.draw(2)
        case.advantages = torch.randn(case.mask.shape, dtype=torch.float64)
        assert_parity(objective, level, "delta", 0.1, True, 3, case)

    @pytest.mark.parametrize("objective", ["grpo", "bnpo", "dr_grpo", "dapo", "luspo"])
    def test_what_is_logged(self, objective):
        ours, theirs = assert_parity(objective, "token", "delta", 0.1, True, 1)
        for name in ("kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
            assert ours[name].item() == pytest.approx(theirs[name][0], abs=1e-6)
            assert ours[name] > 0

    def test_what_cispo_logs(self):
        ours, theirs = assert_parity("cispo", "token", "default", 0.0, False, 1)
        assert ours["clip_ratio/high_mean"].item() == pytest.approx(theirs["cispo_clip_ratio"][0])

    def test_ratio_one_without_old_logps(self):
        case = Case.draw(3)
        case.old = case.logp
        for objective in OBJECTIVES:
            assert_parity(objective, "token", "default", 0.1, True, 3, case)


class TestTheseTestsCanFail:
    """A formula that is off by one detail is seen."""

    @pytest.mark.parametrize(
        ("objective", "broken"),
        [
            pytest.param(name, Objective(per_token, average), id=f"{name}: {what}")
            for name, per_token, average, what in [
                ("grpo", lambda t: -t.ratio * t.advantages, "sequence-mean", "no clip"),
                (
                    "grpo",
                    lambda t: (
                        -torch.max(t.ratio * t.advantages, t.ratio.clamp(0.8, 1.28) * t.advantages)
                    ),
                    "sequence-mean",
                    "max for min",
                ),
                ("grpo", formulas.clipped_surrogate, "sequence-sum", "sum of tokens"),
                ("dapo", formulas.clipped_surrogate, "sequence-mean", "mean of means"),
                ("luspo", formulas.clipped_surrogate, "sequence-mean", "mean of tokens"),
                (
                    "cispo",
                    lambda t: -t.ratio.clamp(max=t.epsilon_high) * t.advantages * t.logp,
                    "tokens",
                    "gradient through the weight",
                ),
                ("sapo", lambda t: formulas.soft_gate(t, negative=1.0), "sequence-mean", "one tau"),
                (
                    "vespo",
                    lambda t: formulas.gamma_weighted(t._replace(advantages=-t.advantages)) * -1,
                    "tokens",
                    "weights of the other sign",
                ),
            ]
        ],
    )
    def test_a_broken_objective(self, objective, broken):
        with pytest.raises(AssertionError):
            assert_parity(objective, "token", "clip-higher", 0.0, False, 3, ours=broken)

    @pytest.mark.parametrize(
        "changed",
        [
            {"epsilon": 0.21},
            {"epsilon_high": 0.3},
            {"delta": None},
            {"beta": 0.11},
            {"kl": "k1"},
            {"kl": "k2"},
            {"kl_bias_correction": False},
            {"level": "sequence"},
        ],
        ids=str,
    )
    def test_a_broken_setting(self, changed):
        with pytest.raises(AssertionError):
            assert_parity("grpo", "token", "delta", 0.1, True, 1, changed=changed)


class TestEntropy:
    @given(
        st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 40), st.integers(1, 100),
        st.booleans(),
    )  # fmt: skip
    @settings(deadline=None)
    def test_the_tokens_of_highest_entropy(self, seed, rows, time, percent, ties):
        g = torch.Generator().manual_seed(seed)
        entropies = torch.rand(rows, time, generator=g)
        entropies = (entropies * 4).round() if ties else entropies
        mask = torch.rand(rows, time, generator=g) < 0.7
        theirs = trl_trainer().get_high_entropy_mask(entropies, mask.long(), 1 - percent / 100)
        assert torch.equal(high_entropy_mask(entropies, mask, percent / 100), theirs)

    def test_the_threshold_is_rounded_alike(self):
        # 0.6 x 45 is 27, and a little more in float32: the 28th of 46 tokens is out
        entropies, mask = torch.arange(46.0)[None], torch.ones(1, 46)
        theirs = trl_trainer().get_high_entropy_mask(entropies, mask, 1 - 0.4)
        assert torch.equal(high_entropy_mask(entropies, mask, 0.4), theirs)
        assert theirs.sum() == 18

    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_learning_from_them_alone(self, objective, level):
        options = clip_of("delta", objective)
        theirs = trl_loss(
            CASE, 1, loss_type=objective, importance_sampling_level=level, beta=0.1,
            use_bias_correction_kl=True, top_entropy_quantile=0.3, **options,
        )  # fmt: skip
        chosen = high_entropy_mask(CASE.entropies, CASE.mask, 0.3)
        ours = our_loss(
            CASE, 1, objective, weights=chosen, level=level, beta=0.1, kl_bias_correction=True,
            **options,
        )  # fmt: skip
        assert_same(ours[0], theirs[0])
        assert_same(ours[1], theirs[1])

    @pytest.mark.parametrize("top", [1.0, 0.4])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_the_bonus(self, objective, top):
        options = clip_of("default", objective)
        loss, grad, entropy_grad, _ = trl_loss(
            CASE, 1, loss_type=objective, beta=0.0, entropy_coef=0.3, top_entropy_quantile=top,
            **options,
        )  # fmt: skip
        acting = high_entropy_mask(CASE.entropies, CASE.mask, top)
        ours, our_grad, _ = our_loss(CASE, 1, objective, weights=acting, **options)
        entropies = CASE.entropies.clone().requires_grad_()
        bonus = entropy_bonus(entropies, acting, acting.sum())
        (-0.3 * bonus).backward()
        assert_same(ours - 0.3 * bonus.detach(), loss)
        assert_same(our_grad, grad)
        assert_same(entropies.grad, entropy_grad)


def trl_rollout(case, scores, **options):
    """TRL's own path from drawn completions and a table of scores to what it learns from."""
    trainer = trl_trainer(**options)
    lengths = case.mask.sum(1).tolist()
    drawn = [case.sampler[i, :length].tolist() for i, length in enumerate(lengths)]
    ids = [[5] * length for length in lengths]
    prompts = len(lengths)
    trainer.environment_factories = trainer.tools = trainer.environments = None
    trainer._generate = lambda _: ([[3]] * prompts, ids, None, ids, drawn, {}, None, None)
    trainer._tokenizer = SimpleNamespace(pad_token_id=0)
    trainer.eos_token_ids = [1]
    width = max(lengths)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (case.old[:, :width], None, None)
    trainer.ref_model = None
    trainer.num_iterations = 1
    trainer.steps_per_generation = trainer.args.steps_per_generation = 1
    trainer._calculate_rewards = lambda *_: scores
    trainer.num_generations = options.get("num_generations", len(scores))
    trainer.reward_funcs = trainer.reward_func_names = list(range(scores.shape[1]))
    trainer.reward_weights = torch.tensor(
        options.get("reward_weights") or [1.0] * scores.shape[1], dtype=scores.dtype
    )
    trainer._logs = defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list))
    trainer._pending_extra_logs, trainer._pending_metrics = {}, {}
    rows = [{"prompt": "?"} for _ in lengths]
    return GRPOTrainer._generate_and_score_completions(trainer, rows)


MODES = [(level, how) for level in ("token", "sequence") for how in ("truncate", "mask")]
BOUNDS = [(2.0, None), (1.3, 0.7), (None, 0.8)]


class TestForeignSampler:
    @staticmethod
    def both(level, how, cap, floor, case=CASE):
        output = trl_rollout(
            case, torch.zeros(len(case.mask), 1), use_vllm=True, beta=0.0,
            vllm_importance_sampling_mode=f"{level}_{how}",
            vllm_importance_sampling_clip_max=cap, vllm_importance_sampling_clip_min=floor,
        )  # fmt: skip
        ours = mismatch_weights(
            case.old, case.sampler, case.mask, level=level, how=how, cap=cap, floor=floor
        )
        return ours, output["importance_sampling_ratio"]

    @pytest.mark.parametrize(("cap", "floor"), BOUNDS)
    @pytest.mark.parametrize(("level", "how"), MODES)
    def test_the_weights(self, level, how, cap, floor):
        ours, theirs = self.both(level, how, cap, floor)
        assert_same(ours, theirs.expand_as(ours))
        assert (ours[CASE.mask] != 1).any()

    def test_an_unknown_log_probability_counts_as_one(self):
        case = Case.draw(4)
        case.sampler[0, 2] = NAN
        for level, how in MODES:
            ours, theirs = self.both(level, how, 2.0, None, case)
            assert_same(ours, theirs.expand_as(ours))

    @pytest.mark.parametrize(("level", "how"), MODES)
    @pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "vespo"])
    def test_the_corrected_loss(self, objective, level, how):
        ours, theirs = self.both(level, how, 1.3, 0.7)
        options = clip_of("clip-higher", objective)
        loss, grad, *_ = trl_loss(
            CASE, 3, weights=theirs, loss_type=objective, beta=0.1, use_bias_correction_kl=True,
            **options,
        )  # fmt: skip
        found = our_loss(
            CASE, 3, objective, weights=ours, beta=0.1, kl_bias_correction=True, **options
        )
        assert_same(found[0], loss)
        assert_same(found[1], grad)

    def test_together_with_the_tokens_of_highest_entropy(self):
        ours, theirs = self.both("token", "truncate", 1.3, None)
        loss, grad, *_ = trl_loss(
            CASE, 1, weights=theirs, loss_type="dapo", beta=0.0, top_entropy_quantile=0.5
        )
        chosen = high_entropy_mask(CASE.entropies, CASE.mask, 0.5)
        found = our_loss(CASE, 1, "dapo", weights=ours * chosen)
        assert_same(found[0], loss)
        assert_same(found[1], grad)

    def test_vespo_takes_the_samplers_log_probabilities_as_the_old_ones(self):
        # its weight is by the ratio of whole sequences: TRL multiplies the correction into
        # it, which is the ratio to the sampler as long as no bound bites
        _, theirs = self.both("token", "truncate", 1e9, None)
        loss, grad, *_ = trl_loss(CASE, 3, weights=theirs, loss_type="vespo", beta=0.0)
        found = our_loss(dataclasses.replace(CASE, old=CASE.sampler), 3, "vespo")
        assert_same(found[0], loss)
        assert_same(found[1], grad)


AGGREGATIONS = {"sum": "sum_then_normalize", "gdpo": "normalize_then_sum"}


def both_advantages(scores, weights, group_size, combine, scale):
    scores = torch.as_tensor(scores, dtype=torch.float64)
    output = trl_rollout(
        Case.draw(5, rows=len(scores)), scores, num_generations=group_size, beta=0.0,
        reward_weights=list(weights), scale_rewards=scale,
        multi_objective_aggregation=AGGREGATIONS[combine],
    )  # fmt: skip
    weights = torch.tensor(weights, dtype=torch.float64)
    ours = group_advantages(scores, weights, group_size, combine=combine, scale=scale)
    return ours, output["advantages"]


HOWS = [("sum", "group"), ("sum", "batch"), ("sum", "none"), ("gdpo", "group")]


class TestAdvantages:
    @pytest.mark.parametrize(("combine", "scale"), HOWS)
    def test_plain(self, combine, scale):
        scores = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        ours, theirs = both_advantages(scores, [1.0, 0.2, -0.5], 4, combine, scale)
        assert_same(ours, theirs)
        assert (ours != 0).all()

    @pytest.mark.parametrize(("combine", "scale"), HOWS)
    def test_missing_scores(self, combine, scale):
        scores = [
            [1.0, NAN], [NAN, NAN], [0.0, 2.0], [3.0, 1.0],  # one absent, one sample without any
            [NAN, NAN], [NAN, 1.0], [NAN, NAN], [NAN, NAN],  # one sample left
            [NAN, 1.0], [NAN, 0.5], [NAN, 0.0], [NAN, 0.0],  # one reward left
        ]  # fmt: skip
        ours, theirs = both_advantages(scores, [1.0, 0.3], 4, combine, scale)
        assert_same(ours, theirs)
        assert ours[1] == 0 and (ours[4] == 0) and ours[0] != 0

    @given(
        st.lists(
            st.tuples(*[st.integers(-3, 3) | st.just(NAN)] * 2), min_size=8, max_size=8
        ),
        st.sampled_from(HOWS),
    )  # fmt: skip
    @settings(deadline=None, max_examples=60)
    def test_any_table(self, scores, how):
        assert_same(*both_advantages(scores, [1.0, 0.25], 4, *how))

    def test_a_broken_weight_is_seen(self):
        scores = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        theirs = both_advantages(scores, [1.0, 0.2], 4, "sum", "group")[1]
        ours = both_advantages(scores, [1.0, 0.21], 4, "sum", "group")[0]
        with pytest.raises(AssertionError):
            assert_same(ours, theirs)

    def test_what_losses_are_divided_by(self):
        output = trl_rollout(CASE, torch.zeros(len(CASE.mask), 1), beta=0.0)
        assert output["num_items_in_batch"] == count("dapo", CASE.mask)


class TestDifferencesMeant:
    def test_equal_rewards_give_exactly_zero_where_trl_keeps_a_rounding_residue(self):
        # divided by 1e-4, the residue of a mean becomes an advantage
        scores = torch.full((7, 1), 0.1, dtype=torch.float32)
        theirs = trl_rollout(Case.draw(6, rows=7), scores, num_generations=7, beta=0.0)
        assert group_advantages(scores, torch.ones(1), 7).tolist() == [0.0] * 7
        assert theirs["advantages"].abs().max() > 0

    def test_bnpo_over_the_whole_batch_does_not_depend_on_the_split(self):
        # TRL takes the mean of each micro-batch's token mean: another loss for another split
        def with_normalizer(steps):
            return sum(
                policy_loss(
                    CASE.logp[rows], CASE.old[rows], CASE.advantages[rows], CASE.mask[rows],
                    objective="bnpo", normalizer=count("bnpo", CASE.mask),
                ).value
                for rows in CASE.micro_batches(steps)
            )  # fmt: skip

        assert_same(with_normalizer(3), with_normalizer(1))
        assert_same(with_normalizer(1), trl_loss(CASE, 1, loss_type="bnpo", beta=0.0)[0])
        assert not torch.isclose(
            trl_loss(CASE, 3, loss_type="bnpo", beta=0.0)[0], with_normalizer(3)
        )

    def test_the_entropy_bonus_does_not_depend_on_the_split(self):
        tokens = CASE.mask.sum()
        ours = sum(
            entropy_bonus(CASE.entropies[rows], CASE.mask[rows], tokens)
            for rows in CASE.micro_batches(3)
        )
        whole = entropy_bonus(CASE.entropies, CASE.mask, tokens)
        assert_same(ours, whole)
        plain, with_bonus = (
            trl_loss(CASE, 3, loss_type="dapo", beta=0.0, entropy_coef=c)[0] for c in (0.0, 1.0)
        )
        assert not torch.isclose(plain - with_bonus, whole)

    def test_top_entropy_ranks_the_rollout_where_trl_ranks_each_micro_batch(self):
        case = Case.draw(7)
        case.entropies[:2] += 10  # the first micro-batch has all that is uncertain
        ours = high_entropy_mask(case.entropies, case.mask, 0.1)
        assert not ours[2:].any()
        theirs = trl_trainer().get_high_entropy_mask(
            case.entropies[2:4], case.mask[2:4].long(), 0.9
        )
        assert theirs.any()

    def test_clip_ratios_of_sequences_count_tokens_where_trl_counts_sequences(self):
        ours, theirs = assert_parity("grpo", "sequence", "default", 0.0, False, 1)
        assert ours["clip_ratio/region_mean"] != pytest.approx(
            theirs["clip_ratio/region_mean"][0], abs=1e-3
        )

    def test_what_stands_at_padding_is_ignored_where_trl_wants_it_finite(self):
        case = dataclasses.replace(CASE, logp=torch.where(CASE.mask, CASE.logp, NAN))
        assert_same(our_loss(case, 1, "grpo")[0], our_loss(CASE, 1, "grpo")[0])
        assert trl_loss(case, 1, loss_type="grpo", beta=0.0)[0].isnan()
