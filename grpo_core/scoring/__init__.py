"""Running rewards: isolation, deadlines, killable workers, streaming.

Each name is loaded on first use: a worker process imports this package too, and
needs none of them.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.scoring.batch import Batch as Batch
    from grpo_core.scoring.scorer import Scorer as Scorer
    from grpo_core.scoring.scorer import score as score
    from grpo_core.scoring.timing import Running as Running
    from grpo_core.scoring.timing import Timing as Timing
    from grpo_core.scoring.timing import Timings as Timings

_HOME = {
    "Batch": "batch",
    "Running": "timing",
    "Scorer": "scorer",
    "Timing": "timing",
    "Timings": "timing",
    "score": "scorer",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(_import_module(f"grpo_core.scoring.{_HOME[name]}"), name)
    raise AttributeError(f"module 'grpo_core.scoring' has no attribute {name!r}")
