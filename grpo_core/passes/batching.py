"""Cutting a step's completions into passes: within a budget, similar lengths together.

Numbers in, indices out; no tensors and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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

    packs = form in ("blocks", "mask")
    entries: Pass = []
    for group, lengths in enumerate(completion_lengths):
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i] if sort else i)
        if not order:
            continue
        fewest = len(order) if form == "plain" else 1
        if packs:
            # the cost of S completion tokens on k rows, each with its prompt P, is least at
            # k = S / sqrt(P (P + 6 hidden_size))
            prompt = prompt_lengths[group]
            best = sum(lengths) / math.sqrt(max(1, prompt * (prompt + 6 * hidden_size)))
            fewest = min(len(order), max(1, round(best)))
            long = prompt + math.ceil(sum(lengths) / fewest) > SHORT
            if form == "blocks" and (long or even(prompt, lengths)):
                fewest = 1  # what is hidden costs nothing
        for rows in range(fewest, len(order) + 1):
            if packs:
                parts = [part for part in deal({i: lengths[i] + 1 for i in order}, rows) if part]
            else:  # neighbours, of similar lengths, together
                size = math.ceil(len(order) / rows)
                parts = [order[i : i + size] for i in range(0, len(order), size)]
            if max(tokens([(group, part)]) for part in parts) <= budget:
                break
        entries += [(group, part) for part in parts]
    if sort:
        entries.sort(key=lambda entry: -tokens([entry]))

    passes: list[Pass] = []
    for entry in entries:
        if passes and tokens([*passes[-1], entry]) <= budget:
            passes[-1].append(entry)
        else:
            passes.append([entry])
    return passes


def deal(sizes: Mapping[int, int], hands: int) -> list[list[int]]:
    """Keys in as many shares of about even sums, each in the given order."""
    shares: list[set[int]] = [set() for _ in range(hands)]
    sums = [0] * hands
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        least = sums.index(min(sums))
        shares[least].add(key)
        sums[least] += sizes[key]
    return [[key for key in sizes if key in share] for share in shares]
