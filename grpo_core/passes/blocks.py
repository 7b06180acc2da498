"""Attention over groups joined in one row, block by block, on a CPU: what the form `blocks` is.

A mask says of most pairs of tokens that they do not see each other, and a CPU computes them
all the same. Here only blocks that are seen are computed: a prompt with itself, a group's
completions with their prompt, each completion with itself. Where tokens look at two blocks the
results are merged by the blocks' softmax sums, exactly; the backward pass of a block with the
merged results is its share of the gradient (as in ring attention, arXiv 2310.01889). The
blocks themselves are torch's flash attention for CPUs. Short completions of about one length
attend in `Rows` of their own instead, behind copies of their prompt, in plain products: many
blocks of a few tokens take the kernel longer. Layout is `pack`'s, choosing `check`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from grpo_core.passes.pack import Span

NAME = "grpo_blocks"
"""Of the attention function, as transformers knows it."""


class Unsupported(RuntimeError):
    """The model cannot make its passes in this form."""


class Own(NamedTuple):
    """Neighbours of one length that each see themselves, causally."""

    start: int
    length: int
    times: int

    def of(self, row: Float[Tensor, "1 heads tokens *width"]) -> Tensor:
        """A view of them, in shape [times, heads, length, *width]."""
        part = row[0, :, self.start : self.start + self.length * self.times]
        return part.view(len(part), self.times, self.length, *row.shape[3:]).transpose(0, 1)


def _owners(span: Span) -> Iterator[Own]:
    """The prompt, then the completions, those of one length together."""
    yield Own(span.start, span.prompt, 1)
    first = span.start + span.prompt
    for length, run in itertools.groupby(span.completions):
        times = len(list(run))
        if length:
            yield Own(first, length, times)
        first += length * times


def _shared(span: Span) -> tuple[slice, slice] | None:
    """All completions together, and the prompt that they see; None if nothing of them is read."""
    prompt = slice(span.start, span.start + span.prompt)
    count = sum(span.completions)
    return (slice(prompt.stop, prompt.stop + count), prompt) if count else None


class Rows(NamedTuple):
    """Each completion in a row behind a copy of its prompt, all rows of one length."""

    tokens: Int[Tensor, "rows length"]
    """Where each stands among the joined groups; the first of all stands for padding too."""
    places: Int[Tensor, " tokens"]
    """Where each of the joined groups' tokens stands in the flattened rows."""


def rows(spans: Sequence[Span]) -> Rows:
    """Of groups that lie one behind the other."""
    length = max(span.prompt + max(span.completions, default=0) for span in spans)
    tokens: list[list[int]] = []
    places: list[int] = []
    for span in spans:
        first = span.start + span.prompt
        prompt = range(span.start, first)
        places += range(len(tokens) * length, len(tokens) * length + span.prompt)
        for read in span.completions or (0,):
            begin = len(tokens) * length + span.prompt
            places += range(begin, begin + read)
            row = [*prompt, *range(first, first + read)]
            tokens.append(row + [0] * (length - len(row)))
            first += read
    return Rows(torch.tensor(tokens), torch.tensor(places))


def _by_rows(query: Tensor, key: Tensor, value: Tensor, rows: Rows, scale: float) -> Tensor:
    """Right padding is seen by padding alone."""
    heads, (count, length) = query.shape[1], rows.tokens.shape
    index = rows.tokens.flatten()
    query, key, value = (
        x[0].index_select(1, index).view(heads * count, length, -1) for x in (query, key, value)
    )
    ahead = query.new_full((length, length), -torch.inf).triu(1)
    scores = torch.baddbmm(ahead, query, key.transpose(1, 2), alpha=scale)
    out = scores.softmax(-1) @ value
    return out.view(1, heads, count * length, -1).index_select(2, rows.places)


class _Attention(torch.autograd.Function):
    """Keeps for its backward pass what attention without a mask keeps, and no more."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float
    ) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        # tokens before heads, so that a block's results are made where they belong
        out = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)
        log_sum = torch.empty(
            *out.transpose(1, 2).shape[:3], dtype=torch.promote_types(query.dtype, torch.float32)
        ).transpose(1, 2)
        for span in spans:
            for own in _owners(span):
                found, found_sum = flash(*map(own.of, (query, key, value)), 0.0, True, scale=scale)
                own.of(out).copy_(found)
                own.of(log_sum).copy_(found_sum)
            if pair := _shared(span):
                rows, prompt = pair
                seen, seen_sum = flash(
                    query[:, :, rows], key[:, :, prompt], value[:, :, prompt], scale=scale
                )
                own_sum = log_sum[:, :, rows]
                share = torch.sigmoid(seen_sum - own_sum).unsqueeze(-1).to(out.dtype)
                out[:, :, rows].lerp_(seen, share)
                log_sum[:, :, rows] = torch.logaddexp(seen_sum, own_sum)
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.spans, ctx.scale = spans, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, log_sum = ctx.saved_tensors
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))

        for span in ctx.spans:
            for own in _owners(span):
                parts = map(own.of, (grad, query, key, value, out, log_sum))
                found = flash(*parts, 0.0, True, scale=ctx.scale)
                for whole, part in zip((of_query, of_key, of_value), found, strict=True):
                    own.of(whole).copy_(part)
            if pair := _shared(span):
                rows, prompt = pair
                places = (rows, rows, prompt, prompt, rows, rows)
                inputs = zip((grad, query, key, value, out, log_sum), places, strict=True)
                found = flash(*(x[:, :, at] for x, at in inputs), 0.0, False, scale=ctx.scale)
                of_query[:, :, rows] += found[0]
                of_key[:, :, prompt] += found[1]
                of_value[:, :, prompt] += found[2]
        return of_query, of_key, of_value, None, None


def attention(
    module: Any,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 key_heads tokens width"],
    value: Float[Tensor, "1 key_heads tokens width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    blocks: Sequence[Span] | Rows | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 tokens heads width"], None]:
    """As transformers calls it; `blocks` comes all the way from the decoder's call.

    Raises Unsupported where a model asks for what this leaves out: windows, caps, biases,
    sinks, dropout, or a decoder that does not hand on what it is given.
    """
    if blocks is None:
        raise Unsupported(f"{type(module).__name__} was not told of the blocks")
    asked = [name for name, what in others.items() if name in LEFT_OUT and what is not None]
    if asked or dropout:
        raise Unsupported(f"{type(module).__name__} wants {', '.join(asked) or 'dropout'}")
    if attention_mask is not None and attention_mask.numel() > 1:
        raise Unsupported(f"{type(module).__name__} makes a mask of its own")
    if torch.is_autocast_enabled("cpu"):  # as for torch's own attention
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    heads = query.shape[1] // key.shape[1]
    if heads > 1:
        key, value = (x.repeat_interleave(heads, 1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    apply: Callable[..., Tensor] = _by_rows if isinstance(blocks, Rows) else _Attention.apply
    return apply(query, key, value, blocks, scale).transpose(1, 2), None


LEFT_OUT = ("sliding_window", "softcap", "position_bias", "s_aux")
"""Arguments of attention functions that change the result."""

AttentionInterface.register(NAME, attention)


@contextmanager
def attending(config: Any) -> Iterator[None]:
    """A model of this config attends by blocks. Not beyond the forward pass: what recomputes
    it in the backward pass would find another attention."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
