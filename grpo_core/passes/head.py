"""From hidden states to log-probabilities: the model's head in chunks, softmax fused.

Never a float32 tensor of batch × length × vocabulary: only states that predict a completion
token go through the head, and when their logits are many they are made in chunks and made
again in the backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

KEEP = 2**24
"""Logits kept for the backward pass; with more they are recomputed, CHUNK at a time."""
CHUNK = 2**23


class Head(NamedTuple):
    """A causal language model in two: its decoder, and what makes logits of its states."""

    decoder: Any
    linear: Any
    scale: float
    """What the model multiplies its logits by, before capping them."""
    softcap: float | None
    vocabulary: int
    selects: bool
    """Whether the model's own forward can be asked for logits at some places only."""

    def logits(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocabulary"]:
        logits: Tensor = self.linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def split(model: Any) -> Head:
    """Decoder and head of a transformers model, under peft's wrapper if there is one.

    What a model does to its logits is in its own forward and nowhere else; this knows the
    families of transformers 5.23 that do something, and `self_check` refuses the rest.
    """
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    decoder = causal.get_decoder()
    if decoder is None or decoder is causal:
        decoder = getattr(causal, causal.base_model_prefix)
    config = causal.config.get_text_config()
    scale: float = getattr(config, "lm_head_multiplier", 1.0)
    if config.model_type.startswith("cohere"):
        scale = getattr(config, "logit_scale", None) or 1.0
    elif config.model_type.startswith("hyperclovax"):
        scale = config.logits_scaling
    else:  # Granite divides
        scale /= getattr(config, "logits_scaling", 1.0)
    softcap = getattr(config, "final_logit_softcapping", getattr(config, "logits_soft_cap", None))
    selects = "logits_to_keep" in inspect.signature(causal.forward).parameters
    linear = causal.get_output_embeddings()
    return Head(decoder, linear, scale, softcap, config.vocab_size, selects)


class _LogSoftmax(torch.autograd.Function):
    """Log-probability of one token and entropy of each row of logits / temperature.

    Keeps one float32 tensor of the logits' shape for its backward pass, where autograd's
    own would make three.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
        scaled = logits.to(dtype)
        if temperature != 1.0:
            scaled = scaled / temperature
        logp = torch.log_softmax(scaled, -1)
        ctx.save_for_backward(logp, target)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        chosen = logp.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        if not entropy:
            return chosen, None
        logp.clamp_(min=-1e4)  # where p is 0 to the last bit, and 0 · log 0 is to be 0
        return chosen, (logp.exp().mul_(logp)).sum(-1).neg_()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, grad_entropy: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        logp, target = ctx.saved_tensors
        # d logp[target] / d logits = onehot(target) - p;  d H / d logits = -p (log p + H)
        result = logp.exp()
        if grad_entropy is None:
            result.mul_(-grad.unsqueeze(-1))
        else:
            entropy = -(result * logp).sum(-1)
            factor = logp + entropy.unsqueeze(-1)
            factor.mul_(-grad_entropy.unsqueeze(-1)).sub_(grad.unsqueeze(-1))
            result.mul_(factor)
        result.scatter_add_(-1, target.unsqueeze(-1), grad.unsqueeze(-1))
        if ctx.temperature != 1.0:
            result.div_(ctx.temperature)
        return result.to(ctx.dtype), None, None, None


def log_softmax(
    logits: Float[Tensor, "tokens vocabulary"],
    target: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"] | None]:
    """Log-probability of each target in nats, and the distribution's entropy if asked for."""
    apply: Callable[..., tuple[Tensor, Tensor | None]] = _LogSoftmax.apply
    return apply(logits, target, temperature, entropy)


def chunked(
    head: Head,
    hidden: Float[Tensor, "tokens hidden"],
    target: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"] | None]:
    """The same from hidden states, through the head's module."""

    def part(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        return log_softmax(head.logits(hidden), target, temperature, entropy)

    if len(target) * head.vocabulary <= (KEEP if torch.is_grad_enabled() else CHUNK):
        return part(hidden, target)
    size = max(1, CHUNK // head.vocabulary)
    parts = [
        checkpoint(part, *piece, use_reentrant=False) if torch.is_grad_enabled() else part(*piece)
        for piece in zip(torch.split(hidden, size), torch.split(target, size), strict=True)
    ]
    logps, entropies = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropies) if entropy else None
