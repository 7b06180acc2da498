"""Several processes as one run: who makes what, what they exchange, what ends them all.

`ranks` is the processes and what they tell each other, `watch` ends all of them when one
fails or stalls, `sharding` spreads the weights over them. What is divided, and how, is with
what does the work: `collect` (groups) and `update` (passes).
"""

from grpo_core.distributed.ranks import ALONE, Muted, Ranks, Watcher, join, launched

__all__ = ["ALONE", "Muted", "Ranks", "Watcher", "join", "launched"]
