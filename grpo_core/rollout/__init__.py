"""Drawing completions: one small interface, one module a backend.

A backend is a function with the signature of `sampler.draw`. One that draws from a copy of
the weights has a `sync(policy, *, main)` as well: the trainer calls it on every process, before
the first rollout and after each update; on one of them `main` is true, and there `policy.save`
writes whole weights. `continuous` and `vllm` are such backends of other programs; what a backend
cannot tell of a completion it leaves empty (`entropies`) or nan (`logps`).
"""

from grpo_core.rollout.sampler import Completion, Sampling, draw

__all__ = ["Completion", "Sampling", "draw"]
