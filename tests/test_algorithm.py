"""Advantages and losses against values worked out by hand, and against a plain
per-token double-precision loop written for these tests."""

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from grpo_core.algorithm import OBJECTIVES, count, group_advantages, policy_loss  # noqa: E402

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
    logp, old, ref, adv, mask, objective, level, epsilon, high, delta, beta, bias, longest
):
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
            if beta:
                d = ref[i, t] - logp[i, t]
                kl = torch.exp(d) - d - 1
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

    def test_k3_by_hand(self):
        logp, ref = torch.tensor([[-1.0]]), torch.tensor([[-1.5]])
        loss = policy_loss(logp, logp, torch.zeros(1), torch.ones(1, 1), ref_logp=ref, beta=2.0)
        kl = math.exp(-0.5) + 0.5 - 1
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
