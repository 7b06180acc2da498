"""Losses: from log-probabilities and advantages to a scalar to minimise.

Each objective is a per-token loss and a way to average it; both are a few lines
below. Notation: r = pi_theta / pi_old, A the advantage, m the mask.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PerToken = Float[Tensor, "batch time"]


@dataclass(frozen=True)
class Loss:
    """`value` is the scalar to minimise; `metrics` are means over the completion
    tokens of the call, without gradient: `clip_ratio/…`, and `kl` when measured."""

    value: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]]


class Terms(NamedTuple):
    """What a per-token loss is made of; ratios are [batch, 1] at sequence level."""

    logp: PerToken
    log_ratio: PerToken
    ratio: PerToken | Float[Tensor, "batch 1"]
    advantages: PerToken | Float[Tensor, "batch 1"]
    mask: PerToken
    epsilon: float
    epsilon_high: float
    delta: float | None


def clipped_surrogate(t: Terms) -> PerToken:
    """PPO's clip, DeepSeekMath (arXiv 2402.03300) equation 3: -min(r A, clip(r) A).

    With `delta` r is first capped there (two-sided clip, arXiv 2505.07291).
    """
    clipped = t.ratio.clamp(1 - t.epsilon, 1 + t.epsilon_high)
    ratio = t.ratio if t.delta is None else t.ratio.clamp(max=t.delta)
    return -torch.min(ratio * t.advantages, clipped * t.advantages)


def truncated_reinforce(t: Terms) -> PerToken:
    """CISPO (MiniMax-M1, arXiv 2506.13585): -stop_grad(min(r, epsilon_high)) A logp."""
    return -t.ratio.clamp(max=t.epsilon_high).detach() * t.advantages * t.logp


def soft_gate(t: Terms, positive: float = 1.0, negative: float = 1.05) -> PerToken:
    """SAPO (arXiv 2511.20347): -A sigmoid(tau (r - 1)) 4 / tau, tau by the sign of A."""
    tau = torch.where(t.advantages > 0, t.advantages.new_full((), positive), negative)
    return -torch.sigmoid(tau * (t.ratio - 1)) * 4 / tau * t.advantages


def gamma_weighted(t: Terms) -> PerToken:
    """VESPO (arXiv 2602.10693): -phi(w) A logp with w the ratio of whole sequences and
    phi(w) = exp(lambda (1 - w)) w^k, without gradient; (k, lambda) is (2, 3) where
    A >= 0, else (3, 2)."""
    log_w = (t.log_ratio.detach().clamp(-20, 20) * t.mask).sum(-1, keepdim=True)
    log_w = log_w.clamp(math.log(1e-8), 20)
    k = torch.where(t.advantages >= 0, 2.0, 3.0)
    rate = torch.where(t.advantages >= 0, 3.0, 2.0)
    phi = torch.exp(rate + k * log_w - rate * log_w.exp())
    return -phi * t.advantages * t.logp


class Objective(NamedTuple):
    """A per-token loss, and what its masked sum is divided by."""

    per_token: Callable[[Terms], PerToken]
    average: Literal["sequence-mean", "sequence-sum", "tokens", "max-length"]


OBJECTIVES: dict[str, Objective] = {
    "grpo": Objective(clipped_surrogate, "sequence-mean"),
    "bnpo": Objective(clipped_surrogate, "tokens"),
    "dr_grpo": Objective(clipped_surrogate, "max-length"),
    "dapo": Objective(clipped_surrogate, "tokens"),
    "luspo": Objective(clipped_surrogate, "sequence-sum"),
    "cispo": Objective(truncated_reinforce, "tokens"),
    "sapo": Objective(soft_gate, "sequence-mean"),
    "vespo": Objective(gamma_weighted, "tokens"),
}


KL: dict[str, Callable[[PerToken], PerToken]] = {
    "k1": lambda log_ref: -log_ref,
    "k2": lambda log_ref: log_ref.square() / 2,
    "k3": lambda log_ref: log_ref.exp() - log_ref - 1,
}
"""Estimates of KL(pi_theta || pi_ref) from log(pi_ref / pi_theta) at the drawn tokens
(Schulman 2020, "Approximating KL divergence", joschu.net/blog/kl-approx.html)."""


def _named(objective: str | Objective) -> Objective:
    if isinstance(objective, Objective):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[objective]


def count(
    objective: str | Objective, mask: Bool[Tensor, "batch time"] | PerToken
) -> Float[Tensor, ""]:
    """What `policy_loss` divides by for this mask: sequences, or tokens.

    Summed over micro-batches (and processes) it is the `normalizer` with which
    their losses add up to the loss of the whole batch.
    """
    if _named(objective).average == "tokens":
        return mask.sum(dtype=torch.float64)
    return torch.tensor(float(len(mask)), dtype=torch.float64, device=mask.device)


def policy_loss(
    logp: PerToken,
    old_logp: PerToken,
    advantages: Float[Tensor, " batch"] | PerToken,
    mask: Bool[Tensor, "batch time"] | PerToken,
    *,
    objective: str | Objective = "grpo",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    level: Literal["token", "sequence"] = "token",
    ref_logp: PerToken | None = None,
    beta: float = 0.0,
    kl: Literal["k1", "k2", "k3"] = "k3",
    kl_bias_correction: bool = False,
    token_weights: PerToken | None = None,
    max_completion_length: int | None = None,
    normalizer: float | Tensor | None = None,
) -> Loss:
    """The loss of a batch of completions, in the dtype of `logp`.

    After DeepSeekMath (arXiv 2402.03300), equation 3 and 4: with

        r_t   = exp(logp_t - old_logp_t)
        KL_t  = exp(ref_t - logp_t) - (ref_t - logp_t) - 1
        loss  = average over completions and tokens of  w_t f(r_t, A) + beta KL_t

    where f is the objective's per-token loss (for grpo, bnpo, dr_grpo, dapo and
    luspo the clipped surrogate -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)).
    `level="sequence"` replaces r_t by exp(mean_t(logp_t - old_logp_t)) (GSPO,
    arXiv 2507.18071).

    KL_t above is `kl="k3"`, unbiased and never negative; k1 is logp_t - ref_t, unbiased,
    of either sign; k2 is half its square, biased, its gradient right (see `KL`). Drawn from
    the policy itself, k1 as a loss has gradient zero on average.
    `kl_bias_correction` multiplies KL_t by r, which makes k1 and k3 exact in value and
    gradient for tokens of an older policy too (DeepSeek-V3.2, arXiv 2512.02556).

    `token_weights` w multiply the policy's part at each token and not the KL, and leave
    the average's divisor as it is: `high_entropy_mask`, `mismatch_weights`, or their
    product. They are taken as constants.

    `objective` is one of `OBJECTIVES` by name, or an `Objective` of your own. The
    average is: grpo, sapo: over sequences of the token mean; luspo: over
    sequences of the token sum; bnpo, dapo, cispo, vespo: over tokens; dr_grpo:
    sum / (sequences x `max_completion_length`). `normalizer` replaces the number
    of sequences or tokens of this batch by a global one, for accumulation (see
    `count`).

    What stands at masked positions, nan included, has no effect on value or
    gradient. Raises ValueError for an unknown objective, or where one lacks
    what it needs (cispo: `epsilon_high`; dr_grpo: `max_completion_length`;
    beta > 0: `ref_logp`).
    """
    chosen = _named(objective)
    if chosen.per_token is truncated_reinforce and epsilon_high is None:
        raise ValueError("cispo requires epsilon_high, the cap on ratios (MiniMax-M1 used 5.0)")
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, got {level!r}")
    if kl not in KL:
        raise ValueError(f"kl must be one of {', '.join(KL)}, got {kl!r}")

    keep = mask != 0
    weight = mask.to(logp.dtype)
    logp = torch.where(keep, logp, 0.0)
    log_ratio = logp - torch.where(keep, old_logp.to(logp.dtype), 0.0)
    advantages = advantages.to(logp.dtype)
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    else:
        advantages = torch.where(keep, advantages, 0.0)
    length = weight.sum(-1, keepdim=True).clamp(min=1)
    log_level = (
        log_ratio if level == "token" else (log_ratio * weight).sum(-1, keepdim=True) / length
    )
    ratio = log_level.exp()

    high = epsilon if epsilon_high is None else epsilon_high
    terms = Terms(logp, log_ratio, ratio, advantages, weight, epsilon, high, delta)
    losses = chosen.per_token(terms)
    if token_weights is not None:
        losses = losses * torch.where(keep, token_weights.to(logp.dtype), 0.0).detach()

    metrics = _clip_metrics(chosen, terms)
    if beta != 0.0:
        if ref_logp is None:
            raise ValueError("beta > 0 needs ref_logp, the reference's log-probabilities")
        log_ref = torch.where(keep, ref_logp.to(logp.dtype), 0.0) - logp
        divergence = KL[kl](log_ref)
        if kl_bias_correction:
            divergence = divergence * ratio
        losses = losses + beta * divergence
        metrics["kl"] = divergence

    total = losses * weight
    if chosen.average == "sequence-mean":
        total = total / length
    divisor = torch.as_tensor(count(chosen, weight) if normalizer is None else normalizer)
    if chosen.average == "max-length":
        if max_completion_length is None:
            raise ValueError("dr_grpo requires max_completion_length, its constant divisor")
        divisor = divisor * max_completion_length
    value = total.sum() / divisor.to(logp).clamp(min=1)
    tokens = weight.sum().clamp(min=1)
    means = {name: (each.detach() * weight).sum() / tokens for name, each in metrics.items()}
    return Loss(value, means)


def _clip_metrics(objective: Objective, t: Terms) -> dict[str, Tensor]:
    """Where the clip holds the gradient back, as 0 and 1."""
    low, high = t.ratio < 1 - t.epsilon, t.ratio > 1 + t.epsilon_high
    if objective.per_token is truncated_reinforce:
        low, high = torch.zeros_like(low), t.ratio > t.epsilon_high
    elif objective.per_token is not clipped_surrogate:
        return {}
    low, high = low & (t.advantages < 0), high & (t.advantages > 0)
    sides = {"low": low, "high": high, "region": low | high}
    return {f"clip_ratio/{side}_mean": at.to(t.mask.dtype) for side, at in sides.items()}
