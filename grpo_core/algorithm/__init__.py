"""The algorithm as pure tensor functions: no models, no I/O, no config.

`advantages.py` turns scores into advantages, `objectives.py` turns advantages
and log-probabilities into a loss. Imports torch alone.
"""

from grpo_core.algorithm.advantages import group_advantages
from grpo_core.algorithm.objectives import OBJECTIVES, Loss, Objective, Terms, count, policy_loss

__all__ = ["OBJECTIVES", "Loss", "Objective", "Terms", "count", "group_advantages", "policy_loss"]
