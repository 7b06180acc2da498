"""What `test_distributed` starts on every rank: the same updates made alone, under DDP and
under FSDP2, from the same rollout. Rank 0 writes how far apart the weights are."""

import copy
import json
import os
import random
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from grpo_core.algorithm import OBJECTIVES
from grpo_core.collect import Rollout
from grpo_core.config import Config
from grpo_core.distributed import ALONE, join, sharding
from grpo_core.passes import Passes
from grpo_core.policy import load_policy
from grpo_core.rollout import Completion
from grpo_core.rubric import Table
from grpo_core.update import Learner, Reference

GROUPS, SIZE = 7, 3
CASES = {
    # twice, so that ratios differ from 1
    **{name: {"objective": name, "iterations": 2} for name in OBJECTIVES},
    "cispo": {"objective": "cispo", "epsilon_high": 5.0, "iterations": 2},
    "sequence": {"objective": "grpo", "level": "sequence"},
    "kl": {"beta": 0.1},
    "entropy": {"entropy_coef": 0.1, "top_entropy": 0.4},
    "truncated": {"mask_truncated": True},
    "minibatches": {"objective": "grpo", "iterations": 2, "minibatches": 3, "beta": 0.1},
    "one group teaches": {"iterations": 2},
    "no group teaches": {},
    "many passes": {"beta": 0.1},
    "key_value": {},
    "plain": {},
    "tied": {"beta": 0.1},
}


def rollout(vocabulary):
    """Prompts and completions of ragged lengths; log-probabilities near the model's."""
    rng = random.Random(0)

    def ids(most):
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(1, most))]

    prompts = [ids(7) for _ in range(GROUPS)]
    completions = []
    for _ in range(GROUPS * SIZE):
        drawn = ids(9)
        logps = [-4.4 + 0.2 * rng.random() for _ in drawn]
        entropies = [rng.random() for _ in drawn]
        completions.append(Completion(drawn, logps, entropies, rng.random() < 0.3))
    return Rollout(
        [None] * len(completions),
        [prompts[n // SIZE] for n in range(len(completions))],
        completions,
        Table((), {}, [], [], {}),
        {},
        {},
        SIZE,
    )


def advantages(case):
    drawn = torch.randn(GROUPS * SIZE, generator=torch.Generator().manual_seed(0)).double()
    drawn[SIZE : 2 * SIZE] = 0  # a group without signal
    if case == "one group teaches":
        drawn[: 4 * SIZE] = 0
        drawn[5 * SIZE :] = 0
    return drawn * 0 if case == "no group teaches" else drawn


def learn(model, case, how, ranks, accelerator):
    """How the weights move in one update by plain gradient descent, and its metrics."""
    config = Config.model_validate(
        {
            "model": {"name": "unused"},
            "data": {"path": "unused"},
            "rubric": {"rewards": [{"use": "unused"}]},
            "rollout": {"max_tokens": 9},
            "train": {
                "prompts_per_step": GROUPS,
                "tokens_per_micro_batch": 1 if case == "many passes" else 64,
                "max_grad_norm": 1e9,
            },
            "grpo": {"group_size": SIZE} | CASES[case],
        }
    )
    form = case if case in ("key_value", "plain") else "mask"
    mine = copy.deepcopy(model)
    if case == "tied":
        mine.lm_head.weight = mine.model.embed_tokens.weight
    passes = Passes(mine, pad_id=0, form=form)
    start = torch.cat([p.detach().flatten() for p in passes.parameters()])
    reference = Reference(passes) if config.grpo.beta else None
    if reference is not None:
        with torch.no_grad():
            for p in reference.passes.parameters():
                p.mul_(1.01)
    os.environ["ACCELERATE_USE_FSDP"] = "true" if how == "fsdp2" else "false"
    os.environ["FSDP_VERSION"] = "2"
    if how == "fsdp2":
        sharding.shard(passes, accelerator, ranks.world)
        if reference is not None:
            sharding.shard(reference.passes, accelerator, ranks.world)
    optimizer = torch.optim.SGD(passes.parameters(), lr=0.1)
    wrapped = passes
    if how != "alone":
        wrapped, optimizer = sharding.prepare(accelerator, passes, optimizer)
    learner = Learner(
        config,
        wrapped,
        optimizer,
        OBJECTIVES[config.grpo.objective],
        reference,
        accelerator,
        ALONE if how == "alone" else ranks,
    )
    metrics = learner.update(rollout(model.config.vocab_size), advantages(case))
    whole = sharding._whole(dict(passes.named_parameters()))
    return torch.cat([p.flatten() for p in whole.values()]) - start, metrics


def main(model_dir, out):
    found = {}
    with join(120) as ranks:
        accelerator = Accelerator(cpu=True)
        model = load_policy(model_dir, Path()).model.double()
        for case in CASES:
            alone, expected = learn(model, case, "alone", ranks, accelerator)
            moved = float(alone.norm())
            for how in ("ddp", "fsdp2"):
                weights, metrics = learn(model, case, how, ranks, accelerator)
                apart = [abs(metrics[k] - v) / max(1e-9, abs(v)) for k, v in expected.items() if v]
                found[f"{case}, {how}"] = {
                    "moved": moved,
                    "weights": float((weights - alone).norm()) / max(moved, 1e-30),
                    "metrics": max(apart, default=0.0),
                    "same_names": sorted(metrics) == sorted(expected),
                }
        everywhere = ranks.gather(found)
        if ranks.main:
            Path(out).write_text(json.dumps(everywhere))


if __name__ == "__main__":
    main(*sys.argv[1:])
