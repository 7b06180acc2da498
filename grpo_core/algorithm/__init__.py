"""The algorithm as pure tensor functions: no models, no I/O, no config.

`advantages.py` turns scores into advantages, `tokens.py` says which tokens count
and how much, `objectives.py` turns it all into a loss. Imports torch alone.
"""

from grpo_core.algorithm.advantages import group_advantages, step_advantages
from grpo_core.algorithm.objectives import (
    KL,
    OBJECTIVES,
    Loss,
    Objective,
    Terms,
    count,
    policy_loss,
)
from grpo_core.algorithm.tokens import entropy_bonus, high_entropy_mask, mismatch_weights

__all__ = [
    "KL",
    "OBJECTIVES",
    "Loss",
    "Objective",
    "Terms",
    "count",
    "entropy_bonus",
    "group_advantages",
    "high_entropy_mask",
    "mismatch_weights",
    "policy_loss",
    "step_advantages",
]
