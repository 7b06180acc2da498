"""From a judged rollout to advantages: what each completion, or token, is credited with.

The formulas are `algorithm`'s; here scores of a table meet tokens of completions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_core.algorithm import group_advantages, step_advantages
from grpo_core.collect import Rollout
from grpo_core.offsets import token_offsets
from grpo_core.rubric import Rubric


def advantages(
    rollout: Rollout,
    rubric: Rubric,
    scale: Literal["group", "batch", "none"],
    decode: Callable[[Sequence[int]], str],
    step: int,
) -> Float[Tensor, " batch"] | Float[Tensor, "batch time"]:
    """The advantages of the outcomes; where a reward judged steps, an advantage a token:
    plus each such reward's weight times that of its steps."""
    table, size, weights = rollout.table, rollout.group_size, rubric.weights(step)
    total = group_advantages(
        torch.tensor(table.outcome_values, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        size,
        combine=rubric.combine,
        scale=scale,
    )
    lengths = [len(completion.ids) for completion in rollout.completions]
    for name, weight in zip(table.names, weights, strict=True):
        if not any(table.steps[name]):
            continue
        ends = [
            _step_ends(completion.ids, steps or (), decode)
            for completion, steps in zip(rollout.completions, table.steps[name], strict=True)
        ]
        total = total if total.dim() == 2 else total[:, None].expand(-1, max(lengths))
        total = total + weight * step_advantages(ends, lengths, size)
    return total


def a_sample(advantages: Tensor, rollout: Rollout) -> Float[Tensor, " batch"]:
    """One number a sample: the mean over its tokens where each has its own."""
    if advantages.dim() == 1:
        return advantages
    lengths = [max(1, len(completion.ids)) for completion in rollout.completions]
    return torch.stack([row[:n].mean() for row, n in zip(advantages, lengths, strict=True)])


def _step_ends(
    ids: Sequence[int],
    steps: Sequence[tuple[int, float]],
    decode: Callable[[Sequence[int]], str],
) -> list[tuple[int, float]]:
    """Steps by the index of their last token instead of their last character."""
    counts = token_offsets(ids, decode, [offset for offset, _ in steps])
    return [(count - 1, value) for count, (_, value) in zip(counts, steps, strict=True)]
