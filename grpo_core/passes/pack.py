"""Where each token of a pass lies: ids, positions and masks, without a model.

In every layout the last token of a completion is left out of the input: nothing that is
asked for is predicted from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Form = Literal["blocks", "mask", "key_value", "plain"]
"""How completions share their prompt in a pass, fastest first."""

FORMS: tuple[Form, ...] = ("blocks", "mask", "key_value", "plain")

PROMPT, PADDING = 0, -1
"""Segments of a packed row; its completions are 1, 2, …"""


class Group(NamedTuple):
    """Completions of one prompt, as token ids."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


class Layout(NamedTuple):
    """Rows padded to the same length, on the right."""

    ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    source: Int[Tensor, " tokens"]
    """For every completion token, groups and completions in order, where the state that
    predicts it stands in the flattened rows."""


def padded(
    rows: Sequence[Sequence[int]], fill: int, device: torch.device, side: str = "right"
) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """Rows filled up to one length, and where they are not."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    there = [torch.ones_like(row, dtype=torch.bool) for row in tensors]
    filled = pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side=side)
    mask = pad_sequence(there, batch_first=True, padding_value=False, padding_side=side)
    return filled.to(device), mask.to(device)


def packed(groups: Sequence[Group], pad_id: int, device: torch.device) -> Layout:
    """One row a group: the prompt once, then its completions, positions restarting after
    the prompt."""
    ids, positions, segments, source = zip(*map(_row, groups), strict=True)
    length = max(map(len, ids))
    flat = [i * length + place for i, places in enumerate(source) for place in places]
    return Layout(
        padded(ids, pad_id, device)[0],
        padded(positions, 0, device)[0],
        padded(segments, PADDING, device)[0],
        torch.tensor(flat, dtype=torch.long, device=device),
    )


def _row(group: Group) -> tuple[list[int], list[int], list[int], list[int]]:
    """A group behind one copy of its prompt: ids, positions and segments, and where its
    completions' tokens are predicted."""
    start = len(group.prompt)
    ids, positions, segments = list(group.prompt), list(range(start)), [PROMPT] * start
    source: list[int] = []
    for segment, completion in enumerate(group.completions, 1):
        if len(completion):
            source += [start - 1, *range(len(ids), len(ids) + len(completion) - 1)]
        read = completion[:-1]
        ids += read
        positions += range(start, start + len(read))
        segments += [segment] * len(read)
    return ids, positions, segments, source


class Span(NamedTuple):
    """Where a group lies in a row: its prompt, and right behind it its completions."""

    start: int
    prompt: int
    """Tokens."""
    completions: tuple[int, ...]
    """Tokens of each that are read."""


def joined(groups: Sequence[Group], device: torch.device) -> tuple[Layout, list[Span]]:
    """All groups in one row, one behind the other, without padding."""
    apart = packed(groups, PADDING, device)
    read = (apart.segments != PADDING).flatten()
    ids, positions, segments = (each.flatten()[read].unsqueeze(0) for each in apart[:3])
    spans, start = [], 0
    for group in groups:
        lengths = tuple(max(0, len(completion) - 1) for completion in group.completions)
        spans.append(Span(start, len(group.prompt), lengths))
        start += len(group.prompt) + sum(lengths)
    return Layout(ids, positions, segments, (read.cumsum(0) - 1)[apart.source]), spans


def separate(groups: Sequence[Group], pad_id: int, device: torch.device) -> Layout:
    """One row a completion, behind a prompt of its own. With padding on the right alone,
    causal attention needs no mask."""
    single = [
        Group(prompt, [completion]) for prompt, completions in groups for completion in completions
    ]
    return packed(single, pad_id, device)


def block_mask(
    segments: Int[Tensor, "rows length"],
    positions: Int[Tensor, "rows length"],
    window: int | None = None,
) -> Bool[Tensor, "rows 1 length length"]:
    """True where a query (third axis) may look at a key: the prompt and its own segment,
    not ahead, and nearer than `window` positions.

    A padding token sees itself at least, so that no softmax is over nothing.
    """
    length = segments.shape[1]
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    mask = (query == key) | (key == PROMPT)
    mask &= torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    if window is not None:
        mask &= (positions - window).unsqueeze(2) < positions.unsqueeze(1)
    return mask.unsqueeze(1)
