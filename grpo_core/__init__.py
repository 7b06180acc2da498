"""grpo-core: pytest for rewards.

The public names and nothing else. Each is loaded on first use, so importing
this package costs milliseconds and loads neither torch nor sympy.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core import algorithm as algorithm
    from grpo_core.hookspecs import hookimpl as hookimpl
    from grpo_core.plugins import Host as Host
    from grpo_core.plugins import load_plugins as load_plugins
    from grpo_core.rewards import Outcome as Outcome
    from grpo_core.rewards import Reward as Reward
    from grpo_core.rewards import Sample as Sample
    from grpo_core.rewards import Score as Score
    from grpo_core.rewards import Tags as Tags
    from grpo_core.rubric import Rubric as Rubric
    from grpo_core.rubric import Table as Table
    from grpo_core.scoring import Scorer as Scorer
    from grpo_core.scoring import score as score

__version__ = "0.1.0"

_HOME = {
    "Host": "plugins",
    "Outcome": "rewards",
    "Reward": "rewards",
    "Rubric": "rubric",
    "Sample": "rewards",
    "Score": "rewards",
    "Scorer": "scoring",
    "Table": "rubric",
    "Tags": "rewards",
    "hookimpl": "hookspecs",
    "load_plugins": "plugins",
    "score": "scoring",
}

__all__ = [*_HOME, "__version__", "algorithm"]


def __getattr__(name: str) -> object:
    if name == "algorithm":
        return _import_module("grpo_core.algorithm")
    if name in _HOME:
        value = getattr(_import_module(f"grpo_core.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'grpo_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
