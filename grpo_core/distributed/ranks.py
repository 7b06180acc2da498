"""The processes of a run, and how they tell each other what they have.

Whole Python objects over gloo, a few times a step; gradients and weights are DDP's, FSDP's
or DeepSpeed's own affair.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from grpo_core.distributed.watch import Watch
from grpo_core.errors import ConfigError

T = TypeVar("T")

_FOREVER = timedelta(days=30)
"""How long an exchange may take: a peer that does not come is the watch's affair."""


class Watcher(Protocol):
    """Who is told what happens, for the terminal to show."""

    def phase(self, what: str, step: int) -> None: ...
    def step(self, line: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of the run; by default the only one."""

    rank: int = 0
    world: int = 1
    local_world: int = 1
    """How many of them are on this machine."""
    group: Any = None
    """The process group of `gather`."""
    watch: Watch | None = None

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def mine(self, things: Sequence[T]) -> Sequence[T]:
        """The share of this rank: every `world`-th, from the rank's own."""
        return things[self.rank :: self.world]

    def gather(self, thing: T) -> list[T]:
        """What each rank gives, in their order, on every rank. All of them must call it."""
        if self.world == 1:
            return [thing]
        assert self.watch is not None
        found: list[Any] = [None] * self.world
        with self.watch.waiting():
            dist.all_gather_object(found, thing, group=self.group)
        return found

    def tick(self) -> None:
        """Say that something was done, so that this rank does not seem stalled."""
        if self.watch is not None:
            self.watch.tick()

    def busy(self, what: str) -> contextlib.AbstractContextManager[None]:
        """While something is done that may take any time, as writing to a full disk."""
        return contextlib.nullcontext() if self.watch is None else self.watch.busy(what)


ALONE = Ranks()
"""The one process of a run that nobody launched as several."""


class Muted:
    """A watcher for one rank of several: shows things once, tells the watch the phases."""

    def __init__(self, shown: Watcher, ranks: Ranks) -> None:
        self.shown, self.ranks = shown, ranks

    def phase(self, what: str, step: int) -> None:
        if self.ranks.watch is not None:
            self.ranks.watch.enter(f"{what}, step {step}")
        if self.ranks.main:
            self.shown.phase(what, step)

    def step(self, line: dict[str, Any]) -> None:
        if self.ranks.main:
            self.shown.step(line)

    def say(self, text: str) -> None:
        if self.ranks.main:
            self.shown.say(text)


def launched() -> int:
    """How many processes `accelerate launch` or `torchrun` started; 1 if neither did."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def join(stall_s: float) -> Iterator[Ranks]:
    """The processes that were launched, as ranks of one run.

    When one leaves with an exception, dies, or when for `stall_s` seconds none makes any
    progress, all end within a minute, and the reason is on the terminal. An exception whose
    `on_every_rank` is true is raised on all alike and ends nothing else. Raises ConfigError
    for DeepSpeed without a GPU: accelerate would quietly go on without it.
    """
    world = launched()
    if world == 1:
        yield ALONE
        return
    cpu = not torch.accelerator.is_available()
    if cpu and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError("accelerate runs DeepSpeed on GPUs only, and there is none here")
    state = PartialState(cpu=cpu)
    if state.num_processes != world:
        raise RuntimeError(
            f"the launcher started {world} processes, and accelerate sees {state.num_processes}"
        )
    group = dist.new_group(backend="gloo", timeout=_FOREVER)
    watch = Watch(_store(state.process_index, group), state.process_index, world, stall_s)
    ranks = Ranks(
        state.process_index,
        world,
        int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        group,
        watch,
    )
    watch.start()
    try:
        yield ranks
    except BaseException as error:
        if not getattr(error, "on_every_rank", False):
            watch.fail(error)
            raise
        _leave(ranks)
        raise
    _leave(ranks)


def _leave(ranks: Ranks) -> None:
    """All together: the first to go would seem lost to the others."""
    assert ranks.watch is not None
    ranks.gather(None)
    ranks.watch.close()
    ranks.gather(None)  # rank 0 holds the watch's store until nobody looks
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(rank: int, group: Any) -> Any:
    """A store of our own, held by rank 0: the launcher's may be busy with a rendezvous."""
    make: Any = vars(dist)["TCPStore"]  # public, and absent from torch's type hints
    host = os.environ["MASTER_ADDR"]
    timeout = timedelta(seconds=30)
    ports: list[Any] = [None]
    if rank == 0:
        store = make(host, 0, None, True, timeout, wait_for_workers=False)
        ports = [store.port]
    dist.broadcast_object_list(ports, src=0, group=group)
    if rank != 0:
        store = make(host, ports[0], None, False, timeout, wait_for_workers=False)
    return store
