"""What one model costs in memory and time, in a process of its own.

    python _engine_costs.py ROLE FOLDER SAMPLES PROMPT COMPLETION THREADS RESULT.json

ROLE: `policy` and `critic` are trained (gradients, AdamW's two moments), `reference` and
`reward` only read. Policy and reference give log-probabilities of the completion's
tokens, the reward model a number a sequence, the critic a value a token; all have the
same body (PPO as in InstructGPT, arXiv 2203.02155: all four start from one size).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _engine_sides import MB, Memory

ROWS = 8
"""Sequences in one pass."""


def measure(role: str, folder: str, samples: int, prompt: int, completion: int) -> dict[str, Any]:
    """Parameters; MB of weights, gradients, optimizer, and activations at the highest;
    seconds a step of `samples` sequences."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        logging,
    )

    classes: dict[str, tuple[Any, dict[str, Any]]] = {
        "policy": (AutoModelForCausalLM, {}),
        "reference": (AutoModelForCausalLM, {}),
        "reward": (AutoModelForSequenceClassification, {"num_labels": 1}),
        "critic": (AutoModelForTokenClassification, {"num_labels": 1}),
    }
    kind, options = classes[role]
    logging.set_verbosity_error()  # new heads are meant to be new
    model = kind.from_pretrained(folder, dtype=torch.float32, **options).eval()
    vocabulary = model.config.vocab_size
    ids = torch.randint(3, vocabulary, (ROWS, prompt + completion))

    def value() -> torch.Tensor:
        if role in ("policy", "reference"):
            logits = model(ids, logits_to_keep=completion + 1).logits[:, :-1]
            chosen = logits.gather(-1, ids[:, -completion:, None]).squeeze(-1)
            return (chosen - logits.logsumexp(-1)).mean()
        if role == "critic":
            return model(ids).logits[:, -completion:].square().mean()
        return model(ids).logits.mean()

    def read() -> None:
        with torch.no_grad():
            value()

    trained = role in ("policy", "critic")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def learn() -> None:
        value().backward()

    parameters = sum(p.numel() for p in model.parameters())
    weights = 4 * parameters / MB
    if trained:  # gradients and moments exist before the activations are measured
        learn()
        optimizer.step()
    memory = Memory(gpu=False)
    memory.start()
    (learn if trained else read)()
    passes = samples / ROWS
    return {
        "parameters": parameters,
        "weights_mb": weights,
        "gradients_mb": weights if trained else 0.0,
        "optimizer_mb": 2 * weights if trained else 0.0,
        "activations_mb": memory.peak(),
        "forward_s": passes * _median(read),
        "update_s": passes * _median(learn) + _median(optimizer.step) if trained else 0.0,
    }


def _median(call: Callable[[], object], times: int = 5) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def main() -> None:
    import torch

    role, folder, *numbers, result = sys.argv[1:]
    samples, prompt, completion, threads = map(int, numbers)
    torch.set_num_threads(threads)
    found = measure(role, folder, samples, prompt, completion)
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
