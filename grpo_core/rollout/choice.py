"""What a config says of drawing: which backend, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grpo_core.collect import Draw
from grpo_core.config import Config
from grpo_core.plugins import Host
from grpo_core.rollout import Sampling, continuous, draw


def backend_of(config: Config, host: Host, folder: Path, say: Callable[[str], None]) -> Draw:
    """The built-in sampler, one of the other backends, or a plugin's; a backend with weights
    of its own keeps them in `folder`."""
    rollout = config.rollout
    if rollout.backend is None:
        return draw
    if rollout.backend == "continuous":
        return continuous.draw
    if rollout.backend == "vllm":
        from grpo_core.rollout.vllm import Server  # needs the extra

        assert rollout.server is not None  # config saw to that
        if rollout.weights_dir is not None:
            folder = Path(rollout.weights_dir)
        times = {"timeout_s": rollout.timeout_s, "patience_s": rollout.patience_s}
        return Server(rollout.server, folder, **times, say=say)
    backend: Draw = host.rollouts[rollout.backend]()
    return backend


def sampling_of(config: Config) -> Sampling:
    rollout, engine = config.rollout, config.engine
    return Sampling(
        rollout.max_tokens,
        rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        min_p=rollout.min_p,
        batch_size=rollout.batch_size,
        shared_prefill=engine.shared_prefill,
        drop_finished=engine.drop_finished,
        packed_weights=engine.packed_weights,
    )
