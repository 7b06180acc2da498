"""oneDNN, torch's library for arithmetic on CPUs: weights laid out for it, its memory bounded.

A step of drawing multiplies a few rows by every weight of the model, and a CPU then spends
about as long on rearranging the weights into the blocks it multiplies by as on multiplying.
They change only between rollouts, so they are rearranged once a rollout: a copy of them, for
as long as drawing lasts. Training passes have many rows and are left alone.

oneDNN makes a program for every shape that it meets, and keeps a thousand of them: with passes
of ever new lengths in bfloat16 they came to a gigabyte.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 2**16
"""Numbers in a weight that is worth it; smaller ones are read from the cache anyway."""
ROWS = 32
"""That the blocks are made for. With any other number the result is right all the same."""
MOST = 128
"""Rows; with more of them rearranging is little beside multiplying."""
STEP = 8
"""Rows are filled up to a multiple of this, so that there are few shapes."""
PROGRAMS = 64
"""That oneDNN may keep."""


def bound_programs() -> None:
    """Have oneDNN and what calls it in torch keep few programs, unless the environment says how
    many. Heard until the process has used oneDNN for the first time."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(PROGRAMS))


@contextlib.contextmanager
def packed_weights(model: Any) -> Iterator[None]:
    """Have the model's large linear layers multiply by rearranged copies of their weights.

    For reading only: nothing that needs a gradient, and no weight may change meanwhile. A
    model on another device, in another precision than float32, or with weights spread over
    processes is left as it is, and so is every model where torch lacks the operations.
    """
    layers = [m for m in model.modules() if _suitable(m)] if _works() else []
    try:
        for layer in layers:
            layer.forward = _forward(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _suitable(module: nn.Module) -> bool:
    """A plain linear layer of a size worth it, whose forward is nobody else's by now."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and module.weight.numel() >= LARGE
        and "forward" not in module.__dict__
    )


def _forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    bias = layer.bias
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)

    def multiply(hidden: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, packed, bias, "none", [], "")
        return product

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.numel() // hidden.shape[-1]
        if rows > MOST or hidden.dtype != torch.float32:
            return F.linear(hidden, layer.weight, bias)
        if missing := -rows % STEP:
            filled = F.pad(hidden.reshape(rows, -1), (0, 0, 0, missing))
            return multiply(filled)[:rows].view(*hidden.shape[:-1], -1)
        return multiply(hidden)

    return forward


@functools.cache
def _works() -> bool:
    """Whether this torch has oneDNN and its operations, which torch.compile calls and no document
    promises, give what the plain ones give."""
    with torch.random.fork_rng(devices=[]):  # a run's random state is not this check's to move
        torch.manual_seed(0)
        layer, hidden = nn.Linear(48, 40), torch.rand(2, 3, 48)
    try:
        with torch.no_grad():
            found, expected = _forward(layer)(hidden), layer(hidden)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, expected, atol=1e-5)
