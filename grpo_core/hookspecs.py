"""Every hook a plugin can implement, on one screen.

A plugin is a module named by an entry point in the group `grpo_core`. It marks
its functions with `hookimpl`; pluggy matches them to the signatures below. A hook
may take fewer arguments than are listed, never others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

API_VERSION = 1
"""The plugin API this host speaks. A plugin states its own as `grpo_core_api = 1`."""

hookspec = pluggy.HookspecMarker("grpo_core")
hookimpl = pluggy.HookimplMarker("grpo_core")

Register = Callable[[str, Any], None]


@hookspec
def register_rewards(register: Register) -> None:
    """Register rewards: `register(name, RewardClass)` or `register(name, function)`."""


@hookspec
def register_data(register: Register) -> None:
    """Register data loaders: `register(name, load)`, where `load(path)` returns rows (dicts)
    and `path` is the config's `data.path`; used by `data.loader: name`."""


@hookspec
def register_objectives(register: Register) -> None:
    """Register losses: `register(name, make)`, where `make()` returns a
    `grpo_core.algorithm.Objective`; used by `grpo.objective: name`."""


@hookspec
def register_rollouts(register: Register) -> None:
    """Register backends that draw completions: `register(name, make)`, where `make()` returns a
    function with the signature of `grpo_core.rollout.draw`; used by `rollout.backend: name`."""


@hookspec
def register_commands(register: Register) -> None:
    """Register commands: `register(name, function)` makes `grpo name` of a function as Typer
    takes it."""


@hookspec
def on_samples(step: int, samples: Sequence[Any], table: Any) -> None:
    """Called with each step's judged samples and their `grpo_core.Table`."""


@hookspec
def on_step(step: int, metrics: Mapping[str, Any]) -> None:
    """Called with each step's line of metrics, after it was written."""
