"""One update on a given rollout: what each option does to the weights, and that the
levers that make it fast change nothing."""

import copy
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from accelerate import Accelerator  # noqa: E402

from grpo_core.algorithm import OBJECTIVES  # noqa: E402
from grpo_core.collect import Rollout  # noqa: E402
from grpo_core.config import Config  # noqa: E402
from grpo_core.passes import Passes  # noqa: E402
from grpo_core.policy import load_policy  # noqa: E402
from grpo_core.rollout import Completion  # noqa: E402
from grpo_core.rubric import Table  # noqa: E402
from grpo_core.update import Learner, Reference  # noqa: E402

LEVERS = {"fused_head": False, "skip_silent": False, "sort_by_length": False}
BASE = {
    "model": {"name": "unused"},
    "data": {"path": "unused"},
    "rubric": {"rewards": [{"use": "unused"}]},
    "rollout": {"max_tokens": 9},
    "train": {"prompts_per_step": 4, "tokens_per_micro_batch": 64, "max_grad_norm": 1e9},
}


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_policy(str(tiny_model), Path()).model.double()


def rollout(model, groups=4, size=3, seed=0, exact=True):
    """Random prompts and completions of ragged lengths, with their log-probabilities."""
    rng = random.Random(seed)

    def ids(n):
        return [rng.randrange(3, model.config.vocab_size) for _ in range(n)]

    prompts = [ids(rng.randint(1, 7)) for _ in range(groups)]
    completions = []
    for n in range(groups * size):
        drawn = ids(rng.randint(1, 9))
        logits = model(input_ids=torch.tensor([prompts[n // size] + drawn])).logits[0]
        logps = logits[-len(drawn) - 1 : -1].log_softmax(-1)
        taken = logps[range(len(drawn)), drawn].tolist()
        entropies = (-(logps.exp() * logps).sum(-1)).tolist()
        completions.append(Completion(drawn, taken, entropies, rng.random() < 0.3))
    return Rollout(
        [None] * len(completions),
        [prompts[n // size] for n in range(len(completions))],
        completions,
        Table((), {}, [], [], {}),
        {},
        {},
        size,
    )


def advantages(count, seed=0):
    """One group of three has none."""
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[3:6] = 0
    return drawn


def learn(model, form="mask", lr=0.1, how=None, advantage=None, **grpo):
    """The weights after one update by plain gradient descent, and its metrics."""
    engine = grpo.pop("engine", {})
    config = Config.model_validate(BASE | {"grpo": {"group_size": 3} | grpo, "engine": engine})
    mine = copy.deepcopy(model)
    passes = Passes(mine, pad_id=0, form=form, fused_head=config.engine.fused_head)
    reference = Reference(passes) if config.grpo.beta else None
    optimizer = torch.optim.SGD(passes.parameters(), lr=lr)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    learner = Learner(
        config,
        passes,
        optimizer,
        OBJECTIVES[config.grpo.objective],
        reference,
        Accelerator(cpu=True),
    )
    drawn = how or rollout(model)
    advantage = advantages(len(drawn.completions)) if advantage is None else advantage
    metrics = learner.update(drawn, advantage)
    return torch.cat([p.detach().flatten() for p in mine.parameters()]), metrics, len(steps)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def moved(model, **options):
    return learn(model, **options)[0] - flat(model)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns_in_the_mode_that_drew(model, monkeypatch, checkpointing):
    """The other mode is for dropout and random routing; recomputing alone needs it."""
    monkeypatch.setitem(BASE["train"], "gradient_checkpointing", checkpointing)
    modes = []
    forward = Passes.forward
    monkeypatch.setattr(
        Passes,
        "forward",
        lambda self, *a, **k: modes.append(self.training) or forward(self, *a, **k),
    )
    learn(model)
    assert set(modes) == {checkpointing}


@pytest.mark.parametrize("form", ["mask", "key_value", "plain"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.1, "kl": "k2"},
        {"objective": "dr_grpo", "level": "sequence"},
        {"entropy_coef": 0.1, "top_entropy": 0.4},
        {"mask_truncated": True, "objective": "grpo"},
        {"iterations": 2, "minibatches": 2},
    ],
    ids=str,
)
def test_no_lever_changes_what_is_learnt(model, form, options):
    plain = moved(model, form="plain", engine=LEVERS, **options)
    fast = moved(model, form=form, **options)
    assert plain.norm() > 0
    assert (fast - plain).norm() / plain.norm() < 1e-5


def test_the_order_of_passes_and_their_number_change_nothing(model, monkeypatch):
    whole = moved(model)
    monkeypatch.setitem(BASE["train"], "tokens_per_micro_batch", 1)
    assert (moved(model) - whole).norm() / whole.norm() < 1e-6


def test_the_default_size_of_passes_goes_by_the_longest_prompt(model, monkeypatch):
    asked = []

    def budget(*arguments):
        asked.append(arguments)
        return 10**6

    monkeypatch.setattr("grpo_core.update.default_budget", budget)
    drawn = rollout(model)
    learn(model, how=drawn, advantage=torch.ones(len(drawn.completions)))
    assert asked == [("cpu", max(map(len, drawn.prompt_ids)))]


def test_what_passes_leave_is_given_back_before_the_next_completions_are_drawn(model, monkeypatch):
    given = []
    monkeypatch.setattr("grpo_core.heap.give_back", lambda: given.append(True))
    learn(model)
    assert given == [True]


def test_one_minibatch_a_group_makes_as_many_steps_but_for_the_silent(model):
    assert learn(model)[2] == 1
    assert learn(model, minibatches=2)[2] == 2
    assert learn(model, minibatches=4)[2] == 3  # the second group teaches nothing
    assert learn(model, minibatches=2, iterations=3)[2] == 6


def test_minibatches_of_a_policy_that_does_not_move_add_up(model):
    """With a tiny step the parts' gradients are those of the whole, each by its own count."""
    luspo = {"objective": "luspo", "lr": 1e-9}  # divides by sequences: parts are equally many
    whole, parts = moved(model, **luspo), moved(model, minibatches=2, **luspo)
    assert (2 * whole - parts).norm() / parts.norm() < 1e-4


def test_later_minibatches_are_clipped_against_the_policy_that_drew(model):
    """After one big step the second part's ratios are far from 1."""
    _, metrics, _ = learn(model, minibatches=2, lr=50.0)
    assert metrics["clip_ratio/region_mean"] > 0
    assert metrics["sampling/sampling_logp_difference/mean"] < 1e-6


def test_without_any_signal_nothing_moves(model):
    silent = torch.zeros(12, dtype=torch.float64)
    weights, metrics, steps = learn(model, advantage=silent)
    assert torch.equal(weights, flat(model)) and steps == 0
    assert metrics["loss"] == 0


def test_an_entropy_bonus_alone_flattens_the_distribution(model):
    silent = torch.zeros(12, dtype=torch.float64)
    weights, _, _ = learn(model, advantage=silent, entropy_coef=1.0, lr=0.5)
    after = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(weights, after.parameters())

    def entropy(m):
        drawn = rollout(m)  # the same ids: they do not depend on the weights
        return sum(sum(c.entropies) for c in drawn.completions)

    assert entropy(after) > entropy(model)


def test_learning_from_the_most_uncertain_tokens_only(model):
    few, all_ = moved(model, top_entropy=0.2), moved(model)
    assert 0 < few.norm() < all_.norm()


def test_advantages_a_token_reach_their_tokens(model):
    """A row's advantage at every token is what one number a sample means; 0 behind a
    token means that nothing is learnt there."""
    drawn = rollout(model)
    longest = max(len(c.ids) for c in drawn.completions)
    each = advantages(12)
    spread = each[:, None].expand(-1, longest)
    same = moved(model, advantage=spread, how=drawn)
    assert (same - moved(model, how=drawn)).norm() / same.norm() < 1e-6
    only_first = spread * (torch.arange(longest) == 0)
    assert (moved(model, advantage=only_first, how=drawn) - same).norm() > 0


class TestReference:
    def test_the_policy_pulls_towards_it(self, model):
        """From a policy that has moved away, the KL alone leads back."""
        away = copy.deepcopy(model)
        with torch.no_grad():
            for p in away.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        config = Config.model_validate(BASE | {"grpo": {"group_size": 3, "beta": 1.0}})
        passes = Passes(away, pad_id=0)
        reference = Reference(Passes(copy.deepcopy(model), pad_id=0))
        optimizer = torch.optim.SGD(passes.parameters(), lr=0.05)
        learner = Learner(
            config, passes, optimizer, OBJECTIVES["dapo"], reference, Accelerator(cpu=True)
        )
        silent = torch.zeros(12, dtype=torch.float64)
        kls = [learner.update(rollout(away), silent)["kl"] for _ in range(4)]
        assert kls == sorted(kls, reverse=True) and kls[0] > 0

    def test_synchronised_it_is_the_policy(self, model):
        passes = Passes(copy.deepcopy(model), pad_id=0)
        reference = Reference(passes)
        with torch.no_grad():
            next(passes.parameters()).add_(1.0)
        reference.become(passes.model)
        for mine, theirs in zip(reference.passes.parameters(), passes.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()


def test_a_rollout_without_signal_takes_no_step_whether_its_passes_are_skipped_or_not(model):
    drawn = rollout(model)
    for skip in (True, False):
        silent = torch.zeros(len(drawn.completions), dtype=torch.float64)
        weights, _, steps = learn(model, how=drawn, advantage=silent, engine={"skip_silent": skip})
        assert steps == 0 and torch.equal(weights, flat(model))
