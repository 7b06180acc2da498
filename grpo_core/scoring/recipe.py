"""Recipes: how a worker process rebuilds a reward it was never sent.

A reward object is never pickled: a worker gets the place its class comes from,
and its options. A class without such a place (defined in a function, a notebook,
a script or standard input) travels as code, through cloudpickle where that is
installed. Left out: judging.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_core.plugins import PluginError, Source, resolve
from grpo_core.rewards import FunctionReward, Reward


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to make one reward: `source` or `code`, and the options."""

    name: str
    options: dict[str, Any]
    source: Source | None = None
    code: bytes | None = None

    def build(self) -> Reward:
        """Make the reward. Raises whatever its module or its options raise."""
        cls: type[Reward] = pickle.loads(self.code) if self.code else resolve(self._source())
        reward = cls(**self.options)
        reward.source = self.source
        return reward

    def _source(self) -> Source:
        assert self.source is not None, "a recipe has a source or code"
        return self.source


def recipe_of(name: str, reward: Reward) -> Recipe:
    """The recipe for a reward. Raises PluginError when a worker could not make it,
    saying what to do."""
    options = reward.options.model_dump(exclude_unset=True, by_alias=True)
    cls = type(reward)
    source = reward.source or _found_again(cls)
    if source is not None:
        return Recipe(name, options, source=Source(*source))
    return Recipe(name, options, code=_as_code(name, cls))


def _found_again(cls: type[Reward]) -> Source | None:
    """Where a worker can import this class from, if anywhere."""
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__module__ == "__main__" or not _leads_to(module, cls):
        return None
    if _importable(module):
        return Source("attribute", cls.__module__, cls.__qualname__)
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py") and Path(file).is_file():
        return Source("attribute", str(Path(file).resolve()), cls.__qualname__)
    return None


def _leads_to(module: ModuleType, cls: type[Reward]) -> bool:
    """Whether the class's qualified name leads to it (or to the function it wraps)."""
    target: Any = module
    for part in cls.__qualname__.split("."):
        target = getattr(target, part, None)
    return target is not None and (
        target is cls or (issubclass(cls, FunctionReward) and target is cls.function)
    )


def _importable(module: ModuleType) -> bool:
    """Whether a fresh interpreter with this `sys.path` finds the same file by name."""
    path: Any = None
    name, origin = "", None
    for part in module.__name__.split("."):
        name = f"{name}.{part}" if name else part
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, None)
            if spec is not None:
                break
        else:
            return False
        path, origin = spec.submodule_search_locations, spec.origin
    return origin is not None and origin == getattr(module, "__file__", None)


def _as_code(name: str, cls: type[Reward]) -> bytes:
    where = f"reward {name!r} ({cls.__module__}.{cls.__qualname__})"
    advice = (
        "Put it at the top level of a module or a .py file, or, if it is cheap and trusted, "
        'declare isolation = "inline"'
    )
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:
        raise PluginError(
            f"{where} cannot be rebuilt in a worker process: no module or file holds it. "
            f"{advice}, or pip install cloudpickle"
        ) from None
    # What the class uses of a module that workers cannot import has to travel with it.
    module = sys.modules.get(cls.__module__)
    by_value = module is not None and module.__name__ != "__main__" and not _importable(module)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        code: bytes = cloudpickle.dumps(cls)
    except Exception as error:
        raise PluginError(
            f"{where} cannot be sent to a worker process as code: "
            f"{type(error).__name__}: {error}. {advice}"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return code
