"""The built-in sampler: plain transformers models, a prompt's prefill shared by its group.

Each prompt is read once and its cache copied to the group; rows that have ended
leave the batch. How the model reads is `reading`'s part. Left out: servers and
paged attention (other backends).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grpo_core.onednn import packed_weights
from grpo_core.policy import Policy
from grpo_core.rollout.reading import Reader, reader


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `greedy` takes the likeliest token and ignores the rest.

    In this order: logits are divided by `temperature`; the `top_k` likeliest tokens
    stay (0: all); of these the fewest that hold the share `top_p` of their
    probability (arXiv 1904.09751); of these the ones at least `min_p` times as
    likely as the likeliest (arXiv 2407.01082).
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    greedy: bool = False
    batch_size: int = 256
    shared_prefill: bool = True
    """Read a prompt once for its group."""
    drop_finished: bool = True
    """Completions that have ended leave the batch."""
    packed_weights: bool = True
    """On a CPU, multiply by copies of the weights that are laid out for few rows."""


@dataclass
class Completion:
    """One drawn completion.

    `ids` ends with the end-of-sequence token unless `truncated`; `logps` are the
    log-probabilities of its tokens under the model at the sampling temperature
    (before top-k, top-p and min-p); `entropies` those of the distributions, in nats.
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

    A model that cannot be read with a cache is found out by a check at its first
    prompts, and read in a slower way, with a warning (`reading.reader`).
    """
    drawn: dict[int, Completion] = {}
    copies = group_size
    if not sampling.shared_prefill:  # each prompt is read anew for every completion
        prompts, copies = [prompt for prompt in prompts for _ in range(group_size)], 1
    training = policy.model.training
    policy.model.eval()
    packed = packed_weights(policy.model) if sampling.packed_weights else contextlib.nullcontext()
    try:
        with packed:
            size = max(1, sampling.batch_size // group_size) * group_size // copies
            for first in range(0, len(prompts), size):
                part = prompts[first : first + size]
                rows = reader(policy.model, policy.pad_id, part, copies, sampling.max_tokens)
                logits = rows.start(part, copies)
                whole = _draw_batch(rows, logits, policy.eos_ids, sampling, generator)
                for n, completion in whole:
                    drawn[first * copies + n] = completion
                    on_finished(first * copies + n, completion)
    finally:
        policy.model.train(training)
    return [drawn[n] for n in range(len(drawn))]


def _draw_batch(
    batch: Reader,
    logits: Float[Tensor, "batch vocabulary"],
    eos_ids: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[tuple[int, Completion]]:
    """Draw until every row has ended, starting from the logits of the first tokens; gives each
    as soon as it is whole."""
    device, n = logits.device, len(logits)
    ids = torch.zeros(sampling.max_tokens, n, dtype=torch.long, device=device)
    logps = torch.zeros(sampling.max_tokens, n, device=device)
    entropies = torch.zeros_like(logps)
    rows = torch.arange(n, device=device)  # which completion each row of the batch is
    open_ = torch.ones(n, dtype=torch.bool, device=device)
    eos = torch.tensor(eos_ids, device=device)

    def whole(
        ended: Int[Tensor, " rows"], length: int, truncated: bool
    ) -> Iterator[tuple[int, Completion]]:
        columns = (each[:length, ended].T.tolist() for each in (ids, logps, entropies))
        for row, tokens, logp, entropy in zip(ended.tolist(), *columns, strict=True):
            yield row, Completion(tokens, logp, entropy, truncated)

    for t in range(sampling.max_tokens):
        tokens, logps[t, rows], entropies[t, rows] = choose(logits, sampling, generator)
        ids[t, rows] = tokens
        ended = torch.isin(tokens, eos) & open_
        if ended.any():
            open_ &= ~ended
            yield from whole(rows[ended], t + 1, truncated=False)
            left = int(open_.sum())
            if left == 0:
                return
            # Copying the cache pays once a quarter has ended
            if sampling.drop_finished and left <= 0.75 * len(open_):
                keep = open_.nonzero().squeeze(-1)
                batch.keep(keep)
                rows, tokens, open_ = rows[keep], tokens[keep], open_[keep]
        if t + 1 < sampling.max_tokens:
            logits = batch.step(tokens)
    yield from whole(rows[open_], sampling.max_tokens, truncated=True)


def choose(
    logits: Float[Tensor, "batch vocabulary"], sampling: Sampling, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Draw a token a row; its log-probability and the distribution's entropy."""
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    logps = logits.log_softmax(-1)
    probabilities = logps.exp()
    # A token that is ruled out has probability 0 and logit -inf, whose product is no number
    entropies = -torch.linalg.vecdot(probabilities, logps.clamp(min=torch.finfo(logps.dtype).min))
    if sampling.greedy:
        tokens = logits.argmax(-1, keepdim=True)
    elif sampling.top_k or sampling.top_p < 1:
        likeliest, indices = _likeliest(probabilities, sampling)
        tokens = indices.gather(-1, _draw_index(likeliest, sampling.min_p, generator))
    else:
        tokens = _draw_index(probabilities, sampling.min_p, generator)
    return tokens.squeeze(-1), logps.gather(-1, tokens).squeeze(-1), entropies


def _draw_index(
    weights: Float[Tensor, "batch columns"], min_p: float, generator: torch.Generator
) -> Int[Tensor, "batch 1"]:
    """A column a row, with probabilities in proportion to the weights, but never one
    of less than `min_p` times the largest.

    By the inverse of the cumulative distribution: one uniform number a row, much
    faster than multinomial over a large vocabulary.
    """
    if min_p:
        weights = weights.masked_fill(weights < min_p * weights.amax(-1, keepdim=True), 0.0)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    uniform = torch.rand(
        len(weights), 1, generator=generator, device=weights.device, dtype=weights.dtype
    )
    # Below the total even when the product rounds up to it; "right" skips columns of weight 0
    point = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).clamp(max=weights.shape[-1] - 1)


FEW = 1024


def _likeliest(
    probabilities: Float[Tensor, "batch vocabulary"], sampling: Sampling
) -> tuple[Float[Tensor, "batch few"], Int[Tensor, "batch few"]]:
    """Probabilities from the largest down and their columns: the `top_k` largest, set to 0
    behind the first that together reach the share `top_p`."""
    vocabulary = probabilities.shape[-1]
    if sampling.top_k:
        ordered, indices = probabilities.topk(min(sampling.top_k, vocabulary))
        total: Tensor | float = ordered.sum(-1, keepdim=True)
    else:
        # A large vocabulary takes long to sort, and the first few mostly reach top p
        ordered, indices = probabilities.topk(min(FEW, vocabulary))
        if ordered.sum(-1).min() < sampling.top_p:
            ordered, indices = probabilities.sort(-1, descending=True)
        total = 1.0
    before = ordered.cumsum(-1) - ordered
    beyond = before >= sampling.top_p * total
    beyond[:, 0] = False
    return ordered.masked_fill(beyond, 0.0), indices
