"""A running vLLM server held against the model itself: log-probabilities and weights.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs
    python benchmarks/vllm_server.py MODEL --server http://localhost:8000

MODEL is a local directory or the id of a model that is downloaded already. Draws groups,
computes their log-probabilities again with transformers, then sends changed weights and
compares again: with them, and with the old ones. Exit code 1 if the server does not draw from
the weights it was sent. Left out: speed under load, which vLLM's own benchmarks measure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from grpo_core.errors import RolloutError
from grpo_core.policy import Policy, load_policy
from grpo_core.rollout import Completion, Sampling
from grpo_core.rollout.vllm import Server

TEXTS = ["The capital of France is", "2 + 2 =", "Once upon a time", "def add(a, b):"]
WRONG = 0.2
"""Mean difference, in nats, that no precision explains."""
SLACK = 5
"""How much larger it may be with changed weights than with the model's own: a part that stayed
behind, such as the head alone, is off by less than WRONG."""


@torch.no_grad()
def difference(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    drawn: Sequence[Completion],
    temperature: float,
) -> tuple[float, float]:
    """Mean and largest, of the server's log-probabilities from the model's own."""
    size = len(drawn) // len(prompts)
    found = []
    for n, completion in enumerate(drawn):
        ids = completion.ids
        row = torch.tensor([[*prompts[n // size], *ids]], device=policy.model.device)
        logits = policy.model(row).logits[0, -len(ids) - 1 : -1].float() / temperature
        own = logits.log_softmax(-1)[range(len(ids)), ids].cpu()
        found.append((own - torch.tensor(completion.logps)).abs())
    every = torch.cat(found)
    return float(every.mean()), float(every.max())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--server", default="http://localhost:8000")
    parser.add_argument("--weights-dir", type=Path, help="a folder that the server sees as well")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args(arguments)

    policy = load_policy(options.model, Path(), options.dtype)
    if torch.cuda.is_available():
        policy.model.to("cuda")
    prompts = [policy.encode(text) for text in TEXTS]
    how = Sampling(options.max_tokens, options.temperature)
    generator = torch.Generator(policy.model.device).manual_seed(0)
    means = {}
    with tempfile.TemporaryDirectory() as own:
        folder = options.weights_dir or Path(own)
        server = Server(options.server, folder, say=lambda text: print(text, file=sys.stderr))
        print(f"{'weights of the server':24} {'sync s':>8} {'draw s':>8} {'mean':>9} {'max':>9}")
        for what in ("the model's", "changed, not sent", "changed, sent"):
            if what == "changed, not sent":
                with torch.no_grad():
                    for p in policy.model.parameters():
                        p.mul_(1 + 0.2 * torch.randn_like(p))
            started = time.perf_counter()
            if what != "changed, not sent":
                server.sync(policy)
            synced = time.perf_counter()
            drawn = server(policy, prompts, options.group_size, how, generator)
            done = time.perf_counter()
            means[what], largest = difference(policy, prompts, drawn, options.temperature)
            print(
                f"{what:24} {synced - started:8.2f} {done - synced:8.2f} "
                f"{means[what]:9.2g} {largest:9.2g}"
            )
    own, sent = means["the model's"], means["changed, sent"]
    right = own < WRONG and sent < SLACK * own + 1e-3 and sent < means["changed, not sent"]
    print("the server draws from the weights it is sent" if right else "WRONG WEIGHTS")
    return 0 if right else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RolloutError as error:
        sys.exit(str(error))
