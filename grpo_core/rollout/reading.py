"""How the model reads while completions are drawn: next-token logits for a batch of rows.

`Packed` keeps a prompt's cache once for its whole group; `Cached` copies it to every
completion; `Plain` reads whole rows again at every step, which is slow and right for
any causal model. `reader` finds out which is exact for the model at hand. Choosing
tokens is `sampler`'s part.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grpo_core.policy import REFUSALS

Logits = Float[Tensor, "batch vocabulary"]
ROOM = 4
"""Steps that a full cache buffer grows by at least. Little, since a head's keys should follow
close upon another's: with gaps of more than a few cache lines between them, reading short rows
takes a CPU two to three times as long, which is more than copying them now and then."""
WIDEST = 16
"""Completions of a prompt that are packed into one row: each is compared with the tokens
of all, so that a large group would compute more than it saves in reading."""


class Reader(Protocol):
    """Rows of tokens that grow by one token a step."""

    def start(self, prompts: Sequence[Sequence[int]], copies: int) -> Logits:
        """Read the prompts, each once for `copies` rows that stand together. Logits of the
        first tokens to come, in float32."""

    def step(self, tokens: Int[Tensor, " batch"]) -> Logits:
        """Append a token to each row; logits of the next."""

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows only."""


class Cached:
    """Reads each token once, through transformers' cache."""

    def __init__(self, model: Any, pad_id: int, steps: int = 0) -> None:
        self.model, self.pad_id, self.steps = model, pad_id, steps

    def start(self, prompts: Sequence[Sequence[int]], copies: int) -> Logits:
        device = self.model.device
        self.read = length = max(map(len, prompts))
        rows = [[self.pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        # Without padding there is no mask, which lets attention take its fast path
        self.padding: Tensor | None = None
        if len(set(map(len, prompts))) > 1:
            self.padding = torch.tensor([length - len(prompt) for prompt in prompts], device=device)
        columns = length + self.steps if device.type == "cpu" else 0
        self.cache = _growing_cache(self.model.config, columns)
        logits = self._forward(torch.tensor(rows, device=device))
        copied = torch.arange(len(prompts), device=device).repeat_interleave(copies)
        self.keep(copied)
        return logits[copied]

    def step(self, tokens: Int[Tensor, " batch"]) -> Logits:
        self.read += 1
        return self._forward(tokens.unsqueeze(-1))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        # All kinds of layers can reorder their rows (recurrent states too, which
        # `batch_repeat_interleave` leaves out); an index may come twice, or not at all.
        self.cache.reorder_cache(cast(torch.LongTensor, rows))
        if self.padding is not None:
            self.padding = self.padding[rows]

    def _forward(self, ids: Int[Tensor, "batch new"]) -> Logits:
        """Read the last tokens of rows of `self.read` tokens, padding counted."""
        columns = torch.arange(self.read, device=ids.device)
        places = columns[-ids.shape[1] :].unsqueeze(0)
        mask = None
        if self.padding is not None:
            padding = self.padding.unsqueeze(-1)
            mask = (columns >= padding).long()
            places = (places - padding).clamp(min=0)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.float()


class Packed:
    """Reads each token once and keeps each prompt once: a row is a prompt with all of its
    completions, whose tokens see the prompt and their own completion only.

    The cache of a long prompt is then held, and read at every step, once instead of once for
    each completion: less memory, and somewhat faster.
    """

    def __init__(self, model: Any, pad_id: int, steps: int = 0) -> None:
        self.model, self.pad_id, self.steps = model, pad_id, steps

    def start(self, prompts: Sequence[Sequence[int]], copies: int) -> Logits:
        single = Cached(self.model, self.pad_id, self.steps * copies)
        logits = single.start(prompts, 1)
        self.cache, device = single.cache, logits.device
        windows = getattr(self.model.config, "attention_types", None)  # GPT-Neo's, by column
        if windows or any(type(layer) is not _Growing for layer in self.cache.layers):
            raise ValueError("of some layer's cache rows cannot be put together")
        # Whose a column of the cache is: a completion's, by its number, or SHARED, the prompt's
        self.owner = torch.full((len(prompts), single.read), SHARED, device=device)
        lengths = torch.full((len(prompts),), single.read, device=device)
        if single.padding is not None:
            columns = torch.arange(single.read, device=device)
            self.owner[columns < single.padding.unsqueeze(-1)] = NOBODY
            lengths -= single.padding
        # Each row of the batch by its number, its prompt, its slot there, and its length
        self.number = torch.arange(len(prompts) * copies, device=device)
        self.prompt, self.slot = self.number // copies, self.number % copies
        self.width = copies
        self.length = lengths[self.prompt]
        return logits[self.prompt]

    def step(self, tokens: Int[Tensor, " batch"]) -> Logits:
        place = (self.prompt, self.slot)
        new = torch.full((len(self.owner), self.width), NOBODY, device=tokens.device)
        ids, positions = torch.full_like(new, self.pad_id), torch.zeros_like(new)
        new[place], ids[place], positions[place] = self.number, tokens, self.length
        self.owner = torch.cat([self.owner, new], 1)
        owner = self.owner.unsqueeze(1)
        seen = (owner == SHARED) | (owner == new.unsqueeze(2))
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=tokens.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask.unsqueeze(1),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.length = self.length + 1
        return logits[place].float()

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        before = (len(self.owner), self.width)
        self.number, self.length = self.number[rows], self.length[rows]
        prompts, self.prompt = torch.unique(self.prompt[rows], return_inverse=True)
        # The rows of a prompt are neighbours
        self.slot = torch.arange(len(rows), device=rows.device)
        self.slot -= torch.searchsorted(self.prompt, self.prompt)
        self.width = int(self.slot.max()) + 1
        if (len(prompts), self.width) == before:
            return
        # Columns of nobody leave; what is left of each row moves together
        self.owner = self.owner[prompts]
        used = (self.owner == SHARED) | torch.isin(self.owner, self.number)
        columns = used.long().argsort(dim=1, descending=True, stable=True)
        columns = columns[:, : int(used.sum(1).max())]
        self.owner = self.owner.gather(1, columns)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                held = getattr(layer, name)
                index = columns[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
                setattr(layer, name, held[prompts].gather(2, index))


SHARED, NOBODY = -1, -2


class Plain:
    """Reads whole rows at every step, rows of one length together."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, prompts: Sequence[Sequence[int]], copies: int) -> Logits:
        device = self.model.device
        self.rows = [torch.tensor(p, device=device) for p in prompts for _ in range(copies)]
        return self._forward()

    def step(self, tokens: Int[Tensor, " batch"]) -> Logits:
        grown = zip(self.rows, torch.split(tokens, 1), strict=True)
        self.rows = [torch.cat(pair) for pair in grown]
        return self._forward()

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]

    def _forward(self) -> Logits:
        parts: dict[int, Tensor] = {}
        for length in {len(row) for row in self.rows}:
            same = [n for n, row in enumerate(self.rows) if len(row) == length]
            ids = torch.stack([self.rows[n] for n in same])
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            parts |= dict(zip(same, logits.float(), strict=True))
        return torch.stack([parts[n] for n in range(len(self.rows))])


_inexact: WeakKeyDictionary[Any, dict[type[Reader], str | None]] = WeakKeyDictionary()


def reader(
    model: Any, pad_id: int, prompts: Sequence[Sequence[int]], copies: int = 1, steps: int = 0
) -> Reader:
    """The fastest that is exact for this model, to read `steps` tokens behind `copies` of each
    prompt: `Packed` where the prompts are the longer part, `Cached`, or else `Plain`, with a
    warning.

    Tried once a model, at its first prompts: a few tokens behind the longest and
    behind half of it are read with padding, shared prompts and dropped rows, and
    compared with plain passes. Some recurrent models (Mamba, RWKV, RecurrentGemma,
    MiniMax) keep a state of their own, and would silently read each token alone.
    """
    tried = _inexact.setdefault(model, {})
    pays = packing_pays(copies, min(map(len, prompts)), steps)
    kinds: list[type[Packed] | type[Cached]] = [Packed, Cached] if pays else [Cached]
    for kind in kinds:
        if kind not in tried:
            tried[kind] = inexact = _difference(kind(model, pad_id), model, prompts)
            if inexact is not None and kind is Cached:
                warnings.warn(
                    f"{type(model).__name__} is read anew at every token of a completion, which is "
                    f"slow: reading with a cache does not give what it says ({inexact})",
                    stacklevel=3,
                )
        if tried[kind] is None:
            return kind(model, pad_id, steps)
    return Plain(model)


def packing_pays(copies: int, prompt: int, steps: int) -> bool:
    """Whether one row for `copies` completions of up to `steps` tokens, behind a prompt of
    `prompt` tokens, is less to read than a row for each."""
    return 1 < copies <= WIDEST and prompt >= steps


@torch.no_grad()
def _difference(tried: Reader, model: Any, prompts: Sequence[Sequence[int]]) -> str | None:
    """In what a reader differs from plain reading; none if it is exact.

    What counts as exact is relative to the model's precision: a mean difference
    of 3e-4 nats in float32, 0.09 in bfloat16.
    """
    long = max((list(prompt) for prompt in prompts), key=len)
    while len(long) < 4:
        long = long + long
    pair = [long, long[len(long) // 2 :]]
    plain = Plain(model)
    compared = []
    try:
        compared.append((tried.start(pair, 2), plain.start(pair, 2)))
        tokens = torch.tensor(long[:4], device=model.device)
        kept = torch.tensor([1, 2], device=model.device)
        compared.append((tried.step(tokens), plain.step(tokens)))
        tried.keep(kept)
        plain.keep(kept)
        for _ in range(2):
            compared.append((tried.step(tokens[kept]), plain.step(tokens[kept])))
    except torch.OutOfMemoryError:
        raise  # not the model's doing
    except REFUSALS as error:
        return f"{type(error).__name__}: {error}"
    worst = max(
        (one.log_softmax(-1) - other.log_softmax(-1)).abs().mean().nan_to_num(torch.inf).item()
        for one, other in compared
    )
    exact = worst <= torch.finfo(model.dtype).eps ** 0.5
    return None if exact else f"log-probabilities are off by {worst:.2g}"


# --- a cache that is not copied at every token -------------------------------------


class _Buffer:
    """Tensors joined along their second-last dimension, with room for more.

    torch.cat copies all that was read at every token, which on a CPU takes longer
    than the model's own arithmetic.
    """

    def __init__(self, columns: int) -> None:
        self.tensor = torch.empty(0)
        self.end = 0
        self.columns = columns

    def append(self, kept: Tensor | None, new: Tensor) -> Tensor:
        """`kept` and `new` joined. `kept` is the end of what was returned before, or,
        when rows were picked, any other tensor."""
        n = new.shape[-2]
        if kept is None or not kept.numel():
            kept = new[..., :0, :]
        own = kept.untyped_storage().data_ptr() == self.tensor.untyped_storage().data_ptr()
        before = kept.shape[-2]
        if not own or self.end + n > self.tensor.shape[-2]:
            # none behind a prompt: what follows it is far less than another prompt
            room = n * max(ROOM, before // 16) if before else 0
            shape = (*new.shape[:-2], before + n + room, new.shape[-1])
            size = math.prod(shape)
            # at once for all columns to come: buffers that grow in turns leave holes behind,
            # and what was never touched takes no memory
            whole = size // shape[-2] * self.columns if before else 0
            self.tensor = new.new_empty(max(size, whole))[:size].view(shape)
            self.tensor[..., :before, :] = kept
            self.end = before
        self.tensor[..., self.end : self.end + n, :] = new
        self.end += n
        return self.tensor[..., self.end - n - before : self.end, :]


class _Growing(DynamicLayer):  # type: ignore[no-untyped-call]
    """Full attention."""

    columns = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = _Buffer(self.columns), _Buffer(self.columns)
        self.keys = self.buffers[0].append(self.keys, key_states)
        self.values = self.buffers[1].append(self.values, value_states)
        return self.keys, self.values


class _GrowingWindow(_Growing, DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """Sliding-window attention: of what was read, the window's last tokens are kept."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        self.keys, self.values = (x[..., 1 - self.sliding_window :, :] for x in (keys, values))
        return keys, values


def _growing_cache(config: Any, columns: int = 0) -> DynamicCache:
    """The model's own cache, with memory for `columns` tokens a row; layers of other kinds than
    plain attention stay as they are."""
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        growing: _Growing
        if type(layer) is DynamicLayer:
            growing = _Growing()  # type: ignore[no-untyped-call]
        elif type(layer) is DynamicSlidingWindowLayer:
            growing = _GrowingWindow(layer.sliding_window)
        else:
            continue
        growing.columns = columns
        cache.layers[number] = growing
    return cache
