"""Drawing completions: one small interface, one module a backend.

A backend is a function with the signature of `sampler.draw`.
"""

from grpo_core.rollout.sampler import Completion, Sampling, draw

__all__ = ["Completion", "Sampling", "draw"]
