"""Which form holds for a model: tried on a tiny batch, against one completion at a time.

Forms fail silently: attention that ignores a mask, windows that a mask replaces, logits
scaled in a model's own forward. So nothing is trusted by name alone.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grpo_core.passes import head
from grpo_core.passes.batching import SHORT
from grpo_core.passes.forms import Passes
from grpo_core.passes.pack import FORMS, Form, Group
from grpo_core.policy import REFUSALS

FLOOR = 1e-5
"""Relative error that is always allowed, in float32 or wider."""
CEILING = 0.1
"""Relative error that is never allowed, whatever the model's own rounding."""
WINDOW = 6
"""What a longer sliding window is set to during the check, so that the batch exceeds it."""
PARAMETERS = 2**27
"""Gradients compared, in numbers; the smallest parameters first, so every layer has some."""


Trial = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Log-probabilities, and the gradients of parameters."""


def self_check(
    model: Any,
    *,
    pad_id: int,
    form: Form | Literal["auto"] = "auto",
    fused_head: bool = True,
    temperature: float = 1.0,
) -> tuple[Passes, list[str]]:
    """The fastest form, from `form` on, whose log-probabilities and gradients are the model's.

    Returns the passes and lines that say what was chosen and why something else was not.
    The measure is the model's own forward over one completion at a time, without padding;
    allowed is a few times the error that plain padding makes. Gradients, random state and
    train/eval mode stay as found. Call it before the model is wrapped or sharded.
    """
    lines: list[str] = []
    make = partial(Passes, model, pad_id=pad_id, temperature=temperature)
    with _quiet(model) as parameters:
        groups = _batch(model, pad_id)
        own = make(form="plain", fused_head=False)
        single = [[Group(g.prompt, [c])] for g in groups for c in g.completions]
        truth = _trial(own, single, parameters)
        rounding = _distance(_trial(own, [groups], parameters), truth)
        allowed = min(max(FLOOR, 4 * rounding), CEILING)

        def refusal(form: Form, fused: bool, short: int = 0) -> str | None:
            passes = make(form=form, fused_head=fused, short=short)
            try:
                trial = _trial(passes, [[g] for g in groups] if short else [groups], parameters)
            except REFUSALS as error:
                return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            apart = _distance(trial, truth)
            # written so that a nan is refused
            return None if apart <= allowed else f"differs by {apart:.1e} (allowed {allowed:.1e})"

        if fused_head and (why := refusal("plain", True)):
            lines.append(f"fused head refused: {why}; the model's own forward makes the logits")
            fused_head = False
        for candidate in _candidates(model, form):
            why = _known(model, candidate) or refusal(candidate, fused_head)
            if candidate == "blocks":  # alone, one group goes under a mask and one in rows
                why = why or refusal("blocks", fused_head, SHORT)
            if why is None or candidate == "plain":
                break
            lines.append(f"form {candidate} refused: {why}")
        if why is not None:
            lines.append(f"form plain is kept although padding alone changes results: {why}")
    fused = "fused head" if fused_head else "the model's own head"
    lines.append(f"training passes: form {candidate}, {fused}")
    return make(form=candidate, fused_head=fused_head), lines


def _candidates(model: Any, form: Form | Literal["auto"]) -> Sequence[Form]:
    """Fastest first. Blocks are for a CPU: elsewhere kernels are fast at masks."""
    if form != "auto":
        return FORMS[FORMS.index(form) :]
    on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
    return FORMS if on_cpu else FORMS[1:]


def _known(model: Any, form: Form) -> str | None:
    """Why a form cannot hold, where the config alone says it."""
    if form == "plain":
        return None
    config = head.split(model).decoder.config
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := kinds - {"full_attention", "sliding_attention"}:
        return (
            f"layers of type {', '.join(sorted(map(str, other)))} carry state from token to token"
        )
    if form in ("blocks", "mask") and getattr(config, "attention_types", None):
        return "its windows (GPT-Neo's) go by place in the row, beyond what is tried"
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if form == "key_value" and recomputes:
        return "gradient checkpointing keeps no key/value cache"
    if form == "blocks":
        if recomputes:
            return "gradient checkpointing would recompute another attention"
        if config._attn_implementation != "sdpa":
            return f"the model's attention is {config._attn_implementation}"
    return None


def _batch(model: Any, pad_id: int) -> list[Group]:
    """Two ragged groups; token ids spread over the vocabulary, the padding id left out."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = [token for token in range(vocabulary) if token != pad_id]
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return draw.choices(tokens, k=count)

    return [
        Group(ids(9), [ids(n) for n in (7, 1, 12, 4)]),
        Group(ids(4), [ids(n) for n in (6, 8)]),
    ]


def _trial(passes: Passes, batches: list[list[Group]], parameters: list[nn.Parameter]) -> Trial:
    """Log-probabilities of the batches' tokens, and the gradient of a weighted sum of them."""
    with torch.set_grad_enabled(bool(parameters)):
        outputs = [passes(batch) for batch in batches]
        logp = torch.cat([output.logp[output.mask] for output in outputs])
        weights = torch.cos(torch.arange(len(logp), device=logp.device, dtype=logp.dtype))
        gradients: Sequence[Tensor] = ()
        if parameters:
            gradients = torch.autograd.grad(weights @ logp, parameters, materialize_grads=True)
    return [logp.detach()], gradients


def _distance(trial: Trial, truth: Trial) -> float:
    """The larger of the two relative errors, of log-probabilities and of the gradient."""

    def norm(tensors: Iterable[Tensor]) -> float:
        return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))

    errors = [
        norm(a - b for a, b in zip(found, expected, strict=True)) / max(norm(expected), 1e-30)
        for found, expected in zip(trial, truth, strict=True)
    ]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


@contextmanager
def _quiet(model: Any) -> Iterator[list[nn.Parameter]]:
    """The model without dropout and with short windows; gives the parameters to compare."""
    modes = [(module, module.training) for module in model.modules()]
    config = head.split(model).decoder.config
    window = getattr(config, "sliding_window", None)
    trained = sorted((p for p in model.parameters() if p.requires_grad), key=torch.numel)
    numbers = itertools.accumulate(map(torch.numel, trained))
    parameters = [p for p, all_ in zip(trained, numbers, strict=True) if all_ <= PARAMETERS]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        if window is not None and window > WINDOW:
            config.sliding_window = WINDOW
        with torch.random.fork_rng(devices=list(devices)):
            yield parameters
    finally:
        if window is not None:
            config.sliding_window = window
        for module, training in modes:
            module.training = training
