"""Which tokens count, and how much: entropy and the mismatch of a foreign sampler.

What is computed here goes into `policy_loss` as `token_weights`, or beside it as a
bonus. Masked positions have no effect, whatever stands there.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PerToken = Float[Tensor, "batch time"]
Mask = Bool[Tensor, "batch time"] | PerToken


def high_entropy_mask(entropies: PerToken, mask: Mask, top: float) -> Bool[Tensor, "batch time"]:
    """The tokens whose entropy is in the top share of all tokens of the call, true.

    "Beyond the 80/20 rule" (arXiv 2506.01939): the tokens where the policy decides are
    the ones to learn from; there `top` is 0.2. The threshold is the quantile at
    1 - top, interpolated, over all rows; ties at the threshold stay. The mask goes
    into `policy_loss` as `token_weights`. Raises ValueError unless 0 < top <= 1.
    """
    if not 0 < top <= 1:
        raise ValueError(f"top must be a share of tokens, above 0 and at most 1, got {top}")
    keep = mask != 0
    ordered = entropies[keep].float().sort().values
    if not len(ordered):
        return keep
    # torch.quantile's arithmetic without its limit of 2^24 values, which a rollout may pass
    rank = float(torch.tensor(1 - top, dtype=torch.float32) * (len(ordered) - 1))
    below = math.floor(rank)
    threshold = torch.lerp(ordered[below], ordered[math.ceil(rank)], rank - below)
    return keep & (entropies.float() >= threshold)


def entropy_bonus(entropies: PerToken, mask: Mask, tokens: float | Tensor) -> Float[Tensor, ""]:
    """Mean entropy of the tokens of `mask`, to be subtracted from the loss times a coefficient.

    `tokens` is their number in the whole batch, so that the bonuses of micro-batches
    add up to its mean. Entropies are in nats and carry the gradient. (Williams & Peng,
    1991; as a term of a clipped objective: PPO, arXiv 1707.06347, equation 9.)
    """
    weight = mask.to(entropies.dtype)
    total = (torch.where(mask != 0, entropies, 0.0) * weight).sum()
    return total / torch.as_tensor(tokens).to(total).clamp(min=1)


@torch.no_grad()
def mismatch_weights(
    logp_trainer: PerToken,
    logp_sampler: PerToken,
    mask: Mask,
    *,
    level: Literal["token", "sequence"] = "token",
    how: Literal["truncate", "mask"] = "truncate",
    cap: float | None = 2.0,
    floor: float | None = None,
) -> PerToken:
    """Importance weights pi_trainer / pi_sampler, for tokens drawn by another engine.

    The same weights give other probabilities in another program or precision; these
    weights, as `token_weights` of `policy_loss`, make the gradient that of the
    trainer's policy again. `logp_trainer` is from before the first update, so the
    weights are constants: they carry no gradient. At `level="sequence"` the weight
    is the ratio of whole completions (the product over tokens), the same at each.

    `how="truncate"` clips weights to [floor, cap]: truncated importance sampling
    (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", fengyao.notion.site/off-policy-rl; `cap` 2.0 is theirs). `how="mask"`
    sets weights outside of it to 0: by sequence Liu et al. 2025, "When Speed Kills
    Stability"; by token IcePop (Ring-1T, arXiv 2510.18855). None bounds nothing.

    A token whose sampler log-probability is nan (unknown) counts as a ratio of 1, as do
    masked positions. Raises ValueError for an unknown `level` or `how`.

    `vespo` already weighs by the ratio of whole sequences: give it the sampler's
    log-probabilities as `old_logp` rather than these weights.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, got {level!r}")
    if how not in ("truncate", "mask"):
        raise ValueError(f"how must be truncate or mask, got {how!r}")
    log_ratio = logp_trainer - logp_sampler
    log_ratio = torch.where((mask != 0) & ~log_ratio.isnan(), log_ratio, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.exp()
    if cap is None and floor is None:
        return ratio
    bounded = ratio.clamp(floor, cap)
    return bounded if how == "truncate" else torch.where(bounded == ratio, ratio, 0.0)
