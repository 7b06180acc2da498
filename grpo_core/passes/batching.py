"""Cutting a step's completions into passes: within a budget, similar lengths together.

Numbers in, indices out; no tensors and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from grpo_core.passes.pack import Form

SHORT = 128
"""Tokens of a row up to which a mask hides too little to make blocks worth their calls."""
FEW = 80
"""Tokens of prompt and completion up to which both may stand in a row of their own."""

Pass = list[tuple[int, list[int]]]
"""(group, its completions that go together), one entry a `Group` of the pass."""


def default_budget(device: str, prompt: int = 0) -> int:
    """Padded tokens a pass on a type of device, where nobody says another number: on a CPU more
    at a time is little faster, where groups need not be split, and takes more memory.

    Behind a prompt of `prompt` tokens, the longest, half of the usual number is left for
    completions at least: each pass of a group that is split reads the prompt anew.
    """
    tokens = 832 if device == "cpu" else 16384
    return max(tokens, prompt + tokens // 2)


def padded_tokens(
    chosen: Pass,
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[Sequence[int]],
    form: Form,
) -> int:
    """Tokens a pass costs, padding included (at most: last tokens are not read)."""
    entries = [
        (prompt_lengths[group], [completion_lengths[group][i] for i in indices])
        for group, indices in chosen
    ]
    if form == "mask":
        return len(entries) * max(prompt + sum(lengths) for prompt, lengths in entries)
    if form == "blocks":
        return sum(prompt + sum(lengths) for prompt, lengths in entries)
    count = sum(len(lengths) for _, lengths in entries)
    if form == "plain":
        return count * max(prompt + max(lengths) for prompt, lengths in entries)
    prompts = len(entries) * max(prompt for prompt, _ in entries)
    return prompts + count * max(max(lengths) for _, lengths in entries)


def even(prompt: int, completions: Sequence[int]) -> bool:
    """Whether completions are short and alike enough to attend in rows of their own, each behind
    a copy of their prompt and padded to the longest."""
    row = prompt + max(completions, default=0)
    return row <= FEW and len(completions) * row <= 1.5 * (prompt + sum(completions))


def micro_batches(
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[Sequence[int]],
    budget: int,
    form: Form,
    *,
    hidden_size: int = 1024,
    sort: bool = True,
) -> list[Pass]:
    """Which completions of which groups go into one pass.

    At most `budget` padded tokens a pass; one completion longer than that stands alone.
    With `sort` similar lengths go together, else the order is kept. Under a mask a group is
    split over rows where that is cheaper: a row of n tokens costs 6·hidden_size·n + n² (the linear
    layers and the attention of a transformer block, over 4·hidden_size).
    """

    def tokens(chosen: Pass) -> int:
        return padded_tokens(chosen, prompt_lengths, completion_lengths, form)

    entries: Pass = []
    for group, lengths in enumerate(completion_lengths):
        order = list(range(len(lengths)))
        if not order:
            continue
        if sort:
            order.sort(key=lambda i: -lengths[i])
        if form == "plain":
            entries += [(group, [i]) for i in order]
            continue
        rows = 1
        if form in ("blocks", "mask"):
            # the cost of S completion tokens on k rows, each with its prompt P, is least at
            # k = S / sqrt(P (P + 6 hidden_size))
            prompt = prompt_lengths[group]
            best = sum(lengths) / math.sqrt(max(1, prompt * (prompt + 6 * hidden_size)))
            rows = min(len(order), max(1, round(best)))
            long = prompt + math.ceil(sum(lengths) / rows) > SHORT
            if form == "blocks" and (long or even(prompt, lengths)):
                rows = 1  # what is hidden costs nothing
        parts = _split(order, lengths, rows, even=form in ("blocks", "mask"))
        while rows < len(order) and max(tokens([(group, part)]) for part in parts) > budget:
            rows += 1
            parts = _split(order, lengths, rows, even=form in ("blocks", "mask"))
        entries += [(group, part) for part in parts]
    if sort:
        entries.sort(key=lambda entry: -tokens([entry]))

    passes: list[Pass] = []
    for entry in entries:
        if passes and tokens([*passes[-1], entry]) <= budget:
            passes[-1].append(entry)
        else:
            passes.append([entry])
    return [_merged(chosen) for chosen in passes] if form == "plain" else passes


def _split(order: list[int], lengths: Sequence[int], rows: int, even: bool) -> list[list[int]]:
    """Indices in `rows` parts: of even sums, or neighbours (of similar lengths) together."""
    if not even:
        size = math.ceil(len(order) / rows)
        return [order[i : i + size] for i in range(0, len(order), size)]
    parts: list[list[int]] = [[] for _ in range(rows)]
    sums = [0] * rows
    for i in order:
        least = sums.index(min(sums))
        parts[least].append(i)
        sums[least] += lengths[i] + 1
    return [part for part in parts if part]


def _merged(chosen: Pass) -> Pass:
    """One entry a group."""
    groups: dict[int, list[int]] = {}
    for group, indices in chosen:
        groups.setdefault(group, []).extend(indices)
    return list(groups.items())
