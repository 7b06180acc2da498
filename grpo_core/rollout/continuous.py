"""Drawing with transformers' continuous batching: paged attention, rows that join and leave.

Meant for a GPU with flash attention (`model.attention: flash_attention_2`). With sdpa or
eager attention it works, on a CPU too, but every row attends over the whole cache under a
mask, which is slower than the built-in sampler. Left out: top-k, top-p and min-p
(`config` refuses them: transformers gives log-probabilities of what they leave over).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, __version__
from transformers.generation import configuration_utils

from grpo_core.errors import RolloutError
from grpo_core.policy import Policy
from grpo_core.rollout.sampler import Completion, OnFinished, Sampling

_Settings: Any = getattr(configuration_utils, "ContinuousBatchingConfig", None)
MIN_BATCH_TOKENS = 512
"""Tokens of prompts that are read at a time, at least."""


def draw(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
    on_finished: OnFinished = lambda n, completion: None,
) -> list[Completion]:
    """As `sampler.draw`, but `entropies` are empty: transformers does not tell them.

    `sampling.batch_size` bounds the rows at a time and with them the cache. All requests
    are queued before the first is read, so that the same generator state gives the same
    completions on a CPU; on a GPU they are as reproducible as its kernels are for batches
    whose shape changes at every token.

    Raises RolloutError when transformers cannot batch this model, or fails on the way.
    """
    if not hasattr(_Settings, "page_size"):
        raise RolloutError(
            "rollout.backend: continuous needs transformers 5.17 or newer, for log-probabilities "
            f"and the size of the cache; installed is {__version__}"
        )
    drawn: dict[int, Completion] = {}
    training = policy.model.training
    device = policy.model.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            manager, places = _queue(policy, prompts, group_size, sampling, generator)
            manager.start()
            try:
                while len(drawn) < len(places):
                    n, completion = _next(manager, places, policy.eos_ids)
                    drawn[n] = completion
                    on_finished(n, completion)
            finally:
                manager.stop(block=True, hard_stop=len(drawn) < len(places))
                manager.destroy()
    finally:
        policy.model.train(training)
    return [drawn[n] for n in range(len(places))]


def _queue(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> tuple[Any, dict[str, int]]:
    """A manager with all requests queued, and which completion answers which request."""
    # Groups are forked when their prompt is read but for its last token; transformers 5.23
    # fails on a prompt that has nothing but a last token.
    sharing = sampling.shared_prefill and group_size > 1 and not sampling.greedy
    fork = sharing and min(map(len, prompts)) > 1
    longest = max(map(len, prompts)) + sampling.max_tokens
    rows = min(sampling.batch_size, len(prompts) * group_size)
    flash = "flash" in policy.model.config._attn_implementation
    page = 256 if flash else 32
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    drawing = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    generation = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=sampling.max_tokens,
        do_sample=not sampling.greedy,
        **({} if sampling.greedy else drawing),
        num_return_sequences=group_size if fork else 1,
        eos_token_id=policy.eos_ids,
        pad_token_id=policy.pad_id,
    )
    batching = _Settings(
        page_size=page,
        num_blocks=rows * (math.ceil(longest / page) + 1),
        max_batch_tokens=max(MIN_BATCH_TOKENS, rows),
        max_requests_per_batch=rows,
        return_logprobs=True,
        seed=seed,
        auto_switch_to_flash=False,  # `model.attention` decides
    )
    try:
        manager = policy.model.init_continuous_batching(generation, batching)
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise RolloutError(
            f"transformers cannot batch {type(policy.model).__name__} continuously "
            f"({type(error).__name__}: {error}); use the built-in sampler"
        ) from error
    places: dict[str, int] = {}
    for group, prompt in enumerate(prompts):
        first = group * group_size
        if fork:
            name = str(first)
            places[name] = first
            places |= {f"{name}__child#{i}": first + 1 + i for i in range(group_size - 1)}
            manager.add_request(list(prompt), request_id=name)
        else:
            for n in range(first, first + group_size):
                places[str(n)] = n
                manager.add_request(list(prompt), request_id=str(n))
    return manager, places


def _next(manager: Any, places: dict[str, int], eos_ids: Sequence[int]) -> tuple[int, Completion]:
    """The next completion that is whole, with its number."""
    while (result := manager.get_result(timeout=1)) is None:
        if not manager.is_running():
            reason = manager.background_thread_status.fatal_error
            raise RolloutError(f"transformers' continuous batching stopped: {reason}")
    if result.error is not None:
        raise RolloutError(f"transformers' continuous batching failed: {result.error}")
    ids, logps = result.generated_tokens, result.logprobs
    if len(ids) != len(logps):
        raise RolloutError(
            f"transformers' continuous batching gave {len(logps)} log-probabilities "
            f"for {len(ids)} tokens"
        )
    return places[result.request_id], Completion(ids, logps, [], ids[-1] not in eos_ids)
