"""From a table of scores to one advantage a sample: group normalisation.

Weights are applied before anything is normalised (`combine="sum"`), or after
each reward was normalised by itself (`combine="gdpo"`). Scores that are not
there are nan and change nothing for the others.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def group_advantages(
    scores: Float[Tensor, "batch rewards"],
    weights: Float[Tensor, " rewards"],
    group_size: int,
    *,
    combine: Literal["sum", "gdpo"] = "sum",
    scale: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
) -> Float[Tensor, " batch"]:
    """Advantages of a batch whose groups stand together, `group_size` samples each.

    `sum`, DeepSeekMath (arXiv 2402.03300) section 4.1.2: with the total
    t_i = sum_k w_k s_ik over the scores present,

        A_i = (t_i - mean_group(t)) / (std_group(t) + eps)

    where std is the sample deviation. `scale="batch"` divides by the deviation
    of the whole batch, `scale="none"` by nothing (Dr. GRPO, arXiv 2503.20783).

    `gdpo` (arXiv 2601.05242): each reward is z-scored in its group, the weighted
    sum of those is z-scored over the batch; `scale` does not apply.

    An absent score (nan) drops out of the sum. A sample with none at all leaves
    the baseline and gets advantage 0; so does every sample of a group whose
    totals are all equal. Raises ValueError when the shapes do not fit.
    """
    if scores.dim() != 2 or weights.shape != scores.shape[1:]:
        raise ValueError(
            f"scores must be [batch, rewards] and weights [rewards], "
            f"got {tuple(scores.shape)} and {tuple(weights.shape)}"
        )
    if group_size < 1 or len(scores) % group_size:
        raise ValueError(f"{len(scores)} samples are not whole groups of {group_size}")
    weights = weights.to(scores)
    if combine == "sum":
        totals = _weighted_sum(scores, weights).view(-1, group_size)
        advantages = _centred(totals, dim=1)
        if scale == "group":
            advantages = advantages / (_std(totals, dim=1) + eps)
        elif scale == "batch":
            advantages = advantages / (_std(totals.reshape(1, -1), dim=1) + eps)
        elif scale != "none":
            raise ValueError(f"scale must be group, batch or none, got {scale!r}")
        advantages = advantages.reshape(-1)
    elif combine == "gdpo":
        grouped = scores.view(-1, group_size, scores.shape[1])
        each = _centred(grouped, dim=1) / (_std(grouped, dim=1) + eps)
        totals = _weighted_sum(each.view_as(scores), weights)
        advantages = _centred(totals, dim=0) / (_std(totals, dim=0) + eps)
    else:
        raise ValueError(f"combine must be sum or gdpo, got {combine!r}")
    return advantages.nan_to_num(nan=0.0)


def _weighted_sum(
    scores: Float[Tensor, "batch rewards"], weights: Float[Tensor, " rewards"]
) -> Float[Tensor, " batch"]:
    """Sum over the scores present; nan where none is."""
    totals = (scores * weights).nansum(dim=1)
    return totals.masked_fill(scores.isnan().all(dim=1), torch.nan)


def _centred(values: Tensor, dim: int) -> Tensor:
    """Values less the mean of those present; exactly 0 where all present are equal,
    since a rounded mean would leave a residue for the division to blow up."""
    high = values.nan_to_num(nan=-torch.inf).amax(dim, keepdim=True)
    low = values.nan_to_num(nan=torch.inf).amin(dim, keepdim=True)
    centred = values - values.nanmean(dim, keepdim=True)
    return torch.where((high == low) & ~values.isnan(), torch.zeros_like(values), centred)


def _std(values: Tensor, dim: int) -> Tensor:
    """Sample deviation of the values present; 0 where fewer than two are."""
    present = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (present - 1).clamp(min=1)).sqrt()
