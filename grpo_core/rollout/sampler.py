"""The built-in sampler: plain transformers models, a prompt's prefill shared by its group.

Each prompt is read once and its cache copied to the group; rows that have ended
leave the batch. Left out: servers and paged attention (other backends).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from grpo_core.policy import Policy, positions


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `greedy` takes the likeliest token and ignores the rest."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    batch_size: int = 256


@dataclass
class Completion:
    """One drawn completion.

    `ids` ends with the end-of-sequence token unless `truncated`; `logps` are the
    log-probabilities of its tokens under the model at the sampling temperature
    (before top-k and top-p); `entropies` those of the distributions, in nats.
    """

    ids: list[int]
    logps: list[float]
    entropies: list[float]
    truncated: bool


OnFinished = Callable[[int, Completion], None]


@torch.no_grad()
def draw(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
    on_finished: OnFinished = lambda n, completion: None,
) -> list[Completion]:
    """`group_size` completions for each prompt of token ids, groups standing together.

    `on_finished(n, completion)` is called once for each as soon as it is whole, so
    that it can be judged while others are drawn. The same generator state, model
    and machine give the same completions.
    """
    training = policy.model.training
    policy.model.eval()
    try:
        drawn: list[Completion] = []
        size = max(1, sampling.batch_size // group_size)
        for first in range(0, len(prompts), size):
            before = len(drawn)
            drawn += _draw_batch(
                policy,
                prompts[first : first + size],
                group_size,
                sampling,
                generator,
                functools.partial(_shifted, on_finished, before),
            )
    finally:
        policy.model.train(training)
    return drawn


def _shifted(on_finished: OnFinished, before: int, n: int, completion: Completion) -> None:
    on_finished(before + n, completion)


def _draw_batch(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
    on_finished: OnFinished,
) -> list[Completion]:
    model, device = policy.model, policy.model.device
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), policy.pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)

    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids, mask, positions(mask), cache)
    cache.batch_repeat_interleave(group_size)
    logits = logits.repeat_interleave(group_size, 0)
    mask = mask.repeat_interleave(group_size, 0)
    place = mask.sum(-1, keepdim=True)

    drawn = [Completion([], [], [], True) for _ in range(len(prompts) * group_size)]
    rows = torch.arange(len(drawn), device=device)  # which completion each row of the batch is
    open_ = torch.ones(len(drawn), dtype=torch.bool, device=device)
    eos = torch.tensor(policy.eos_ids, device=device)
    for t in range(sampling.max_tokens):
        tokens, logps, entropies = _choose(logits, sampling, generator)
        for row, still, token, logp, entropy in zip(
            rows.tolist(),
            open_.tolist(),
            tokens.tolist(),
            logps.tolist(),
            entropies.tolist(),
            strict=True,
        ):
            if still:
                drawn[row].ids.append(token)
                drawn[row].logps.append(logp)
                drawn[row].entropies.append(entropy)
        ended = torch.isin(tokens, eos) & open_
        for row in rows[ended].tolist():
            drawn[row].truncated = False
            on_finished(row, drawn[row])
        open_ &= ~ended
        left = int(open_.sum())
        if left == 0 or t + 1 == sampling.max_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if left <= 0.75 * len(open_):  # copying the cache pays once a quarter has ended
            keep = open_.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            rows, tokens, mask, place = rows[keep], tokens[keep], mask[keep], place[keep]
            open_ = open_[keep]
        logits = _forward(model, tokens.unsqueeze(-1), mask, place, cache)
        place = place + 1
    for row in rows[open_].tolist():
        on_finished(row, drawn[row])
    return drawn


def _forward(
    model: Any,
    ids: Int[Tensor, "batch length"],
    mask: Int[Tensor, "batch total"],
    place: Int[Tensor, "batch length"],
    cache: Any,
) -> Float[Tensor, "batch vocabulary"]:
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=place,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits.float()


def _choose(
    logits: Float[Tensor, "batch vocabulary"], sampling: Sampling, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Draw a token a row; its log-probability and the distribution's entropy."""
    logps = (logits / sampling.temperature).log_softmax(-1)
    probabilities = logps.exp()
    entropies = -(probabilities * logps).nan_to_num(0.0).sum(-1)
    if sampling.greedy:
        tokens = logits.argmax(-1)
    else:
        if sampling.top_k or sampling.top_p < 1:
            probabilities = _truncate(probabilities, sampling)
        # Inverse CDF: one uniform number a row, much faster than multinomial
        # over a large vocabulary. "right" skips tokens of probability 0.
        cumulative = probabilities.cumsum(-1)
        uniform = torch.rand(
            len(logits), 1, generator=generator, device=logits.device, dtype=cumulative.dtype
        )
        tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        tokens = tokens.squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens, logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropies


def _truncate(
    probabilities: Float[Tensor, "batch vocabulary"], sampling: Sampling
) -> Float[Tensor, "batch vocabulary"]:
    """Keep the top k tokens and the fewest whose probability reaches top p."""
    ordered, indices = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    drop = before >= sampling.top_p
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    drop[:, 0] = False
    return probabilities.masked_fill(drop.scatter(-1, indices, drop), 0.0)
