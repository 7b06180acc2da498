"""Advantages and losses against values worked out by hand, and against a plain
per-token double-precision loop written for these tests."""

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from grpo_core.algorithm import (  # noqa: E402
    OBJECTIVES,
    count,
    entropy_bonus,
    group_advantages,
    high_entropy_mask,
    mismatch_weights,
    policy_loss,
    step_advantages,
)

NAN = math.nan


def advantages(rows, weights=(1.0,), group_size=None, **kwargs):
    scores = torch.tensor(rows, dtype=torch.float64)
    scores = scores.unsqueeze(1) if scores.dim() == 1 else scores
    weights = torch.tensor(weights, dtype=torch.float64)
    return group_advantages(scores, weights, group_size or len(rows), **kwargs)


def close(actual, expected, tolerance=1e-9):
    assert torch.allclose(actual, torch.tensor(expected, dtype=actual.dtype), atol=tolerance), (
        actual
    )


class TestGroupAdvantages:
    def test_by_hand(self):
        # mean 0.5, sample deviation sqrt(4 * 0.25 / 3)
        std = math.sqrt(1 / 3)
        close(advantages([1.0, 0, 0, 1.0]), [s * 0.5 / (std + 1e-4) for s in (1, -1, -1, 1)])

    def test_weights_come_before_normalisation(self):
        # totals 1.2, 0, 0.2, 1.0: mean 0.6
        rows = [[1, 1], [0, 0], [0, 1], [1, 0]]
        totals = [1.2, 0.0, 0.2, 1.0]
        std = math.sqrt(sum((t - 0.6) ** 2 for t in totals) / 3)
        close(advantages(rows, (1.0, 0.2)), [(t - 0.6) / (std + 1e-4) for t in totals])

    def test_groups_do_not_mix(self):
        both = advantages([1.0, 0.0, 5.0, 5.0], group_size=2)
        close(both[:2], advantages([1.0, 0.0]).tolist())
        close(both[2:], [0.0, 0.0])

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, -7.7])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("combine", ["sum", "gdpo"])
    def test_equal_rewards_give_exactly_zero(self, value, dtype, combine):
        scores = torch.full((7, 1), value, dtype=dtype)
        result = group_advantages(scores, torch.ones(1, dtype=dtype), 7, combine=combine)
        assert result.tolist() == [0.0] * 7

    def test_an_absent_score_drops_out_of_the_sum(self):
        close(advantages([[1, NAN], [0, 0]], (1.0, 1.0)), advantages([[1], [0]]).tolist())

    def test_a_sample_without_scores_leaves_the_baseline(self):
        three = advantages([1.0, NAN, 0.0])
        assert three[1] == 0
        close(three[[0, 2]], advantages([1.0, 0.0]).tolist())

    def test_a_group_without_any_score_is_silent(self):
        close(advantages([NAN, NAN, 1.0, 0.0], group_size=2)[:2], [0.0, 0.0])
        close(advantages([NAN, NAN]), [0.0, 0.0])
        close(advantages([NAN, 1.0]), [0.0, 0.0])

    def test_scales(self):
        rows = [1.0, 0.0, 3.0, 0.0]
        close(advantages(rows, group_size=2, scale="none"), [0.5, -0.5, 1.5, -1.5])
        std = torch.tensor(rows).std().item()
        close(
            advantages(rows, group_size=2, scale="batch"),
            [a / (std + 1e-4) for a in (0.5, -0.5, 1.5, -1.5)],
            1e-6,
        )

    def test_gdpo_by_hand(self):
        # each column z-scored in its group of two is +-1/sqrt(2), whatever its size
        rows = [[1, 0], [0, 100], [5, 3], [1, 3]]
        z = 0.5 / (math.sqrt(0.5) + 1e-4)
        big, four = 50 / (math.sqrt(5000) + 1e-4), 2 / (math.sqrt(8) + 1e-4)
        totals = torch.tensor([z - big, big - z, four, -four], dtype=torch.float64)
        expected = (totals - totals.mean()) / (totals.std() + 1e-4)
        close(advantages(rows, (1.0, 1.0), group_size=2, combine="gdpo"), expected.tolist())

    @pytest.mark.parametrize(
        "call",
        [
            lambda: advantages([1.0, 2.0, 3.0], group_size=2),
            lambda: advantages([1.0, 2.0], (1.0, 1.0)),
            lambda: advantages([1.0, 2.0], scale="std"),
            lambda: advantages([1.0, 2.0], combine="mean"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call):
        with pytest.raises(ValueError):
            call()

    @given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.floats(-5, 5))
    def test_a_shift_changes_nothing(self, rows, shift):
        shifted = advantages([row + shift for row in rows])
        spread = max(rows) - min(rows)
        if spread > 1e-3:
            close(shifted, advantages(rows).tolist(), 1e-6)

    @given(st.lists(st.floats(-10, 10) | st.just(NAN), min_size=8, max_size=8))
    def test_always_finite_and_centred(self, rows):
        result = advantages(rows, group_size=4)
        assert torch.isfinite(result).all()
        assert abs(result[:4].sum()) < 1e-6


class TestStepAdvantages:
    def test_by_hand(self):
        # values 1, 0, 1, 0: mean 0.5, sample deviation sqrt(1/3), as in DeepSeekMath 4.1.3
        z = 0.5 / (math.sqrt(1 / 3) + 1e-4)
        result = step_advantages([[(1, 1.0), (3, 0.0)], [(0, 1.0), (1, 0.0)]], [5, 3], 2)
        close(result, [[0, 0, -z, -z, 0], [0, -z, 0, 0, 0]])

    def test_a_token_is_credited_with_every_step_that_ends_at_or_after_it(self):
        result = step_advantages([[(0, 3.0), (2, 1.0), (3, 0.0)], [(1, 0.0)]], [4, 2], 2)
        z = [(v - 1) / (math.sqrt(2) + 1e-4) for v in (3, 1, 0, 0)]
        close(result[0], [z[0] + z[1] + z[2], z[1] + z[2], z[1] + z[2], z[2]])
        close(result[1], [z[3], z[3], 0, 0])

    def test_one_step_at_the_end_of_each_is_the_advantage_of_samples(self):
        values, lengths = [1.0, 0.0, 0.5, 0.0], [3, 5, 2, 4]
        ends = [[(2, 1.0)], [(4, 0.0)], [(1, 0.5)], [(3, 0.0)]]
        expected = [
            [advantage] * length + [0] * (5 - length)
            for length, advantage in zip(lengths, advantages(values).tolist(), strict=True)
        ]
        close(step_advantages(ends, lengths, 4), expected)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, -7.7])
    def test_equal_values_give_exactly_zero(self, value):
        result = step_advantages([[(0, value), (1, value)], [(2, value)] * 5], [2, 3], 2)
        assert (result == 0).all()

    def test_a_sample_without_steps_gets_nothing_and_changes_nothing(self):
        with_one, without = (
            step_advantages([[(0, 1.0)], [(0, 0.0)], *more], [2] * (2 + len(more)), 2 + len(more))
            for more in ([[]], [])
        )
        assert (with_one[2] == 0).all()
        assert torch.equal(with_one[:2], without)
        assert (step_advantages([[], []], [2, 3], 2) == 0).all()

    def test_a_step_without_a_score_drops_out(self):
        some = step_advantages([[(0, 1.0), (1, NAN)], [(1, 0.0)]], [2, 2], 2)
        assert torch.equal(some, step_advantages([[(0, 1.0)], [(1, 0.0)]], [2, 2], 2))

    def test_groups_do_not_mix(self):
        first, second = [[(0, 1.0)], [(0, 0.0)]], [[(0, 9.0)], [(0, 7.0), (1, 7.0)]]
        both = step_advantages(first + second, [2] * 4, 2)
        assert torch.equal(both[:2], step_advantages(first, [2, 2], 2))
        assert torch.equal(both[2:], step_advantages(second, [2, 2], 2))

    @pytest.mark.parametrize(
        ("steps", "lengths", "size", "message"),
        [
            ([[(2, 1.0)]], [2], 1, "sample 0: a step ends at token 2, the completion has 2"),
            ([[], [(-1, 1.0)]], [2, 2], 1, "sample 1: a step ends at token -1"),
            ([[]], [2, 2], 1, "steps of 1 samples, but 2 lengths"),
            ([[], [], []], [1, 1, 1], 2, "3 samples are not whole groups of 2"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, steps, lengths, size, message):
        with pytest.raises(ValueError, match=message):
            step_advantages(steps, lengths, size)

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), max_size=4),
            min_size=3, max_size=3,
        )
    )  # fmt: skip
    def test_equals_the_plain_loop(self, steps):
        values = [value for ends in steps for _, value in ends]
        mean = sum(values) / max(1, len(values))
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
        plain = [
            [sum((v - mean) / (std + 1e-4) for end, v in ends if end >= t) for t in range(5)]
            for ends in steps
        ]
        close(step_advantages(steps, [5, 5, 5], 3), plain, 1e-6)


