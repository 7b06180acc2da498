"""The loop, top to bottom: draw completions, judge them, learn from the better ones.

What it leaves to others: drawing and judging (`collect`), what completions are
worth (`rubric`, `scoring`), the update (`update`, `passes`, `algorithm`),
held-out figures (`evaluation`). Of several ranks (`distributed`) each draws and judges
its groups and makes its passes; rank 0 alone writes and shows.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType

from grpo_core import checkpoint, credit, data, metrics
from grpo_core.algorithm import OBJECTIVES
from grpo_core.collect import Collector, Rollout
from grpo_core.config import Config, flat
from grpo_core.distributed import ALONE, Muted, Ranks, Watcher, sharding
from grpo_core.errors import ConfigError
from grpo_core.evaluation import evaluate
from grpo_core.metrics import RunFolder
from grpo_core.onednn import bound_programs
from grpo_core.passes import self_check
from grpo_core.plugins import Host
from grpo_core.policy import Policy, load_model, load_policy
from grpo_core.rollout.choice import backend_of, sampling_of
from grpo_core.rubric import Rubric
from grpo_core.scoring import Scorer
from grpo_core.stopping import Interrupted, StopRequest, check_failures, check_finite
from grpo_core.update import Learner, Reference, learning_rate


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
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.rubric, self.run, self.ranks = config, rubric, run, ranks
        self.watcher = watcher = watcher if ranks.world == 1 else Muted(watcher, ranks)
        self.rows, self.eval_rows, self.host = rows, eval_rows, host
        self.prompt = data.PromptTemplate(config.data.prompt)
        held_out = config.eval.prompt if config.eval else None
        self.eval_prompt = data.PromptTemplate(held_out or config.data.prompt)
        self.sampling = sampling_of(config)
        self.started, self.tokens, self.first_step = time.time(), 0, 1
        self.stop = StopRequest(watcher.say)
        self.before: dict[str, Any] | None = None
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: defaultdict[str, float] = defaultdict(float)

        train, engine = config.train, config.engine
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=_mixed_precision(train.precision),
            log_with=list(train.trackers) or None,
            project_dir=str(run.path),
        )
        if self.accelerator.num_processes != ranks.world:
            raise ConfigError("several processes are started by `grpo train` under a launcher")
        sharding.before_loading(self.accelerator)
        bound_programs()
        torch.manual_seed(train.seed)
        policy = load_policy(
            config.model.name,
            base_dir,
            config.model.dtype,
            attention=config.model.attention,
            lora=config.model.lora,
            checkpoint=resume,
        )
        policy.model.to(self.accelerator.device)
        if train.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        passes, remarks = self_check(
            policy.model,
            pad_id=policy.pad_id,
            form=engine.shared_prompt,
            fused_head=engine.fused_head,
            temperature=config.rollout.temperature,
        )
        for remark in remarks:
            watcher.say(remark)
        self.reference = Reference(passes) if config.grpo.beta > 0 else None
        if self.reference and resume and not config.model.lora:  # not the checkpoint's policy
            kept = checkpoint.reference_folder(resume)
            start = load_model(str(kept or config.model.name), base_dir, config.model.dtype)
            self.reference.become(start)
        sharding.shard(passes, self.accelerator, ranks.world)
        if self.reference and self.reference.passes is not passes:
            sharding.shard(self.reference.passes, self.accelerator, ranks.world)
        optimizer = torch.optim.AdamW(
            [p for p in passes.parameters() if p.requires_grad],
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            fused=True,
        )
        if resume is not None:
            self._restore(resume, optimizer)
        if train.compile:
            passes.compile(dynamic=True)
        self.passes, self.optimizer = sharding.prepare(self.accelerator, passes, optimizer)
        self.policy = Policy(self.accelerator.unwrap_model(self.passes).model, policy.tokenizer)
        if ranks.watch is not None:
            self.policy.model.register_forward_hook(lambda *_: ranks.tick())
        name = config.grpo.objective
        self.learner = Learner(
            config,
            self.passes,
            self.optimizer,
            OBJECTIVES[name] if name in OBJECTIVES else host.objectives[name](),
            self.reference,
            self.accelerator,
            ranks,
        )

    # --- the loop ---------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Evaluate, train, evaluate; returns what `summary.json` then holds.

        Raises Interrupted after Ctrl-C or SIGTERM, and TrainingStopped when rewards fail.
        """
        config, steps, scoring = self.config, self.config.train.steps, self.config.scoring
        if config.train.trackers:
            self.accelerator.init_trackers(self.run.path.name, config=flat(config.model_dump()))
        summary = self.run.read_summary() if self.first_step > 1 else {}
        summary = self.ranks.gather(summary)[0]
        workers = scoring.workers
        if workers is None and self.ranks.local_world > 1:  # they share the machine's cores
            workers = max(1, (os.cpu_count() or 1) // self.ranks.local_world)
        scorer = Scorer(
            self.rubric, workers, memory_mb=scoring.memory_mb, executor=scoring.executor
        )
        with scorer, self.stop:
            self.collector = Collector(
                self.policy,
                backend_of(config, self.host, self.run.path / "weights", self.watcher.say),
                scorer,
                self.rubric,
                config.train.seed,
                self.watcher,
                self.ranks,
                self._drawing,
            )
            self._sync()
            if self.before is None:
                self.before = self.evaluate(0)
            summary["before"] = self.before
            self._once(lambda: self.run.write_summary(summary))
            if asked := self._asked_to_stop():
                raise Interrupted("stopped before the first step", asked)
            for step in range(self.first_step, steps + 1):
                line = self.step(step)
                every = config.eval.every if config.eval else 0
                if step == steps or (every and step % every == 0):
                    summary["after"] = found = self.evaluate(step)
                    line |= {f"eval/{name}": found[name] for name in found if name != "step"}
                self._once(partial(self.run.add_metrics, line))
                self.accelerator.log({k: v for k, v in line.items() if v is not None}, step=step)
                self.watcher.step(line)
                self._notify("on_step", step=step, metrics=line)
                save_every = config.train.save_every
                asked = self._asked_to_stop()
                if step == steps or asked or (save_every and step % save_every == 0):
                    self.save(step)
                if asked and step < steps:
                    raise Interrupted(f"stopped after step {step}; its checkpoint is saved", asked)
            if "after" not in summary:  # resumed when all steps were done
                summary["after"] = self.evaluate(steps)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        summary["outcomes"] = self.outcomes
        self.seconds["total"] += time.time() - self.started
        summary["seconds"] = {name: round(spent, 3) for name, spent in self.seconds.items()}
        self._once(lambda: self.run.write_summary(summary))
        return summary

    def step(self, step: int) -> dict[str, Any]:
        """One training step; returns its line of metrics."""
        started = time.perf_counter()
        config = self.config
        seen = step * config.train.prompts_per_step
        line: dict[str, Any] = {"step": step, "epoch": seen / len(self.rows)}
        rollout = self.rollout(step, line)
        self._notify("on_samples", step=step, samples=rollout.samples, table=rollout.table)
        advantages = credit.advantages(
            rollout, self.rubric, config.grpo.scale, self.policy.decode, step
        )
        line["learning_rate"] = learning_rate(config.train, step)
        for group in self.optimizer.param_groups:
            group["lr"] = line["learning_rate"]
        self.watcher.phase("updating", step)
        updating = time.perf_counter()
        line |= self.learner.update(rollout, advantages)
        check_finite(line, step)
        every = config.grpo.sync_reference_every
        if self.reference is not None and every and step % every == 0:
            self.reference.become(self.policy.model)
        line["time/update"] = time.perf_counter() - updating
        line |= self._sync()
        line["num_tokens"] = self.tokens
        line["step_time"] = time.perf_counter() - started
        for name, spent in line.items():
            if name.startswith("time/"):
                self.seconds[name.removeprefix("time/")] += spent
        taught = credit.a_sample(advantages, rollout).tolist()
        self._write_samples(f"step-{step:06d}", step, rollout, advantage=taught)
        return line

    def rollout(self, step: int, line: dict[str, Any]) -> Rollout:
        """A judged group for each of the step's prompts. Groups without signal are
        replaced by fresh prompts in up to `dynamic_sampling` rounds (DAPO, arXiv
        2503.14476, section 3.2); they stay in the samples and in the counts."""
        seed, grpo = self.config.train.seed, self.config.grpo
        picked = data.batches(self.rows, self.config.train.prompts_per_step, seed, step)
        self.watcher.phase("drawing completions", step)
        rollout = self._collect(picked, step, 0, line)
        replaced = 0
        for again in range(1, grpo.dynamic_sampling + 1):
            silent = metrics.silent_groups(rollout.table, grpo.group_size)
            if not silent:
                break
            self.watcher.phase(f"replacing {len(silent)} groups without signal", step)
            fresh = data.extra(self.rows, len(silent), seed, step, again)
            more = self._collect(fresh, step, again + 1, line)
            self._write_samples(f"step-{step:06d}-replaced-{again}", step, rollout.take(silent))
            rollout = rollout.replace(silent, more)
            replaced += len(silent)
        if grpo.dynamic_sampling:
            line["sampling/replaced_groups"] = replaced
        completions = rollout.completions
        truncated = [completion.truncated for completion in completions]
        line |= metrics.reward_metrics(rollout.table, grpo.group_size)
        line |= metrics.no_signal_metrics(
            rollout.table, truncated, self.rubric, grpo.group_size, step
        )
        line |= metrics.length_metrics([len(c.ids) for c in completions], truncated)
        line["entropy"] = metrics.mean(e for c in completions for e in c.entropies)
        return rollout

    def evaluate(self, step: int) -> dict[str, Any]:
        """Held-out figures; nothing without `eval`."""
        if self.config.eval is None:
            return {}
        started = time.perf_counter()
        found, rollouts = evaluate(
            self.collector,
            self.eval_rows,
            self.eval_prompt,
            self.config.eval.pass_,
            self.sampling,
            step,
        )
        for mode, rollout in rollouts.items():
            modes = [mode] * len(rollout.samples)
            self._write_samples(f"eval-{step:06d}-{mode}", step, rollout, mode=modes)
        self.seconds["evaluate"] += time.perf_counter() - started
        return found

    def save(self, step: int) -> None:
        """Write a checkpoint from which `--resume` goes on exactly."""
        seconds = dict(self.seconds) | {"total": self.seconds["total"] + time.time() - self.started}
        state = {
            "num_tokens": self.tokens,
            "outcomes": self.outcomes,
            "seconds": seconds,
            "before": self.before,
        }
        reference = None
        if self.reference and self.config.grpo.sync_reference_every:
            reference = sharding.whole_model(self.reference.passes.model)
        policy = sharding.whole_policy(self.policy, self.passes, self.accelerator)
        optimizer = sharding.whole_optimizer(self.optimizer, self.accelerator)
        self._once(
            lambda: checkpoint.save(
                self.run.checkpoints_path,
                step,
                policy,
                optimizer,
                state,
                self.config.train.keep,
                say=self.watcher.say,
                reference=reference,
            )
        )
        self.ranks.gather(None)  # the others wait here, where waiting may take any time

    # --- parts ------------------------------------------------------------------

    def _restore(self, path: Path, optimizer: torch.optim.Optimizer) -> None:
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ConfigError("a run under DeepSpeed keeps no optimizer state and cannot go on")
        checkpoint.restore(path, sharding.Loading(optimizer))
        state = checkpoint.read_state(path)
        self.first_step, self.tokens = state["step"] + 1, state["num_tokens"]
        for name, counts in state["outcomes"].items():
            self.outcomes[name].update(counts)
        self.seconds.update(state["seconds"])
        self.before = state["before"]

    def _collect(
        self, picked: Sequence[tuple[int, data.Row]], step: int, salt: int, line: dict[str, Any]
    ) -> Rollout:
        """Draw and judge, count what happened, and stop when most of it failed."""
        rollout = self.collector.collect(
            picked, self.prompt, self.config.grpo.group_size, self.sampling, step, salt
        )
        for name, spent in rollout.times.items():
            line[name] = line.get(name, 0.0) + spent
        self.tokens += sum(len(c.ids) for c in rollout.completions)
        self.tokens += sum(map(len, rollout.prompt_ids))
        for name, scores in rollout.table.scores.items():
            self.outcomes[name].update(score.outcome.value for score in scores)
        check_failures(rollout.table, self.config.train.max_failures, step)
        return rollout

    def _once(self, write: Callable[[], object]) -> None:
        """Write something, on rank 0 alone, however long a full disk takes."""
        if self.ranks.main:
            with self.ranks.busy("writing"):
                write()

    def _drawing(self) -> contextlib.AbstractContextManager[None]:
        """Around drawing: whole weights, or patience with a server that has its own."""
        if hasattr(self.collector.draw, "sync"):
            return self.ranks.busy("drawing")
        return sharding.gathered(self.passes, self.accelerator)

    def _sync(self) -> dict[str, float]:
        """Give the weights to a backend that keeps a copy of its own (it has a `sync`)."""
        sync = getattr(self.collector.draw, "sync", None)
        if sync is None:
            return {}
        started = time.perf_counter()
        whole = sharding.whole_policy(self.policy, self.passes, self.accelerator)
        with self.ranks.busy("sending weights"):
            sync(whole, main=self.ranks.main)
        self.ranks.gather(None)  # nobody draws before the server has them
        return {"time/sync": time.perf_counter() - started}

    def _notify(self, hook: str, **arguments: Any) -> None:
        if not self.ranks.main:
            return
        for complaint in self.host.notify(hook, **arguments):
            self.watcher.say(complaint)

    def _write_samples(self, name: str, step: int, rollout: Rollout, **more: list[Any]) -> None:
        if not self.ranks.main:
            return
        prompts = [self.policy.render(sample.prompt) for sample in rollout.samples]
        tokens = [len(completion.ids) for completion in rollout.completions]
        extra = {"step": [step] * len(prompts), "tokens": tokens, **more}
        rows = metrics.sample_rows(rollout.samples, rollout.table, rollout.seconds, prompts, extra)
        self._once(lambda: self.run.add_samples(name, rows))

    def _asked_to_stop(self) -> int | None:
        """The signal, if any rank got one; all ranks hear the same."""
        return next(filter(None, self.ranks.gather(self.stop.signal)), None)


def _mixed_precision(precision: str) -> str:
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if precision == "bfloat16" or (precision == "auto" and fast) else "no"
