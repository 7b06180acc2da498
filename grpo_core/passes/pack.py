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

Form = Literal["blocks", "mask", "key_value", "plain"]
"""How completions share their prompt in a pass, fastest first."""

FORMS: tuple[Form, ...] = ("blocks", "mask", "key_value", "plain")

PROMPT, PADDING = 0, -1
"""Segments of a packed row; its completions are 1, 2, …"""


class Group(NamedTuple):
    """Completions of one prompt, as token ids."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


class Row(NamedTuple):
    """Tokens in a row of a layout, with their positions and segments."""

    ids: list[int]
    positions: list[int]
    segments: list[int]


class Layout(NamedTuple):
    """Rows padded to the same length, on the right."""

    ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    source: Int[Tensor, " tokens"]
    """For every completion token, groups and completions in order, where the state that
    predicts it stands in the flattened rows."""


def packed(groups: Sequence[Group], pad_id: int, device: torch.device) -> Layout:
    """One row a group: the prompt once, then its completions, positions restarting after
    the prompt."""
    rows, source = zip(*map(_row, groups), strict=True)
    return _layout(rows, source, pad_id, device)


def _row(group: Group) -> tuple[Row, list[int]]:
    """A group behind one copy of its prompt, and where its completions' tokens are predicted."""
    start = len(group.prompt)
    row = Row(list(group.prompt), list(range(start)), [PROMPT] * start)
    places: list[int] = []
    for segment, completion in enumerate(group.completions, 1):
        first = len(row.ids)
        read = list(completion[:-1])
        row.ids.extend(read)
        row.positions.extend(range(start, start + len(read)))
        row.segments.extend([segment] * len(read))
        if len(completion):
            places += [start - 1, *range(first, first + len(read))]
    return row, places


class Span(NamedTuple):
    """Where a group lies in a row: its prompt, and right behind it its completions."""

    start: int
    prompt: int
    """Tokens."""
    completions: tuple[int, ...]
    """Tokens of each that are read."""


def joined(groups: Sequence[Group], device: torch.device) -> tuple[Layout, list[Span]]:
    """All groups in one row, one behind the other, without padding."""
    row, source, spans = Row([], [], []), [], []
    for group in groups:
        alone, places = _row(group)
        start = len(row.ids)
        for whole, part in zip(row, alone, strict=True):
            whole.extend(part)
        source += [start + place for place in places]
        read = tuple(max(0, len(completion) - 1) for completion in group.completions)
        spans.append(Span(start, len(group.prompt), read))
    return _layout([row], [source], PADDING, device), spans


def separate(groups: Sequence[Group], pad_id: int, device: torch.device) -> Layout:
    """One row a completion, behind a prompt of its own. With padding on the right alone,
    causal attention needs no mask."""
    single = [
        Group(prompt, [completion]) for prompt, completions in groups for completion in completions
    ]
    return packed(single, pad_id, device)


def _layout(
    rows: Sequence[Row], source: Sequence[list[int]], pad_id: int, device: torch.device
) -> Layout:
    length = max(len(row.ids) for row in rows)

    def pad(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (length - len(values))

    ids, positions, segments = torch.tensor(
        [
            [pad(row.ids, pad_id) for row in rows],
            [pad(row.positions, 0) for row in rows],
            [pad(row.segments, PADDING) for row in rows],
        ],
        device=device,
    )
    flat = [i * length + place for i, places in enumerate(source) for place in places]
    source_at = torch.tensor(flat, dtype=torch.long, device=device)
    return Layout(ids, positions, segments, source_at)


class Cached(NamedTuple):
    """Prompts padded on the left and read once, completions padded on the right."""

    prompt_ids: Int[Tensor, "groups before"]
    prompt_mask: Bool[Tensor, "groups before"]
    ids: Int[Tensor, "batch after"]
    mask: Bool[Tensor, "batch after"]
    group: Int[Tensor, " batch"]
    """Which prompt each completion continues."""
    source: Int[Tensor, " tokens"]
    """For every completion token in order, where its state stands: first the last state of
    each completion's prompt, then the states of `mask`."""


def cached(groups: Sequence[Group], pad_id: int, device: torch.device) -> Cached:
    """Left padding keeps prompt and completion adjacent in the cache, so that distances
    between them, which sliding windows go by, stay what they are."""
    before = max(len(group.prompt) for group in groups)
    prompts = [[pad_id] * (before - len(group.prompt)) + list(group.prompt) for group in groups]
    prompt_mask = [
        [False] * (before - len(group.prompt)) + [True] * len(group.prompt) for group in groups
    ]
    completions = [completion for group in groups for completion in group.completions]
    read = [list(completion[:-1]) for completion in completions]
    after = max(map(len, read))
    source: list[int] = []
    beyond = len(completions)
    for i, completion in enumerate(completions):
        if len(completion):
            source += [i, *range(beyond, beyond + len(completion) - 1)]
            beyond += len(completion) - 1
    return Cached(
        torch.tensor(prompts, device=device),
        torch.tensor(prompt_mask, device=device),
        torch.tensor(
            [row + [pad_id] * (after - len(row)) for row in read], dtype=torch.long, device=device
        ),
        torch.tensor(
            [[True] * len(row) + [False] * (after - len(row)) for row in read],
            dtype=torch.bool,
            device=device,
        ),
        torch.tensor([i for i, group in enumerate(groups) for _ in group.completions]).to(device),
        torch.tensor(source, dtype=torch.long, device=device),
    )


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
