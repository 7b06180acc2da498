"""Learning from tokens that another program drew, whose probabilities are not the trainer's."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")

from accelerate import Accelerator  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from grpo_core.algorithm import OBJECTIVES  # noqa: E402
from grpo_core.collect import Rollout  # noqa: E402
from grpo_core.config import Config  # noqa: E402
from grpo_core.errors import ConfigError  # noqa: E402
from grpo_core.passes import Passes  # noqa: E402
from grpo_core.rollout import Completion  # noqa: E402
from grpo_core.rubric import Table  # noqa: E402
from grpo_core.update import Learner  # noqa: E402

VOCABULARY = 5
PROMPT = [3, 1, 4]
ALL = [list(ids) for ids in itertools.product(range(VOCABULARY), repeat=2)]
"""Every completion of two tokens there is."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


@pytest.fixture(scope="module")
def sampler(model):
    """The same model after other arithmetic: far from it."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return other


@torch.no_grad()
def logps(model):
    """[completion, token]"""
    ids = torch.tensor([[*PROMPT, *completion] for completion in ALL])
    found = model(ids).logits[:, -3:-1].log_softmax(-1)
    return found.gather(-1, ids[:, -2:, None]).squeeze(-1)


def learn(model, drawn, advantages, correction, grpo=None, lr=1.0):
    """How the weights move in one update on all completions, and its metrics."""
    config = Config.model_validate(
        {
            "model": {"name": "unused"},
            "data": {"path": "unused"},
            "rubric": {"rewards": [{"use": "unused"}]},
            "grpo": {"group_size": len(ALL), "objective": "dr_grpo"} | (grpo or {}),
            "rollout": {"max_tokens": 2, "correction": correction},
            "train": {"prompts_per_step": 2, "max_grad_norm": 1e9},
        }
    )
    groups = config.grpo.minibatches
    mine = copy.deepcopy(model)
    passes = Passes(mine, pad_id=0, form="plain")
    rollout = Rollout(
        [None] * (len(ALL) * groups),
        [PROMPT] * (len(ALL) * groups),
        [Completion(ids, logp, [], True) for ids, logp in zip(ALL, drawn.tolist(), strict=True)]
        * groups,
        Table((), {}, [], [], {}),
        {},
        {},
        len(ALL),
    )
    optimizer = torch.optim.SGD(passes.parameters(), lr=lr)
    objective = OBJECTIVES[config.grpo.objective]
    learner = Learner(config, passes, optimizer, objective, None, Accelerator(cpu=True))
    metrics = learner.update(rollout, advantages.repeat(groups))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.cat([p.detach().flatten() for p in mine.parameters()]) - before, metrics


def rewards():
    return torch.randn(len(ALL), generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def expected(model, probabilities, drawn, correction, **options):
    """The mean update over the completions' distribution: each weighed by its probability."""
    return learn(model, drawn, probabilities * rewards() * len(ALL), correction, **options)[0]


def apart(one, other):
    return ((one - other).norm() / other.norm()).item()


UNCAPPED = {"how": "truncate", "level": "sequence", "cap": None}
TWICE, VESPO = {"minibatches": 2}, {"objective": "vespo"}


class TestTheLaw:
    """Importance sampling: the mean of weight times gradient over what the sampler draws is
    the mean gradient over what the policy would draw."""

    def test_without_a_cap_the_mean_gradient_is_the_on_policy_one(self, model, sampler):
        own, theirs = logps(model), logps(sampler)
        on_policy = expected(model, own.sum(1).exp(), own, {"how": "none"})
        corrected = expected(model, theirs.sum(1).exp(), theirs, UNCAPPED)
        assert apart(corrected, on_policy) < 1e-5

    def test_without_a_correction_it_is_not(self, model, sampler):
        own, theirs = logps(model), logps(sampler)
        on_policy = expected(model, own.sum(1).exp(), own, {"how": "none"})
        uncorrected = expected(model, theirs.sum(1).exp(), theirs, {"how": "none"})
        assert apart(uncorrected, on_policy) > 0.3

    def test_a_cap_keeps_part_of_the_bias(self, model, sampler):
        own, theirs = logps(model), logps(sampler)
        on_policy = expected(model, own.sum(1).exp(), own, {"how": "none"})
        errors = [
            apart(expected(model, theirs.sum(1).exp(), theirs, UNCAPPED | {"cap": cap}), on_policy)
            for cap in (0.5, 1.0, 2.0, 1e9)
        ]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5 < errors[0]

    def test_token_weights_are_exact_for_the_last_token_alone(self, model, sampler):
        """XX"""
        own, theirs = logps(model), logps(sampler)
        mixed = torch.stack([own[:, 0], theirs[:, 1]], dim=1)
        by_token = {"how": "truncate", "level": "token", "cap": None}
        last = torch.tensor([0.0, 1.0], dtype=torch.float64)

        def mean(drawn, correction):
            weighed = drawn.sum(1).exp() * rewards() * len(ALL)
            return learn_by_token(model, drawn, weighed[:, None] * last, correction)

        assert apart(mean(mixed, by_token), mean(own, {"how": "none"})) < 1e-5

    def test_equal_probabilities_change_nothing(self, model):
        own = logps(model)
        advantages = rewards()
        plain, _ = learn(model, own, advantages, {"how": "none"})
        for how, level in itertools.product(["truncate", "mask"], ["token", "sequence"]):
            corrected, _ = learn(model, own, advantages, {"how": how, "level": level})
            assert apart(corrected, plain) < 1e-5