class TestTokens:
    """Which tokens count: by entropy, and by who drew them."""

    def test_the_upper_fifth_by_entropy(self):
        entropies = torch.tensor([[0.1, 2.0, 0.3, 9.0], [0.2, 0.4, 9.0, 0.0]])
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]])
        # six tokens count; the quantile at 0.8 is the second highest of them
        chosen = high_entropy_mask(entropies, mask, 0.2)
        assert chosen.nonzero().tolist() == [[0, 1], [1, 1]]

    def test_all_tokens_and_none(self):
        entropies = torch.rand(2, 5)
        mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
        assert torch.equal(high_entropy_mask(entropies, mask, 1.0), mask)
        nothing = torch.zeros_like(mask)
        assert torch.equal(high_entropy_mask(entropies, nothing, 0.5), nothing)

    def test_ties_at_the_threshold_stay(self):
        mask = torch.ones(1, 10, dtype=torch.bool)
        assert high_entropy_mask(torch.zeros(1, 10), mask, 0.1).all()

    @pytest.mark.parametrize("top", [0.0, -0.1, 1.01, 20, NAN])
    def test_a_share_that_is_none_is_refused(self, top):
        with pytest.raises(ValueError, match="top must be a share"):
            high_entropy_mask(torch.zeros(1, 2), torch.ones(1, 2), top)

    @given(st.integers(0, 1000), st.integers(1, 100))
    def test_the_share_holds_to_a_token(self, seed, percent):
        entropies = torch.rand(3, 30, generator=torch.Generator().manual_seed(seed))
        chosen = high_entropy_mask(entropies, torch.ones(3, 30), percent / 100)
        assert abs(int(chosen.sum()) - 0.9 * percent) <= 1 + 1e-6
        assert entropies[chosen].min() > entropies.where(~chosen, -1.0).max()

    def test_entropy_bonus_by_hand(self):
        entropies = torch.tensor([[1.0, 3.0, NAN], [2.0, 8.0, 0.5]], requires_grad=True)
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        bonus = entropy_bonus(entropies, mask, 3)
        assert bonus.item() == pytest.approx(2.0)
        bonus.backward()
        assert torch.allclose(entropies.grad, mask / 3)

    def test_entropy_bonuses_of_micro_batches_add_up(self):
        entropies, mask = torch.rand(4, 5).double(), torch.rand(4, 5) < 0.5
        tokens = mask.sum()
        parts = [entropy_bonus(entropies[p], mask[p], tokens) for p in (slice(0, 1), slice(1, 4))]
        assert sum(parts).item() == pytest.approx(entropies[mask].mean().item())
        assert entropy_bonus(entropies, torch.zeros_like(mask), 0) == 0

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [[2, 0.5, 1], [2, 1, 1]]),
            ({"cap": None}, [[4, 0.5, 1], [3, 1, 1]]),
            ({"cap": 3.5, "floor": 0.8}, [[3.5, 0.8, 1], [3, 1, 1]]),
            ({"how": "mask"}, [[0, 0.5, 1], [0, 1, 1]]),
            ({"how": "mask", "cap": 3.5, "floor": 0.8}, [[0, 0, 1], [3, 1, 1]]),
            ({"level": "sequence"}, [[2, 2, 2], [2, 2, 2]]),
            ({"level": "sequence", "cap": 2.5}, [[2, 2, 2], [2.5, 2.5, 2.5]]),
            ({"level": "sequence", "how": "mask"}, [[2, 2, 2], [0, 0, 0]]),
        ],
        ids=str,
    )
    def test_mismatch_weights_by_hand(self, options, expected):
        # ratios 4 and 0.5 in the first row, 3 and an unknown one in the second
        trainer = torch.tensor([[4, 0.5, 7], [3, 1, 7]]).double().log().requires_grad_()
        sampler = torch.tensor([[0, 0, 0], [0, NAN, -math.inf]]).double()
        mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
        weights = mismatch_weights(trainer, sampler, mask, **options)
        close(weights, expected)
        assert not weights.requires_grad

    @pytest.mark.parametrize("options", [{"level": "word"}, {"how": "clip"}])
    def test_mismatch_weights_of_another_kind_are_refused(self, options):
        with pytest.raises(ValueError, match="must be"):
            mismatch_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), **options)

    def test_mismatch_weights_restore_the_gradient_of_the_trainers_policy(self):
        # averaged over what the sampler draws, the weighted gradient is the trainer's own
        logits = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64).requires_grad_()
        logp = logits.log_softmax(0)
        sampler = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
        reward = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)

        def gradient(chances, weights):
            losses = policy_loss(
                logp[:, None], logp.detach()[:, None], reward * chances.exp(), torch.ones(3, 1),
                token_weights=weights, normalizer=1,
            )  # fmt: skip
            return torch.autograd.grad(losses.value, logits, retain_graph=True)[0]

        weights = mismatch_weights(logp[:, None], sampler[:, None], torch.ones(3, 1), cap=None)
        own = gradient(logp.detach(), None)
        assert torch.allclose(gradient(sampler, weights), own)
        assert not torch.allclose(gradient(sampler, None), own)


