"""From a table of scores to one advantage a sample: group normalisation.

Weights are applied before anything is normalised (`combine="sum"`), or after
each reward was normalised by itself (`combine="gdpo"`). Scores that are not
there are nan and change nothing for the others. Scores of steps become one
advantage a token.
"""

from collections.abc import Sequence
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


def step_advantages(
    steps: Sequence[Sequence[tuple[int, float]]],
    lengths: Sequence[int],
    group_size: int,
    *,
    eps: float = 1e-4,
) -> Float[Tensor, "batch time"]:
    """Process supervision: an advantage a token from scores of the steps of each sample.

    `steps[i]` holds (offset, value) of sample i: the index of the step's last token in
    the completion, and the step's score. `lengths[i]` is the completion's number of
    tokens; time is the longest of them. Groups stand together, as in
    `group_advantages`. DeepSeekMath (arXiv 2402.03300) section 4.1.3: over all steps of
    all samples of a group,

        z_j = (value_j - mean) / (std + eps)        A_t = sum of z_j over steps that end at or after t

    A sample without steps gets 0 everywhere, so does a group whose values are all
    equal; tokens after the last step get 0. A value of nan is a step without a score.
    In float64 on the CPU. Raises ValueError for an offset outside its completion, or
    when the shapes do not fit.
    """
    if len(steps) != len(lengths):
        raise ValueError(f"steps of {len(steps)} samples, but {len(lengths)} lengths")
    if group_size < 1 or len(steps) % group_size:
        raise ValueError(f"{len(steps)} samples are not whole groups of {group_size}")
    for i, (ends, length) in enumerate(zip(steps, lengths, strict=True)):
        for offset, _ in ends:
            if not 0 <= offset < length:
                raise ValueError(
                    f"sample {i}: a step ends at token {offset}, the completion has {length}"
                )
    per_token = torch.zeros(len(steps), max(lengths, default=0), dtype=torch.float64)
    for start in range(0, len(steps), group_size):
        group = [(i, *step) for i in range(start, start + group_size) for step in steps[i]]
        values = torch.tensor([value for *_, value in group], dtype=torch.float64)
        if not len(values):
            continue
        normalised = (_centred(values, dim=0) / (_std(values, dim=0) + eps)).nan_to_num(nan=0.0)
        for (i, offset, _), z in zip(group, normalised, strict=True):
            per_token[i, : offset + 1] += z
    return per_token


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
