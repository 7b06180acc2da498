"""A model's pass over groups in one of four forms that give the same numbers.

`blocks`: a group's completions behind one copy of the prompt, all groups in one row, with
attention of our own that computes only what is seen (`blocks.py`; on a CPU).
`mask`: a group's completions packed behind one copy of the prompt under a block mask.
`key_value`: the prompt read once, its cache, with gradient, expanded to the group.
`plain`: every completion behind its own prompt. Which form holds for a model is `check`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from grpo_core.passes import blocks, head, pack
from grpo_core.passes.batching import SHORT, even
from grpo_core.passes.blocks import Unsupported
from grpo_core.passes.pack import Form, Group


class TokenLogps(NamedTuple):
    """One row a completion, groups in order, padded on the right with zeros."""

    logp: Float[Tensor, "batch time"]
    """Nats, under the distribution that is sampled from: logits divided by temperature."""
    mask: Bool[Tensor, "batch time"]
    """True at completion tokens."""
    entropy: Float[Tensor, "batch time"] | None


class Passes(nn.Module):
    """A model and how its passes are made.

    A module, so that DDP, FSDP2 or DeepSpeed can wrap it: all it touches goes through the
    model's modules. With `fused_head` the head sees only the states that predict completion
    tokens; without, the model's own forward makes the logits, at those positions.
    """

    def __init__(
        self,
        model: Any,
        *,
        pad_id: int,
        form: Form = "mask",
        fused_head: bool = True,
        temperature: float = 1.0,
        short: int = SHORT,
    ) -> None:
        """With the form `blocks` a pass whose rows have at most `short` tokens goes under a mask;
        with 0 all goes by blocks."""
        super().__init__()
        self.model = model
        self.pad_id, self.form, self.fused_head = pad_id, form, fused_head
        self.temperature, self.short = temperature, short

    def forward(self, groups: Sequence[Group], entropy: bool = False) -> TokenLogps:
        """Log-probabilities of the groups' completion tokens; `entropy` of the distributions
        they are drawn from only when asked for. Raises Unsupported when the form is
        impossible for the model, as a cache is under gradient checkpointing."""
        device = self.model.get_input_embeddings().weight.device
        completions = [completion for group in groups for completion in group.completions]
        target, mask = pack.padded(completions, self.pad_id, device)
        target = target[mask]
        states = getattr(self, f"_{self.form}")(groups, device)
        if self.fused_head:
            values = head.chunked(head.split(self.model), states, target, self.temperature, entropy)
        else:
            values = head.log_softmax(states, target, self.temperature, entropy)

        def spread(value: Tensor) -> Tensor:
            return value.new_zeros(mask.shape).masked_scatter(mask, value)

        logp, entropies = values
        return TokenLogps(spread(logp), mask, None if entropies is None else spread(entropies))

    def _blocks(self, groups: Sequence[Group], device: torch.device) -> Tensor:
        layout, spans = pack.joined(groups, device)
        how: Sequence[pack.Span] | blocks.Rows = spans
        if self.short and all(even(span.prompt, span.completions) for span in spans):
            how = blocks.rows(spans)
        elif max(span.prompt + sum(span.completions) for span in spans) <= self.short:
            return self._mask(groups, device)
        with blocks.attending(head.split(self.model).decoder.config):
            return self._run(
                layout.source,
                input_ids=layout.ids,
                position_ids=layout.positions,
                # nothing looks at it; with four dimensions it keeps the model from making one
                attention_mask=torch.zeros(1, 1, 1, 1, device=device),
                blocks=how,
                use_cache=False,
            )

    def _mask(self, groups: Sequence[Group], device: torch.device) -> Tensor:
        layout = pack.packed(groups, self.pad_id, device)
        return self._run(
            layout.source,
            input_ids=layout.ids,
            position_ids=layout.positions,
            attention_mask=self._attention(layout),
            use_cache=False,
        )

    def _plain(self, groups: Sequence[Group], device: torch.device) -> Tensor:
        layout = pack.separate(groups, self.pad_id, device)
        return self._run(layout.source, input_ids=layout.ids, use_cache=False)

    def _key_value(self, groups: Sequence[Group], device: torch.device) -> Tensor:
        # Padding on the left keeps prompt and completion adjacent in the cache, so that
        # distances between them, which sliding windows go by, stay what they are
        prompts, seen = pack.padded([g.prompt for g in groups], self.pad_id, device, "left")
        completions = [completion for group in groups for completion in group.completions]
        ids, read = pack.padded([c[:-1] for c in completions], self.pad_id, device)
        written = torch.tensor([[len(c) > 0] for c in completions], device=device)
        group = torch.tensor([i for i, g in enumerate(groups) for _ in g.completions]).to(device)
        cache = DynamicCache()  # without a config: no layer forgets
        count, before = prompts.shape
        first = self._run(
            torch.arange(1, count + 1, device=device) * before - 1,
            input_ids=prompts,
            attention_mask=seen,
            position_ids=(seen.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        states = first.index_select(0, group).unsqueeze(1)
        after = ids.shape[1]
        if after:
            if cache.get_seq_length() != before:
                raise Unsupported("the model keeps no key/value cache")
            cache.batch_select_indices(group)
            seen = seen.index_select(0, group)
            rest = self._run(
                torch.arange(ids.numel(), device=device),
                input_ids=ids,
                attention_mask=torch.cat([seen, read], 1),
                position_ids=seen.sum(1, keepdim=True) + torch.arange(after, device=device),
                past_key_values=cache,
                use_cache=True,
            )
            states = torch.cat([states, rest.view(*ids.shape, -1)], 1)
        tokens = torch.cat([written, read], 1).flatten().nonzero().squeeze(1)
        return states.flatten(0, 1).index_select(0, tokens)

    def _run(self, source: Int[Tensor, " tokens"], **inputs: Any) -> Tensor:
        """Hidden states, or logits, at places of the flattened rows."""
        parts = head.split(self.model)
        if self.fused_head:
            states = parts.decoder(**inputs).last_hidden_state
        else:
            if parts.selects:
                length = inputs["input_ids"].shape[1]
                inputs["logits_to_keep"], column = (source % length).unique(return_inverse=True)
                kept = len(inputs["logits_to_keep"])
                source = source.div(length, rounding_mode="floor") * kept + column
            states = self.model(**inputs).logits
        flat: Tensor = states.flatten(0, 1)
        return flat.index_select(0, source)

    def _attention(self, layout: pack.Layout) -> Tensor | dict[str, Tensor]:
        """The block mask as this model's layers take it: one for all, or one a layer type."""
        config = head.split(self.model).decoder.config
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        # additive and in the dtype that attention computes in: what eager attention needs, and
        # sdpa would make one of a bool mask in every layer and keep it for the backward pass
        weight = self.model.get_input_embeddings().weight
        dtype, device = weight.dtype, weight.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)

        def mask(window: int | None) -> Tensor:
            allowed = pack.block_mask(layout.segments, layout.positions, window)
            blocked = torch.zeros_like(allowed, dtype=dtype)
            return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)

        if len(kinds) > 1:
            return {"full_attention": mask(None), "sliding_attention": mask(window)}
        return mask(None if kinds == {"full_attention"} else window)
