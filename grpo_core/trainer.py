"""The loop, top to bottom: draw completions, judge them, learn from the better ones.

What it leaves to others: what completions are worth (`rubric`, `scoring`), the
mathematics (`algorithm`), how text is drawn (`rollout`). One process: several
are refused for now.
"""

from __future__ import annotations

import copy
import math
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator

from grpo_core import checkpoint, data, metrics
from grpo_core.algorithm import OBJECTIVES, Objective, count, group_advantages, policy_loss
from grpo_core.config import Config, TrainConfig
from grpo_core.errors import ConfigError
from grpo_core.metrics import Metrics, RunFolder
from grpo_core.plugins import Host
from grpo_core.policy import Batch, Policy, load_policy, micro_batches, pad, token_logps
from grpo_core.rewards import Outcome, Sample, Text
from grpo_core.rollout import Completion, Sampling, draw
from grpo_core.rubric import Rubric, Table
from grpo_core.scoring import Scorer

T = TypeVar("T")


class TrainingStopped(Exception):
    """Training cannot go on; the message says why, the last checkpoint is intact."""


class Interrupted(Exception):
    """Ctrl-C: the step was finished and a checkpoint saved."""


class Watcher(Protocol):
    """Who is told what happens, for the terminal to show."""

    def phase(self, what: str, step: int) -> None: ...
    def step(self, line: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Rollout:
    """Drawn and judged completions; all lists have one entry a sample."""

    samples: list[Sample]
    prompt_ids: list[list[int]]
    completions: list[Completion]
    table: Table
    seconds: dict[str, list[float]]
    """By reward, what each verdict took."""


class Trainer:
    """Trains the config's model; `train()` runs it all.

    Raises ConfigError when the model, checkpoint or devices do not fit.
    """

    def __init__(
        self,
        config: Config,
        base_dir: Path,
        rubric: Rubric,
        rows: Sequence[data.Row],
        eval_rows: Sequence[data.Row],
        run: RunFolder,
        watcher: Watcher,
        host: Host,
        resume: Path | None = None,
    ) -> None:
        self.config, self.rubric, self.run, self.watcher = config, rubric, run, watcher
        self.rows, self.eval_rows, self.host = rows, eval_rows, host
        self.objective, self.draw = _objective(config, host), _backend(config, host)
        self.prompt = data.PromptTemplate(config.data.prompt)
        held_out = config.eval.prompt if config.eval else None
        self.eval_prompt = data.PromptTemplate(held_out or config.data.prompt)
        self.started, self.stop_asked, self.tokens, self.first_step = time.time(), False, 0, 1
        self.outcomes: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

        train = config.train
        self.accelerator = Accelerator(
            mixed_precision=_mixed_precision(train.precision),
            log_with=list(train.trackers) or None,
            project_dir=str(run.path),
        )
        if self.accelerator.num_processes > 1:
            raise ConfigError("training on several processes is not supported yet; start one")
        torch.manual_seed(train.seed)
        policy = load_policy(str(resume or config.model.name), base_dir, config.model.dtype)
        if train.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(
            policy.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
        )
        if resume is not None:
            checkpoint.restore(resume, optimizer)
            state = checkpoint.read_state(resume)
            self.first_step, self.tokens = state["step"] + 1, state["num_tokens"]
            self.outcomes.update(state["outcomes"])
            self.seconds.update(state["seconds"])
        self.model, self.optimizer = self.accelerator.prepare(policy.model, optimizer)
        self.policy = Policy(self.accelerator.unwrap_model(self.model), policy.tokenizer)
        self.device = self.accelerator.device
        self.reference = None
        if config.grpo.beta > 0:
            start = (
                load_policy(config.model.name, base_dir, config.model.dtype) if resume else policy
            )
            self.reference = copy.deepcopy(start.model).eval().requires_grad_(False).to(self.device)

    # --- the loop ---------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Evaluate, train, evaluate; returns what `summary.json` then holds.

        Raises Interrupted after Ctrl-C and TrainingStopped when rewards fail.
        """
        config, steps = self.config, self.config.train.steps
        if config.train.trackers:
            self.accelerator.init_trackers(self.run.path.name, config=_flat(config.model_dump()))
        summary = self.run.read_summary() if self.first_step > 1 else {}
        scoring = config.scoring
        with (
            Scorer(
                self.rubric,
                scoring.workers,
                memory_mb=scoring.memory_mb,
                executor=scoring.executor,
            ) as self.scorer,
            self._ctrl_c(),
        ):
            if "before" not in summary:
                summary["before"] = self.evaluate(0)
                self.run.write_summary(summary)
            for step in range(self.first_step, steps + 1):
                line = self.step(step)
                every = config.eval.every if config.eval else 0
                if every and step % every == 0 and step < steps:
                    line |= _prefixed("eval/", self.evaluate(step))
                if step == steps:
                    summary["after"] = self.evaluate(step)
                    line |= _prefixed("eval/", summary["after"])
                self.run.add_metrics(line)
                self.accelerator.log({k: v for k, v in line.items() if v is not None}, step=step)
                self.watcher.step(line)
                self._notify("on_step", step=step, metrics=line)
                save_every = config.train.save_every
                if step == steps or self.stop_asked or (save_every and step % save_every == 0):
                    self.save(step)
                if self.stop_asked and step < steps:
                    raise Interrupted(f"stopped after step {step}; its checkpoint is saved")
            if "after" not in summary:  # resumed when all steps were done
                summary["after"] = self.evaluate(steps)
        self.accelerator.end_training()
        summary["outcomes"] = _nested(self.outcomes)
        self.seconds["total"] += time.time() - self.started
        summary["seconds"] = {name: round(spent, 3) for name, spent in self.seconds.items()}
        self.run.write_summary(summary)
        return summary

    def step(self, step: int) -> dict[str, Any]:
        """One training step; returns its line of metrics."""
        started = time.perf_counter()
        line: dict[str, Any] = {"step": step, "epoch": step * self._prompts / len(self.rows)}
        rollout, advantages = self.rollout(step, line)
        line["learning_rate"] = learning_rate(self.config.train, step)
        for group in self.optimizer.param_groups:
            group["lr"] = line["learning_rate"]
        with self._timed("time/update", line):
            line |= self.update(rollout, advantages, step)
        line["num_tokens"] = self.tokens
        line["step_time"] = time.perf_counter() - started
        for name, spent in line.items():
            if name.startswith("time/"):
                self.seconds[name.removeprefix("time/")] += spent
        extra = {"advantage": advantages.tolist()}
        self._write_samples(f"step-{step:06d}", step, rollout, extra)
        return line

    @property
    def _prompts(self) -> int:
        return self.config.train.prompts_per_step

    def rollout(self, step: int, line: dict[str, Any]) -> tuple[Rollout, torch.Tensor]:
        """Draw a group for each of the step's prompts, judge it, compute advantages."""
        grpo, sampling = self.config.grpo, self.config.rollout
        picked = data.batches(self.rows, self._prompts, self.config.train.seed, step)
        how = Sampling(
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            batch_size=sampling.batch_size,
        )
        self.watcher.phase("drawing completions", step)
        rollout = self._draw(picked, self.prompt, grpo.group_size, how, step, line)
        table, completions = rollout.table, rollout.completions
        self._notify("on_samples", step=step, samples=rollout.samples, table=table)
        self._check_failures(table, step)
        advantages = group_advantages(
            torch.tensor(table.values, dtype=torch.float64),
            torch.tensor(self.rubric.weights(step), dtype=torch.float64),
            grpo.group_size,
            combine=self.rubric.combine,
            scale=grpo.scale,
        )
        line |= metrics.reward_metrics(table, grpo.group_size)
        truncated = [completion.truncated for completion in completions]
        line |= metrics.no_signal_metrics(table, truncated, self.rubric, grpo.group_size, step)
        lengths = [len(completion.ids) for completion in completions]
        line |= metrics.length_metrics(lengths, truncated)
        line["entropy"] = metrics.mean(e for c in completions for e in c.entropies)
        self.tokens += sum(lengths) + sum(map(len, rollout.prompt_ids))
        for name, value in line.items():
            if name.startswith("outcomes/") and name.count("/") == 2:
                self.outcomes[name.removeprefix("outcomes/")] += value
        return rollout, advantages

    def update(self, rollout: Rollout, advantages: torch.Tensor, step: int) -> Metrics:
        """`iterations` optimizer steps on one rollout.

        The first pass's log-probabilities are the old ones of the later passes.
        Samples that can change nothing (advantage 0, no KL) are left out of the
        passes, not out of the averages.
        """
        grpo, train = self.config.grpo, self.config.train
        learnt_from = [
            n
            for n, completion in enumerate(rollout.completions)
            if (advantages[n] != 0 or grpo.beta > 0)
            and not (grpo.mask_truncated and completion.truncated)
        ]
        counted = torch.zeros(())
        for completion in rollout.completions:
            dropped = grpo.mask_truncated and completion.truncated
            tokens = torch.full((1, len(completion.ids)), not dropped)
            counted = counted + count(self.objective, tokens)
        sizes = [len(rollout.prompt_ids[n]) + len(rollout.completions[n].ids) for n in learnt_from]
        batches = [
            [learnt_from[i] for i in batch]
            for batch in micro_batches(sizes, train.tokens_per_micro_batch)
        ]
        old: list[torch.Tensor] = []
        mean = _TokenMean()
        self.model.train()
        for iteration in range(grpo.iterations):
            self.watcher.phase(f"update {iteration + 1} of {grpo.iterations}", step)
            for which, rows in enumerate(batches):
                batch = self._pad(rollout, rows)
                logp = self._logps(self.model, batch)
                if iteration == 0:
                    old.append(logp.detach())
                    drawn = _drawn_logps(rollout, rows, batch)
                    mean.add("sampling/logp_difference", (logp.detach() - drawn).abs(), batch.mask)
                loss = policy_loss(
                    logp,
                    old[which],
                    advantages[rows].to(logp),
                    batch.mask,
                    objective=self.objective,
                    epsilon=grpo.epsilon,
                    epsilon_high=grpo.epsilon_high,
                    delta=grpo.delta,
                    level=grpo.level,
                    ref_logp=self._reference_logps(batch),
                    beta=grpo.beta,
                    kl_bias_correction=grpo.kl_bias_correction,
                    max_completion_length=self.config.rollout.max_tokens,
                    normalizer=counted,
                )
                self.accelerator.backward(loss.value)
                mean.total("loss", float(loss.value.detach()) / grpo.iterations)
                for name, value in loss.metrics.items():
                    mean.add(name, value.expand_as(batch.mask), batch.mask)
            if batches:  # a step without any signal changes nothing
                norm = self.accelerator.clip_grad_norm_(
                    self.model.parameters(), train.max_grad_norm
                )
                mean.total("grad_norm", float(norm) / grpo.iterations)
                self.optimizer.step()
                self.optimizer.zero_grad()
        clips = [f"clip_ratio/{side}_mean" for side in ("low", "high", "region")]
        return (
            {"loss": 0.0, "grad_norm": 0.0, "kl": None} | dict.fromkeys(clips, 0.0) | mean.means()
        )

    def evaluate(self, step: int) -> dict[str, Any]:
        """Judge completions of the held-out prompts: one sampled at temperature 1,
        one greedy. Nothing without `eval`."""
        if self.config.eval is None:
            return {}
        name = self.config.eval.pass_ or self.rubric.names[0]
        best = next(t.reward.range[1] for t in self.rubric.terms if t.name == name)
        best = 1.0 if math.isinf(best) else best  # a plain function states no range
        sampling = self.config.rollout
        found: dict[str, Any] = {"step": step}
        started = time.perf_counter()
        for mode in ("sampled", "greedy"):
            self.watcher.phase(f"evaluating, {mode}", step)
            how = Sampling(
                sampling.max_tokens, greedy=mode == "greedy", batch_size=sampling.batch_size
            )
            rollout = self._draw(
                list(enumerate(self.eval_rows)), self.eval_prompt, 1, how, step, {}, salt=1
            )
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
            self._write_samples(f"eval-{step:06d}-{mode}", step, rollout, {"mode": [mode] * n})
        self.seconds["evaluate"] += time.perf_counter() - started
        return found

    def save(self, step: int) -> Path:
        """Write a checkpoint from which `--resume` goes on exactly."""
        seconds = dict(self.seconds) | {"total": self.seconds["total"] + time.time() - self.started}
        return checkpoint.save(
            self.run.checkpoints_path,
            step,
            self.policy,
            self.optimizer,
            {"num_tokens": self.tokens, "outcomes": dict(self.outcomes), "seconds": seconds},
            self.config.train.keep,
        )

    # --- parts ------------------------------------------------------------------

    def _draw(
        self,
        picked: Sequence[tuple[int, data.Row]],
        template: data.PromptTemplate,
        group_size: int,
        how: Sampling,
        step: int,
        line: dict[str, Any],
        salt: int = 0,
    ) -> Rollout:
        """Completions of each row's prompt, judged as they are finished.

        Random numbers depend on seed, step and `salt` alone. `line` gets the times:
        `time/score` is what judging took, `time/score_hidden` the part of it during
        which completions were still being drawn.
        """
        seed = random.Random(f"{self.config.train.seed}/{step}/{salt}").getrandbits(63)
        generator = torch.Generator(self.device).manual_seed(seed)
        prompts = [template.fill(row) for _, row in picked]
        encoded = [self.policy.encode(prompt) for prompt in prompts]
        opened = f"<{self.rubric.tags.think}>"
        prefilled = [self.policy.render(p).rstrip().endswith(opened) for p in prompts]
        samples: dict[int, Sample] = {}  # in the order in which they are finished
        missing = Counter({group: group_size for group in range(len(picked))})
        batch = self.scorer.batch(step)

        def judge(n: int, completion: Completion) -> None:
            group, index = divmod(n, group_size)
            text = self.policy.decode(completion.ids)
            chat: Text = text if isinstance(prompts[group], str) else [_assistant(text)]
            samples[n] = Sample(
                prompts[group],
                chat,
                picked[group][1],
                group=group,
                index=index,
                truncated=completion.truncated,
                id=f"{picked[group][0]}-{index}",
                completion_ids=completion.ids,
                tags=self.rubric.tags,
                prefilled=prefilled[group],
            )
            batch.add(samples[n])
            missing[group] -= 1
            if not missing[group]:
                batch.close_group(group)

        try:
            with self._timed("time/rollout", line):
                completions = self.draw(self.policy, encoded, group_size, how, generator, judge)
            self.watcher.phase("scoring", step)
            waited = time.perf_counter()
            finished = batch.result()
        except BaseException:
            batch.cancel()
            raise
        waited = time.perf_counter() - waited
        timings = batch.timings()
        judged = sum(timings.total_s.values()) / self.scorer.workers
        line["time/score"] = max(waited, judged)
        line["time/score_hidden"] = line["time/score"] - waited
        if waited > 1:  # somebody may want to know whom for
            slowest = "; ".join(map(str, timings.slowest[:3]))
            self.watcher.say(f"step {step}: waited {waited:.1f} s for scores. Slowest: {slowest}")

        place = {n: row for row, n in enumerate(samples)}

        def in_order(column: Sequence[T]) -> list[T]:
            return [column[place[n]] for n in range(len(completions))]

        ordered = [samples[n] for n in range(len(completions))]
        scores = {name: in_order(column) for name, column in finished.scores.items()}
        return Rollout(
            ordered,
            [encoded[n // group_size] for n in range(len(completions))],
            completions,
            self.rubric.table(ordered, scores, step),
            {name: in_order(column) for name, column in timings.seconds.items()},
        )

    def _pad(self, rollout: Rollout, rows: Sequence[int]) -> Batch:
        return pad(
            [rollout.prompt_ids[n] for n in rows],
            [rollout.completions[n].ids for n in rows],
            self.policy.pad_id,
            self.device,
        )

    def _logps(self, model: Any, batch: Batch) -> torch.Tensor:
        return token_logps(
            model,
            batch.ids,
            batch.attention,
            batch.mask.shape[1],
            self.config.rollout.temperature,
        )

    def _reference_logps(self, batch: Batch) -> torch.Tensor | None:
        if self.reference is None:
            return None
        with torch.no_grad(), self.accelerator.autocast():
            return self._logps(self.reference, batch)

    def _notify(self, hook: str, **arguments: Any) -> None:
        for complaint in self.host.notify(hook, **arguments):
            self.watcher.say(complaint)

    def _check_failures(self, table: Table, step: int) -> None:
        """The circuit breaker: stop rather than learn from what is left."""
        judged = [s for scores in table.scores.values() for s in scores]
        judged = [s for s in judged if s.outcome is not Outcome.abstained]
        failed = [s for s in judged if s.outcome in (Outcome.error, Outcome.invalid)]
        if judged and len(failed) > self.config.train.max_failures * len(judged):
            reasons = Counter(f"{s.outcome.value}: {s.reason}" for s in failed).most_common(3)
            listed = "; ".join(f"{number}x {reason}" for reason, number in reasons)
            raise TrainingStopped(
                f"step {step}: {len(failed)} of {len(judged)} scores failed ({listed}). "
                "The last checkpoint is intact; train.max_failures sets the limit"
            )

    def _write_samples(
        self, name: str, step: int, rollout: Rollout, extra: dict[str, list[Any]]
    ) -> None:
        prompts = [self.policy.render(sample.prompt) for sample in rollout.samples]
        extra = {
            "step": [step] * len(prompts),
            "tokens": [len(completion.ids) for completion in rollout.completions],
            **extra,
        }
        rows = metrics.sample_rows(rollout.samples, rollout.table, rollout.seconds, prompts, extra)
        self.run.add_samples(name, rows)

    @contextmanager
    def _timed(self, name: str, line: dict[str, Any]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        line[name] = time.perf_counter() - started

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """First Ctrl-C: finish the step and save. Second: stop at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_: object) -> None:
            if self.stop_asked:
                raise KeyboardInterrupt
            self.stop_asked = True
            self.watcher.say("Ctrl-C: finishing this step, then saving (again: stop at once)")

        previous = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class _TokenMean:
    """Means over all completion tokens of a step, and plain sums."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float((values * mask).sum())
        self._counts[name] += int(mask.sum())

    def total(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float | int | None]:
        return {name: value / (self._counts[name] or 1) for name, value in self._sums.items()}


def _drawn_logps(rollout: Rollout, rows: Sequence[int], batch: Batch) -> torch.Tensor:
    drawn = torch.zeros(batch.mask.shape)
    for i, n in enumerate(rows):
        logps = rollout.completions[n].logps
        drawn[i, : len(logps)] = torch.tensor(logps)
    return drawn.to(batch.mask.device)


def learning_rate(train: TrainConfig, step: int) -> float:
    """Of a step (from 1): warm-up, then constant, or down to zero after the last step."""
    if step <= train.warmup_steps:
        return train.learning_rate * step / train.warmup_steps
    left = (train.steps - step + 1) / (train.steps - train.warmup_steps)
    if train.decay == "linear":
        return train.learning_rate * left
    if train.decay == "cosine":
        return train.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
    return train.learning_rate


def _objective(config: Config, host: Host) -> Objective:
    name = config.grpo.objective
    return OBJECTIVES[name] if name in OBJECTIVES else host.objectives[name]()


def _backend(config: Config, host: Host) -> Callable[..., list[Completion]]:
    name = config.rollout.backend
    return draw if name is None else host.rollouts[name]()


def _mixed_precision(precision: str) -> str:
    if precision == "auto":
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if fast else "no"
    return {"float32": "no", "bfloat16": "bf16"}[precision]


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in values.items() if name != "step"}


def _nested(counter: Counter[str]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for key, number in counter.items():
        name, _, outcome = key.rpartition("/")
        nested.setdefault(name, {})[outcome] = number
    return nested


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as trackers take it: dotted keys, plain values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str, bool)):
            flat[f"{prefix}{key}"] = value
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