def batch(seed=0, rows=4, time=6, dtype=torch.float64):
    """Log-probabilities, old ones some way off, a reference, advantages, ragged mask."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    old = -rand(rows, time).abs()
    logp = old + 0.4 * rand(rows, time)
    ref = old + 0.3 * rand(rows, time)
    lengths = torch.randint(1, time + 1, (rows,), generator=g)
    mask = torch.arange(time) < lengths[:, None]
    return logp.to(dtype), old.to(dtype), ref.to(dtype), rand(rows).to(dtype), mask


def plain_loss(
    logp, old, ref, adv, mask, objective, level, epsilon, high, delta, beta, bias, longest,
    estimate="k3", weights=None,
):  # fmt: skip
    """The definition, a token at a time, with Python floats and autograd scalars."""
    rows = [[t for t in range(mask.shape[1]) if mask[i, t]] for i in range(len(mask))]
    sequences = []
    for i, steps in enumerate(rows):
        a = adv[i]
        mean_ratio = sum(logp[i, t] - old[i, t] for t in steps) / len(steps)
        w = math.exp(
            min(20, max(math.log(1e-8), sum((logp[i, t] - old[i, t]).item() for t in steps)))
        )
        losses = []
        for t in steps:
            r = torch.exp(mean_ratio if level == "sequence" else logp[i, t] - old[i, t])
            if objective == "cispo":
                loss = -min(r.item(), high) * a * logp[i, t]
            elif objective == "sapo":
                tau = 1.0 if a > 0 else 1.05
                loss = -a * torch.sigmoid(tau * (r - 1)) * 4 / tau
            elif objective == "vespo":
                k, lam = (2, 3) if a >= 0 else (3, 2)
                loss = -math.exp(lam) * w**k * math.exp(-lam * w) * a * logp[i, t]
            else:
                capped = r if delta is None else torch.clamp(r, max=delta)
                loss = -torch.minimum(capped * a, torch.clamp(r, 1 - epsilon, 1 + high) * a)
            if weights is not None:
                loss = weights[i, t].item() * loss
            if beta:
                d = ref[i, t] - logp[i, t]
                kl = {"k1": -d, "k2": d * d / 2, "k3": torch.exp(d) - d - 1}[estimate]
                loss = loss + beta * (kl * r if bias else kl)
            losses.append(loss)
        sequences.append(losses)
    tokens = sum(map(len, sequences))
    if objective in ("grpo", "sapo"):
        return sum(sum(s) / len(s) for s in sequences) / len(sequences)
    if objective == "luspo":
        return sum(sum(s) for s in sequences) / len(sequences)
    if objective == "dr_grpo":
        return sum(sum(s) for s in sequences) / (len(sequences) * longest)
    return sum(sum(s) for s in sequences) / tokens


def settings_for(objective):
    return {"epsilon_high": 1.5} if objective == "cispo" else {"epsilon_high": 0.3}


def test_the_names_that_a_config_takes_are_those_there_are():
    from grpo_core import config

    assert set(config.OBJECTIVES) == set(OBJECTIVES)


class TestPolicyLoss:
    def test_by_hand(self):
        # one sequence, two tokens, A = 1: ratios 1.5 (clipped to 1.2) and 0.5
        logp = torch.log(torch.tensor([[1.5, 0.5]], dtype=torch.float64)).requires_grad_()
        loss = policy_loss(
            logp, torch.zeros(1, 2, dtype=torch.float64), torch.ones(1), torch.ones(1, 2)
        )
        assert loss.value.item() == pytest.approx(-(1.2 + 0.5) / 2)
        loss.value.backward()
        assert logp.grad[0].tolist() == pytest.approx([0.0, -0.25])
        assert loss.metrics["clip_ratio/high_mean"] == 0.5

    @pytest.mark.parametrize(
        ("estimate", "kl"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) + 0.5 - 1)]
    )
    def test_kl_by_hand(self, estimate, kl):
        logp, ref = torch.tensor([[-1.0]]), torch.tensor([[-1.5]])
        loss = policy_loss(
            logp, logp, torch.zeros(1), torch.ones(1, 1), ref_logp=ref, beta=2.0, kl=estimate
        )
        assert loss.value.item() == pytest.approx(2 * kl, rel=1e-6)
        assert loss.metrics["kl"].item() == pytest.approx(kl, rel=1e-6)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize(("beta", "bias"), [(0.0, False), (0.1, False), (0.1, True)])
    @pytest.mark.parametrize("delta", [None, 1.4])
    def test_value_and_gradient_equal_the_plain_loop(self, objective, level, beta, bias, delta):
        logp, old, ref, adv, mask = batch()
        high = settings_for(objective)["epsilon_high"]
        ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
        loss = policy_loss(
            ours, old, adv, mask, objective=objective, epsilon=0.2, epsilon_high=high,
            delta=delta, level=level, ref_logp=ref, beta=beta, kl_bias_correction=bias,
            max_completion_length=6,
        )  # fmt: skip
        plain = plain_loss(
            theirs, old, ref, adv, mask, objective, level, 0.2, high, delta, beta, bias, 6
        )
        assert loss.value.item() == pytest.approx(plain.item(), abs=1e-9)
        loss.value.backward()
        plain.backward()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("level", ["token", "sequence"])
    @pytest.mark.parametrize("estimate", ["k1", "k2", "k3"])
    @pytest.mark.parametrize("bias", [False, True])
    def test_estimates_and_weights_equal_the_plain_loop(self, objective, level, estimate, bias):
        logp, old, ref, adv, mask = batch(3)
        weights = torch.rand(logp.shape, dtype=torch.float64).round(decimals=1)
        high = settings_for(objective)["epsilon_high"]
        ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
        loss = policy_loss(
            ours, old, adv, mask, objective=objective, epsilon_high=high, level=level,
            ref_logp=ref, beta=0.1, kl=estimate, kl_bias_correction=bias, token_weights=weights,
            max_completion_length=6,
        )  # fmt: skip
        plain = plain_loss(
            theirs, old, ref, adv, mask, objective, level, 0.2, high, None, 0.1, bias, 6,
            estimate, weights,
        )  # fmt: skip
        assert loss.value.item() == pytest.approx(plain.item(), abs=1e-9)
        loss.value.backward()
        plain.backward()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)

    def test_weights_leave_the_kl_and_the_divisor_alone(self):
        # two tokens, the second not learnt from: its KL of 0.5 still counts, and so does it
        logp, ref = torch.zeros(1, 2), torch.full((1, 2), -0.5)
        loss = policy_loss(
            logp, logp, torch.ones(1), torch.ones(1, 2), ref_logp=ref, beta=1.0, kl="k1",
            token_weights=torch.tensor([[1.0, 0.0]]),
        )  # fmt: skip
        assert loss.value.item() == pytest.approx((-1 + 0.5 + 0.5) / 2)

    def test_weights_of_ones_change_nothing(self):
        logp, old, _, adv, mask = batch()
        ones = torch.ones_like(logp)
        weighted = policy_loss(logp, old, adv, mask, token_weights=ones).value
        assert weighted == policy_loss(logp, old, adv, mask).value

    def test_weights_are_constants(self):
        logp, old, _, adv, mask = batch()
        logp.requires_grad_()
        weights = logp.exp()
        grads = [
            torch.autograd.grad(
                policy_loss(logp, old, adv, mask, token_weights=each).value,
                logp,
                retain_graph=True,
            )[0]
            for each in (weights, weights.detach())
        ]
        assert torch.equal(*grads)

    def test_the_bias_correction_gives_the_kl_and_its_gradient_off_policy(self):
        # two tokens, drawn from `old`: averaged over what may be drawn, k1 and k3 times the
        # ratio are the KL of policy and reference, and their gradient is the KL's
        logits = torch.tensor([0.3, -0.4], dtype=torch.float64).requires_grad_()
        old, ref = (torch.tensor(x, dtype=torch.float64).log() for x in ([0.8, 0.2], [0.4, 0.6]))
        logp = logits.log_softmax(0)
        exact = (logp.exp() * (logp - ref)).sum()
        (gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
        for estimate in ("k1", "k3"):
            kl = sum(
                old[t].exp()
                * policy_loss(
                    logp[t].view(1, 1), old[t].view(1, 1), torch.zeros(1), torch.ones(1, 1),
                    ref_logp=ref[t].view(1, 1), beta=1.0, kl=estimate, kl_bias_correction=True,
                ).value
                for t in range(2)
            )  # fmt: skip
            assert kl.item() == pytest.approx(exact.item())
            (found,) = torch.autograd.grad(kl, logits, retain_graph=True)
            assert torch.allclose(found, gradient)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("rubbish", [0.0, 1e9, NAN, math.inf, -math.inf])
    def test_padding_has_no_effect_at_all(self, objective, rubbish):
        logp, old, ref, adv, mask = batch(dtype=torch.float32)
        kwargs = {"objective": objective, "ref_logp": ref, "beta": 0.1, "max_completion_length": 6}
        kwargs |= settings_for(objective)
        clean = logp.clone().requires_grad_()
        expected = policy_loss(clean, old, adv, mask, **kwargs)
        expected.value.backward()
        dirty = torch.where(mask, logp, rubbish).requires_grad_()
        kwargs["ref_logp"] = torch.where(mask, ref, rubbish)
        kwargs["token_weights"] = torch.where(mask, 1.0, rubbish)
        found = policy_loss(dirty, torch.where(mask, old, rubbish), adv, mask, **kwargs)
        found.value.backward()
        assert found.value.item() == expected.value.item()
        assert torch.equal(clean.grad, dirty.grad)
        assert found.metrics == expected.metrics
        assert (dirty.grad[~mask] == 0).all()

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_micro_batches_add_up_to_the_whole(self, objective):
        logp, old, _, adv, mask = batch(rows=6)
        kwargs = {"objective": objective, "max_completion_length": 6} | settings_for(objective)
        whole = policy_loss(logp, old, adv, mask, **kwargs).value
        normalizer = count(objective, mask)
        parts = [
            policy_loss(logp[p], old[p], adv[p], mask[p], normalizer=normalizer, **kwargs).value
            for p in (slice(0, 1), slice(1, 4), slice(4, 6))
        ]
        assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-12)

    def test_zero_advantage_is_zero_gradient(self):
        logp, old, _, adv, mask = batch()
        logp.requires_grad_()
        policy_loss(logp, old, torch.zeros_like(adv), mask).value.backward()
        assert (logp.grad == 0).all()

    def test_advantages_a_token(self):
        logp, old, _, adv, mask = batch()
        each = adv[:, None].expand_as(logp)
        assert policy_loss(logp, old, each, mask).value == policy_loss(logp, old, adv, mask).value

    def test_a_row_without_tokens_is_no_nan(self):
        logp, old, _, adv, mask = batch()
        mask[1] = False
        for objective in OBJECTIVES:
            loss = policy_loss(
                logp, old, adv, mask, objective=objective, max_completion_length=6,
                **settings_for(objective),
            )  # fmt: skip
            assert torch.isfinite(loss.value)
        assert policy_loss(logp, old, adv, torch.zeros_like(mask)).value == 0

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"objective": "ppo"}, "unknown objective 'ppo'"),
            ({"objective": "cispo"}, "cispo requires epsilon_high"),
            ({"objective": "dr_grpo"}, "dr_grpo requires max_completion_length"),
            ({"beta": 0.1}, "beta > 0 needs ref_logp"),
            ({"level": "word"}, "level must be token or sequence"),
            ({"kl": "k4"}, "kl must be one of k1, k2, k3"),
        ],
    )
    def test_what_is_missing_is_said(self, kwargs, message):
        logp, old, _, adv, mask = batch()
        with pytest.raises(ValueError, match=message):
            policy_loss(logp, old, adv, mask, **kwargs)

    @settings(max_examples=50)
    @given(st.integers(0, 10_000))
    def test_k3_is_never_negative(self, seed):
        logp, old, ref, adv, mask = batch(seed)
        loss = policy_loss(logp, old, adv, mask, ref_logp=ref, beta=0.1)
        assert loss.metrics["kl"] >= 0