def learn_by_token(model, drawn, advantages, correction):
    return learn(model, drawn, _Rows(advantages), correction)[0]


class _Rows:
    """Advantages a token, whose `repeat` repeats rows as that of a vector does numbers."""

    def __init__(self, advantages):
        self.advantages = advantages

    def repeat(self, groups):
        return self.advantages.repeat(groups, 1)


class TestWhatTheCorrectionDoes:
    def test_masking_leaves_out_what_is_beyond_the_cap(self, model, sampler):
        own, theirs = logps(model), logps(sampler)
        ratio = (own - theirs).sum(1).exp()
        cap = 1.001 * float(ratio.median())
        masked, metrics = learn(
            model, theirs, rewards(), {"how": "mask", "level": "sequence", "cap": cap}
        )
        by_hand, _ = learn(
            model, own, rewards() * torch.where(ratio <= cap, ratio, 0.0), {"how": "none"}
        )
        assert apart(masked, by_hand) < 1e-5
        assert metrics["sampling/importance_sampling_ratio/min"] == 0
        assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(cap, rel=0.01)

    def test_it_is_on_for_other_programs_and_off_for_the_built_in_sampler(self):
        config = {
            "model": {"name": "unused"}, "data": {"path": "unused"},
            "rubric": {"rewards": [{"use": "unused"}]},
        }  # fmt: skip
        for backend, on in ((None, False), ("continuous", True), ("a_plugin", True)):
            found = Config.model_validate(config | {"rollout": {"backend": backend}})
            assert found.rollout.correction.how == "auto"
            assert found.rollout.corrects == on

    def test_the_measures(self, model, sampler):
        own, theirs = logps(model), logps(sampler)
        _, metrics = learn(model, theirs, rewards(), {"how": "truncate", "cap": 1.5})
        difference = own - theirs
        ratio = difference.exp().clamp(max=1.5)
        for name, value in {
            "sampling_logp_difference/mean": difference.abs().mean(),
            "sampling_logp_difference/max": difference.abs().max(),
            "kl": (difference.exp() - 1 - difference).mean(),
            "importance_sampling_ratio/mean": ratio.mean(),
            "importance_sampling_ratio/min": ratio.min(),
            "importance_sampling_ratio/max": ratio.max(),
        }.items():
            assert metrics[f"sampling/{name}"] == pytest.approx(float(value), rel=1e-6), name

    def test_without_a_correction_the_mismatch_is_measured_all_the_same(self, model, sampler):
        _, metrics = learn(model, logps(sampler), rewards(), {"how": "none"})
        assert metrics["sampling/sampling_logp_difference/mean"] > 0.1
        assert "sampling/importance_sampling_ratio/mean" not in metrics


class TestSeveralUpdates:
    def test_old_log_probabilities_stay_the_trainer_s(self, model, sampler):
        """With steps too small to matter nothing is clipped, however far off the sampler is."""
        theirs = logps(sampler)
        options = {"grpo": TWICE, "lr": 1e-9}
        _, corrected = learn(model, theirs, rewards(), {"how": "truncate"}, **options)
        _, uncorrected = learn(model, theirs, rewards(), {"how": "none"}, **options)
        assert corrected["clip_ratio/region_mean"] == 0
        assert uncorrected["clip_ratio/region_mean"] > 0

    def test_each_part_is_weighed_as_if_it_were_the_first(self, model, sampler):
        theirs = logps(sampler)
        once, _ = learn(model, theirs, rewards(), UNCAPPED, lr=1e-9)
        twice, _ = learn(model, theirs, rewards(), UNCAPPED, lr=1e-9, grpo=TWICE)
        assert apart(twice, 2 * once) < 1e-4

    def test_the_mismatch_is_measured_before_the_first_step(self, model, sampler):
        """A big step in between is not counted as the sampler's."""
        own, theirs = logps(model), logps(sampler)
        _, metrics = learn(model, theirs, rewards(), UNCAPPED, grpo={"iterations": 3}, lr=10.0)
        mean = float((own - theirs).abs().mean())
        assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(mean, rel=1e-6)

    def test_a_sampler_that_tells_no_log_probabilities(self, model):
        own = logps(model)
        unknown = torch.full_like(own, float("nan"))
        for correction in ({"how": "none"}, {"how": "truncate"}):
            blind, metrics = learn(model, unknown, rewards(), correction, grpo=TWICE)
            seeing, _ = learn(model, own, rewards(), correction, grpo=TWICE)
            assert apart(blind, seeing) < 1e-5
            assert metrics["sampling/sampling_logp_difference/mean"] == 0


class TestVespo:
    def test_it_is_given_the_sampler_s_log_probabilities_instead(self, model, sampler):
        """Its own weights are of the ratio to the sampler; twice would be too much."""
        own, theirs = logps(model), logps(sampler)
        plain, _ = learn(model, theirs, rewards(), {"how": "none"}, grpo=VESPO)
        corrected, metrics = learn(model, theirs, rewards(), UNCAPPED, grpo=VESPO)
        assert apart(corrected, plain) > 0.05
        assert "sampling/importance_sampling_ratio/mean" not in metrics
        same, _ = learn(model, own, rewards(), UNCAPPED, grpo=VESPO)
        assert apart(same, plain) < 1e-5


def test_top_entropy_needs_entropies(model):
    with pytest.raises(ConfigError, match="grpo.top_entropy: .*tells no entropies"):
        learn(model, logps(model), rewards(), {"how": "none"}, grpo={"top_entropy": 0.5})
