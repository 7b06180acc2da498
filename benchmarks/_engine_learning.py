"""The parts of the learning benchmark that run in processes of their own.

    python _engine_learning.py SPEC.json RESULT.json

`train` trains the calculator's policy from a config, by TRL or by this engine, and keeps
checkpoints; `evaluate` answers held-out prompts with checkpoints of either and judges
them. What TRL is given comes from the same config: the rows in our order, the same
rewards with the same weights, the same numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _engine_sides import TrlClock, train_ours, trl_arguments


@dataclass
class Training:
    """One run."""

    side: str
    """`trl` or `ours`."""
    config: str
    folder: str
    every: int
    """Steps between checkpoints."""
    threads: int
    overrides: list[str] = field(default_factory=list)


@dataclass
class Trained:
    """Seconds from the first step's begin; a list has an entry a step."""

    ends: list[float]
    scoring: list[float]
    """What the step waited for scores (TRL judges after drawing, we meanwhile)."""
    silent: list[float]
    mean_length: list[float]
    checkpoints: dict[int, str]


@dataclass
class Judging:
    """Checkpoints to be judged on the config's held-out rows."""

    config: str
    checkpoints: list[str]
    limit: int | None
    threads: int
    overrides: list[str] = field(default_factory=list)


def train(spec: Training) -> Trained:
    run = Path(spec.folder)
    keys = [f"train.output_dir={run}", f"train.save_every={spec.every}", "train.keep=1000"]
    if spec.side == "trl":
        return _train_trl(spec, run)
    clock = train_ours(Path(spec.config), [*spec.overrides, *keys, "eval=null"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {int(path.name[5:]): str(path) for path in (run / "checkpoints").glob("step-*")}
    return Trained(
        [end - clock.began for end in clock.ends],
        [line["time/score"] - line["time/score_hidden"] for line in lines],
        [line["frac_reward_zero_std"] for line in lines],
        [line["completions/mean_length"] for line in lines],
        dict(sorted(found.items())),
    )


def _train_trl(spec: Training, run: Path) -> Trained:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grpo_core.cli.train import prepare
    from grpo_core.data import PromptTemplate, batches

    job = prepare(Path(spec.config), [*spec.overrides, "eval=null"])
    config, steps = job.config, job.config.train.steps
    template = PromptTemplate(config.data.prompt)
    rows = [
        dict(row) | {"prompt": template.fill(row)}
        for step in range(1, steps + 1)
        for _, row in batches(job.rows, config.train.prompts_per_step, config.train.seed, step)
    ]
    arguments = trl_arguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=config.train.prompts_per_step * config.grpo.group_size,
        num_generations=config.grpo.group_size,
        max_completion_length=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
        learning_rate=config.train.learning_rate,
        lr_scheduler_type=config.train.decay,
        warmup_steps=config.train.warmup_steps,
        weight_decay=config.train.weight_decay,
        max_grad_norm=config.train.max_grad_norm,
        loss_type=config.grpo.objective,
        epsilon=config.grpo.epsilon,
        scale_rewards=config.grpo.scale,
        reward_weights=[float(term.weight) for term in config.rubric.rewards],
        save_strategy="steps",
        save_steps=spec.every,
        use_cpu=True,
        seed=config.train.seed,
    )
    where = str(job.base_dir / config.model.name)
    clock = TrlClock()
    trainer = clock.trainer_class()(
        model=AutoModelForCausalLM.from_pretrained(where),
        reward_funcs=[_as_function(term) for term in job.rubric.terms],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(where),
        callbacks=[clock.callback()],
    )
    trainer.train()
    began = clock.steps[0]["began"]
    ends = [step["ended"] - began for step in clock.steps]
    found = {int(path.name.split("-")[1]): str(path) for path in run.glob("checkpoint-*")}
    return Trained(
        ends,
        clock.column("score"),
        clock.column("silent"),
        clock.column("mean_length"),
        dict(sorted(found.items())),
    )


def _as_function(term: Any) -> Callable[..., list[float | None]]:
    """One of our rewards as TRL takes it: a function, run where TRL runs it."""
    from grpo_core import Sample
    from grpo_core.rewards import as_score

    def judge(
        prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> list[float | None]:
        for extra in ("completion_ids", "trainer_state", "log_extra", "log_metric"):
            columns.pop(extra, None)
        values = []
        for n, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: column[n] for name, column in columns.items()}
            values.append(as_score(term.reward.score(Sample(prompt, completion, row))).value)
        return values

    judge.__name__ = term.name
    return judge


def evaluate(spec: Judging) -> list[dict[str, float]]:
    """A sampled completion at temperature 1 of every held-out prompt, judged: the share
    that `eval.pass` gives its maximum. The random numbers are the same for every checkpoint."""
    import torch

    from grpo_core import Scorer
    from grpo_core.cli.train import prepare
    from grpo_core.data import PromptTemplate
    from grpo_core.policy import load_policy
    from grpo_core.rewards import Sample
    from grpo_core.rollout import Sampling, draw

    job = prepare(Path(spec.config), spec.overrides)
    held_out = job.config.eval
    assert held_out is not None
    rows = job.eval_rows[: spec.limit]
    template = PromptTemplate(held_out.prompt or job.config.data.prompt)
    prompts = [template.fill(row) for row in rows]
    passing = held_out.pass_ or job.rubric.names[0]
    found = []
    with Scorer(job.rubric) as scorer:
        for checkpoint in spec.checkpoints:
            policy = load_policy(checkpoint, job.base_dir)
            completions = draw(
                policy,
                [policy.encode(prompt) for prompt in prompts],
                1,
                Sampling(job.config.rollout.max_tokens),
                torch.Generator().manual_seed(0),
            )
            samples = [
                Sample(
                    prompt,
                    policy.decode(completion.ids),
                    row,
                    group=n,
                    truncated=completion.truncated,
                    tags=job.rubric.tags,
                )
                for n, (prompt, row, completion) in enumerate(
                    zip(prompts, rows, completions, strict=True)
                )
            ]
            table = scorer.score(samples)
            right = sum(score.value == 1.0 for score in table.scores[passing])
            totals = [total for total in table.totals if total is not None]
            lengths = [len(completion.ids) for completion in completions]
            found.append(
                {
                    "accuracy": right / len(samples),
                    "n": len(samples),
                    "reward": sum(totals) / len(totals),
                    "mean_length": sum(lengths) / len(lengths),
                }
            )
    return found


def main() -> None:
    import torch

    given = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(given["threads"])
    training = "side" in given
    result = asdict(train(Training(**given))) if training else evaluate(Judging(**given))
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
