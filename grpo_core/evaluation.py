"""Held-out figures: judge completions of prompts that are not trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from grpo_core import metrics
from grpo_core.collect import Collector, Rollout
from grpo_core.data import PromptTemplate, Row
from grpo_core.rollout import Sampling


def evaluate(
    collector: Collector,
    rows: Sequence[Row],
    template: PromptTemplate,
    passing: str | None,
    how: Sampling,
    step: int,
) -> tuple[dict[str, Any], dict[str, Rollout]]:
    """Figures, and the rollouts behind them by mode.

    Every row's prompt is answered once sampled at temperature 1 and once greedy.
    `pass@1` is the share of samples on which the reward `passing` (the first, if
    none is named) gives its maximum, with its 95% interval.
    """
    rubric = collector.rubric
    name = passing or rubric.names[0]
    best = next(term.reward.range[1] for term in rubric.terms if term.name == name)
    best = 1.0 if math.isinf(best) else best  # a plain function states no range
    found: dict[str, Any] = {"step": step}
    rollouts: dict[str, Rollout] = {}
    for mode in ("sampled", "greedy"):
        collector.watcher.phase(f"evaluating, {mode}", step)
        plainly = dataclasses.replace(
            how, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, greedy=mode == "greedy"
        )
        rollout = collector.collect(list(enumerate(rows)), template, 1, plainly, step, salt=1)
        rollouts[mode] = rollout
        table = rollout.table
        values = [score.value for score in table.scores[name]]
        n = len(values)
        share = sum(value == best for value in values) / n
        prefix = "" if mode == "sampled" else "greedy_"
        found[f"{prefix}pass@1"] = share
        found[f"{prefix}pass@1_interval"] = list(metrics.wilson_interval(share, n))
        if mode == "sampled":
            found["n"] = n
            found["reward"] = metrics.mean(t for t in table.totals if t is not None)
            for reward, scores in table.scores.items():
                found[f"rewards/{reward}/mean"] = metrics.mean(
                    score.value for score in scores if score.value is not None
                )
            lengths = [len(completion.ids) for completion in rollout.completions]
            found["completions/mean_length"] = metrics.mean(lengths)
    return found, rollouts
