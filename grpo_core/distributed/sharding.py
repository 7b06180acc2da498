"""Spreading the weights over the ranks, and having them whole where they must be.

One process and DDP keep a copy on every rank. FSDP2 (`torch.distributed.fsdp.fully_shard`)
and DeepSpeed ZeRO-3 keep a part; which of them it is, the launcher says through accelerate.
Checkpoints hold whole tensors, so that any number of processes can go on from them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo_core.errors import ConfigError
from grpo_core.passes import Group
from grpo_core.policy import Policy


def shard(passes: nn.Module, accelerator: Accelerator, world: int) -> None:
    """Keep only this rank's part of the parameters, in place, if the launcher asks for FSDP.

    The model's blocks are gathered one by one, what is left of it together. With bfloat16
    the parts stay in float32, and gradients are added up in it. Raises ConfigError for the
    first version of FSDP. Make the optimizer afterwards.
    """
    if world == 1 or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    plugin = FullyShardedDataParallelPlugin()  # as the launcher's variables say
    if plugin.fsdp_version != 2:
        raise ConfigError("of FSDP only version 2 is supported: set fsdp_version: 2")
    half = accelerator.mixed_precision == "bf16"
    how: dict[str, Any] = {
        "mesh": init_device_mesh(accelerator.device.type, (world,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if half
        else MixedPrecisionPolicy(),
        "offload_policy": plugin.cpu_offload or OffloadPolicy(),
        "reshard_after_forward": True,  # of the outermost, too: its parameters are then parts
    }
    if half:
        passes.float()
    model: Any = passes.model
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    blocks = set(getattr(base, "_no_split_modules", None) or ())
    for module in list(passes.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, **how)
    fully_shard(passes, **how)
    with torch.no_grad():  # the first forward decides which module is the outermost
        passes([Group([0], [[0]])])


def before_loading(accelerator: Accelerator) -> None:
    """Have transformers load models whole: accelerate tells it of ZeRO-3, whatever
    `zero3_init_flag` says, and it would spread each over the ranks at once."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        integrations: Any = importlib.import_module("transformers.integrations")
        integrations.unset_hf_deepspeed_config()


def prepare(
    accelerator: Accelerator, passes: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Any, Any]:
    """Both as they are used in training: wrapped by accelerate, unless sharded already."""
    if sharded(passes):
        return passes, optimizer
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1  # of no meaning to us, and required
    prepared: tuple[Any, Any] = accelerator.prepare(passes, optimizer)
    return prepared


def sharded(module: Any) -> bool:
    """Whether FSDP2 holds the module's parameters."""
    return isinstance(module, FSDPModule)


@contextmanager
def gathered(passes: Any, accelerator: Accelerator) -> Iterator[None]:
    """Whole parameters on every rank, whose forwards then need no other rank.

    All ranks must come in and go out together. Each holds the whole model meanwhile.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED and _stage(accelerator) == 3:
        with _gathered_by_deepspeed(passes):
            yield
        return
    if not sharded(passes):
        yield
        return
    parts = [module for module in passes.modules() if isinstance(module, FSDPModule)]
    with torch.no_grad():
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def clip_grad_norm(accelerator: Accelerator, passes: Any, limit: float) -> float:
    """Shorten the gradient to `limit`; its norm before, over all ranks' parts."""
    if not sharded(passes):
        norm = accelerator.clip_grad_norm_(passes.parameters(), limit)
        return float(norm) if norm is not None else 0.0
    total = torch.nn.utils.clip_grad_norm_(passes.parameters(), limit)
    return float(total.full_tensor() if isinstance(total, DTensor) else total)


# --- whole tensors, for checkpoints ---------------------------------------------------


@dataclass
class WholePolicy(Policy):
    """A policy that saves given weights: the model's own, gathered."""

    weights: dict[str, Tensor]

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory, state_dict=self.weights)
        self.tokenizer.save_pretrained(directory)


@dataclass
class WholeModel:
    """The same for a model without a tokenizer."""

    model: Any
    weights: dict[str, Tensor]

    def save_pretrained(self, directory: Path) -> None:
        self.model.save_pretrained(directory, state_dict=self.weights)


@dataclass
class WholeOptimizer:
    """What `checkpoint` needs of an optimizer, its state gathered."""

    param_groups: Any
    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state


def whole_policy(policy: Policy, passes: Any, accelerator: Accelerator) -> Policy:
    """The policy as it can be saved by one rank. All ranks must call it."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        state = accelerator.get_state_dict(passes)
        weights = {name.removeprefix("model."): value for name, value in (state or {}).items()}
        return WholePolicy(policy.model, policy.tokenizer, weights)
    if not sharded(passes):
        return policy
    return WholePolicy(policy.model, policy.tokenizer, _whole_weights(policy.model))


def whole_model(model: Any) -> Any:
    """A model as it can be saved by one rank. All ranks must call it."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    return WholeModel(model, _whole_weights(model))


def whole_optimizer(optimizer: Any, accelerator: Accelerator) -> Any:
    """An optimizer as its state can be saved by one rank. All ranks must call it.

    Of DeepSpeed's there is no whole state; nothing is saved of it.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return WholeOptimizer([], {})
    if not _holds_parts(optimizer):
        return optimizer
    return WholeOptimizer(optimizer.param_groups, _whole(optimizer.state_dict()))


@dataclass
class Loading:
    """What `checkpoint.restore` needs of an optimizer: whole state in, parts kept."""

    optimizer: Any

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        parts = {
            number: {key: _part(value, parameters[number]) for key, value in kept.items()}
            for number, kept in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": parts})


def _part(value: Any, parameter: Any) -> Any:
    """This rank's part of a tensor that belongs to a parameter; anything else as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:  # as the number of steps
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _holds_parts(optimizer: Any) -> bool:
    return any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])


def _whole(value: Any) -> Any:
    """A state with every tensor in it whole, on the CPU."""
    if isinstance(value, Mapping):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(each) for each in value]
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _whole_weights(model: Any) -> dict[str, Tensor]:
    found: dict[int, Tensor] = {}  # tied weights once
    weights = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in found:
            found[id(value)] = _whole(value)
        weights[name] = found[id(value)]
    return weights


# --- DeepSpeed ------------------------------------------------------------------------


def _stage(accelerator: Accelerator) -> int:
    return int(accelerator.state.deepspeed_plugin.zero_stage)


@contextmanager
def _gathered_by_deepspeed(engine: Any) -> Iterator[None]:
    """Its hooks would give the parameters back behind each module, so they rest meanwhile.
    Run by hand, not by this project's tests, which have no DeepSpeed."""
    deepspeed = importlib.import_module("deepspeed")
    offload = engine.optimizer.parameter_offload
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        offload._remove_module_hooks()
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
