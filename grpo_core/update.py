"""Learning from one rollout: passes, loss, optimizer steps.

What a pass looks like inside is `passes`, the loss `algorithm`. Random numbers
are not needed here; nothing is read or written.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grpo_core import heap
from grpo_core.algorithm import (
    Objective,
    count,
    entropy_bonus,
    high_entropy_mask,
    mismatch_weights,
    policy_loss,
)
from grpo_core.collect import Rollout
from grpo_core.config import Config, TrainConfig
from grpo_core.distributed import ALONE, Ranks
from grpo_core.distributed.sharding import clip_grad_norm, sharded
from grpo_core.errors import ConfigError
from grpo_core.metrics import Metrics
from grpo_core.passes import Group, Passes, TokenLogps, deal, default_budget, micro_batches

PerToken = Float[Tensor, "batch time"]


class Turn(NamedTuple):
    """One pass of this rank."""

    samples: list[int]
    """By their numbers in the rollout, in the order of the pass."""
    groups: list[Group]
    counts: bool
    """False for one that is made only because other ranks still have a pass to make."""
    divisor: Tensor
    """Of its loss: sequences or tokens of all groups that one optimizer step learns from."""
    tokens: Tensor
    """Of these groups, those that are learnt from."""


class Reference:
    """The frozen policy that KL is measured against.

    A copy, or the policy itself without its LoRA adapters.
    """

    def __init__(self, passes: Passes) -> None:
        self.adapters_off: Callable[[], Any] | None = getattr(passes.model, "disable_adapter", None)
        self.passes = passes if self.adapters_off else copy.deepcopy(passes)
        if not self.adapters_off:
            self.passes.eval().requires_grad_(False)

    @torch.no_grad()
    def logps(self, groups: Sequence[Group]) -> PerToken:
        with self.adapters_off() if self.adapters_off else contextlib.nullcontext():
            logp: PerToken = self.passes(groups).logp
        return logp

    @torch.no_grad()
    def become(self, model: Any) -> None:
        """Take over a model's weights; the policy's in DeepSeekMath's iterative GRPO."""
        for mine, theirs in zip(self.passes.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)


@dataclass
class Learner:
    """Improves the policy inside `passes` (as prepared by the accelerator).

    Every rank holds the whole rollout and computes what is global of it (counts,
    thresholds) by itself; only the passes are divided. Their gradients are averaged over
    the ranks, so each loss is multiplied by the number of ranks.
    """

    config: Config
    passes: Any
    optimizer: Any
    objective: Objective
    reference: Reference | None
    accelerator: Accelerator
    ranks: Ranks = ALONE

    def update(self, rollout: Rollout, advantages: Tensor) -> Metrics:
        """`iterations` x `minibatches` optimizer steps on one rollout.

        `advantages` is [batch] or [batch, time], a row a sample. Old
        log-probabilities are those of the first visit, as long as nothing has been
        learnt from the rollout by then; after that the sampler's. Where the sampler is
        another program they are the trainer's own throughout, which takes passes without
        gradient before the first of several steps. Samples that can change nothing are
        left out of the passes, not out of the averages.
        """
        grpo = self.config.grpo
        visit = _Visit(self, rollout, advantages)
        groups = len(rollout.completions) // grpo.group_size
        parts = [range(i, groups, grpo.minibatches) for i in range(grpo.minibatches)]
        moves = visit.moves.view(groups, grpo.group_size).any(1)
        steps = [visit.turns_of(part) for part in parts if moves[list(part)].any()]
        # As drawing was: some models drop layers or route at random in the other mode, which
        # gradient checkpointing alone needs.
        self.passes.train(self.config.train.gradient_checkpointing)
        visit.look(steps)
        norms: list[float] = []
        for turns in steps * grpo.iterations:
            for number, turn in enumerate(turns, 1):
                with self._accumulating(last=number == len(turns)):
                    self.accelerator.backward(visit.loss(turn) * self.ranks.world)
                self.ranks.tick()
            limit = self.config.train.max_grad_norm
            norms.append(clip_grad_norm(self.accelerator, self.passes, limit))
            self.optimizer.step()
            self.optimizer.zero_grad()
            visit.before = False
        heap.give_back()
        empty: Metrics = {"loss": 0.0, "grad_norm": 0.0, "kl": None}
        clips = [f"clip_ratio/{side}_mean" for side in ("low", "high", "region")]
        found = _means(chain.from_iterable(self.ranks.gather(visit.seen)))
        if norms:
            found["grad_norm"] = sum(norms) / visit.updates
        return empty | dict.fromkeys(clips, 0.0) | found

    def _accumulating(self, last: bool) -> Any:
        self.accelerator.sync_gradients = last  # DeepSpeed steps behind the last one
        if last or sharded(self.passes):  # whole gradients are what sharding avoids
            return contextlib.nullcontext()
        return self.accelerator.no_sync(self.passes)


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


class _Visit:
    """One rollout while it is being learnt from.

    What is known of its tokens are tensors of a row a sample, 0 behind its last token.
    """

    def __init__(self, learner: Learner, rollout: Rollout, advantages: Tensor) -> None:
        self.learner, self.rollout = learner, rollout
        self.config, self.grpo = learner.config, learner.config.grpo
        completions = rollout.completions
        self.lengths = [len(c.ids) for c in completions]
        self.old = _padded([c.logps for c in completions])
        """Log-probabilities: the sampler's, until those of the trainer are kept."""
        self.ref = torch.zeros_like(self.old)
        dropped = torch.tensor([self.grpo.mask_truncated and c.truncated for c in completions])
        lengths = torch.tensor(self.lengths).masked_fill(dropped, 0)
        self.keep = torch.arange(self.old.shape[1]) < lengths.unsqueeze(1)
        self.chosen = self._chosen()
        self.weights = self.chosen.double()
        self.advantages = advantages
        if advantages.dim() == 1:
            self.advantages = advantages.unsqueeze(1).expand_as(self.old)
        moves = (self.advantages != 0) | (self.grpo.beta > 0) | (self.grpo.entropy_coef != 0)
        self.moves = (self.keep & moves).any(1)
        """Samples that can change something."""
        self.teaches = self.moves | (not self.config.engine.skip_silent)
        self.before = True
        """Whether the policy's own log-probabilities of before the first step are yet to be kept."""
        self.updates = self.grpo.iterations * self.grpo.minibatches
        self.seen: list[tuple[str, float, int]] = []
        """Of metrics: a name, a sum or an extreme, and the number of tokens, 0 for a plain sum."""

    def turns_of(self, part: Sequence[int]) -> list[Turn]:
        """The passes of this rank over some groups, as many as of every other rank."""
        size, ranks = self.grpo.group_size, self.learner.ranks
        prompts, completions = self.rollout.prompt_ids, self.rollout.completions
        groups = {g: range(g * size, (g + 1) * size) for g in part}
        all_ = [n for samples in groups.values() for n in samples]
        divisor = count(self.learner.objective, self.keep[all_])
        tokens = self.chosen[all_].sum()
        teaching = {g: [n for n in ns if self.teaches[n]] for g, ns in groups.items()}
        sizes = {
            g: len(prompts[samples[0]]) + sum(self.lengths[n] for n in samples)
            for g, samples in teaching.items()
            if samples
        }
        dealt = [self._batches([teaching[g] for g in share]) for share in deal(sizes, ranks.world)]
        batches = [(batch, True) for batch in dealt[ranks.rank]]
        if most := max(map(len, dealt)):
            # of the rank with least to do, the last pass: the shortest
            filler = min(filter(None, dealt), key=len)[-1]
            batches += [(filler, False)] * (most - len(batches))
        return [
            Turn(
                [n for samples in batch for n in samples],
                [Group(prompts[ns[0]], [completions[n].ids for n in ns]) for ns in batch],
                counts,
                divisor,
                tokens,
            )
            for batch, counts in batches
        ]

    def _batches(self, chosen: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """Some samples of some groups, cut into passes."""
        inner = self.learner.accelerator.unwrap_model(self.learner.passes)
        prompts = [len(self.rollout.prompt_ids[samples[0]]) for samples in chosen]
        budget = default_budget(self.learner.accelerator.device.type, max(prompts, default=0))
        batches = micro_batches(
            prompts,
            [[self.lengths[n] for n in samples] for samples in chosen],
            self.config.train.tokens_per_micro_batch or budget,
            inner.form,
            hidden_size=getattr(inner.model.config.get_text_config(), "hidden_size", 1024),
            sort=self.config.engine.sort_by_length,
        )
        return [[[chosen[g][i] for i in indices] for g, indices in batch] for batch in batches]

    @torch.no_grad()
    def look(self, steps: Sequence[Sequence[Turn]]) -> None:
        """Take what is asked of the policy from before the first step: the reference's
        log-probabilities, and the trainer's own as the old ones where there are several steps
        and the sampler's cannot stand in for them."""
        reference = self.learner.reference
        foreign = self.config.rollout.corrects or bool(self.old.isnan().any())
        own = self.updates > 1 and foreign
        for turn in chain.from_iterable(steps):
            if reference is not None:
                with self.learner.accelerator.autocast():
                    fresh = reference.logps(turn.groups)
                self.ref[turn.samples, : fresh.shape[1]] = fresh.to(self.ref)
            if own:
                read: TokenLogps = self.learner.passes(turn.groups)
                if turn.counts:
                    self._keep(turn, read.logp, read.mask)
            self.learner.ranks.tick()
        self.before = not own

    def loss(self, turn: Turn) -> Float[Tensor, ""]:
        """The share of one pass in the loss of its part; 0 of one that does not count."""
        grpo = self.grpo
        read: TokenLogps = self.learner.passes(turn.groups, entropy=grpo.entropy_coef != 0)
        logp, mask = read.logp, read.mask
        if not turn.counts:
            return logp.sum() * 0.0
        if self.before:
            self._keep(turn, logp.detach(), mask)
        kept = (self.old, self.ref, self.advantages, self.keep, self.chosen, self.weights)
        old, ref, advantages, keep, chosen, weights = (
            each[turn.samples, : logp.shape[1]].to(logp) for each in kept
        )
        loss = policy_loss(
            logp,
            old,
            advantages,
            keep,
            objective=self.learner.objective,
            epsilon=grpo.epsilon,
            epsilon_high=grpo.epsilon_high,
            delta=grpo.delta,
            level=grpo.level,
            ref_logp=ref,
            beta=grpo.beta,
            kl=grpo.kl,
            kl_bias_correction=grpo.kl_bias_correction,
            token_weights=weights,
            max_completion_length=self.config.rollout.max_tokens,
            normalizer=turn.divisor,
        )
        value = loss.value
        if read.entropy is not None:
            value = value - grpo.entropy_coef * entropy_bonus(read.entropy, chosen, turn.tokens)
        self.seen.append(("loss", float(value.detach()) / self.updates, 0))
        for name, each in loss.metrics.items():
            self._see(name, each.expand_as(mask), keep != 0)
        return value

    def _keep(self, turn: Turn, logp: Tensor, mask: Tensor) -> None:
        """Keep samples' own log-probabilities of before the first step as the old ones, and
        measure how far the sampler's are from them; once a sample."""
        place = (turn.samples, slice(logp.shape[1]))
        drawn = self.old[place].to(logp)
        known = mask & ~drawn.isnan()
        difference = torch.where(known, logp - drawn, 0.0)
        for what in ("mean", "max"):
            self._see(f"sampling/sampling_logp_difference/{what}", difference.abs(), known)
        self._see("sampling/kl", difference.expm1() - difference, known)
        if self.config.rollout.corrects and self.grpo.objective == "vespo":
            logp = torch.where(known, drawn, logp)  # it weighs by that ratio itself
        elif self.config.rollout.corrects:
            how = self.config.rollout.correction
            ratios = mismatch_weights(
                logp,
                drawn,
                mask,
                level=how.level,
                how="mask" if how.how == "mask" else "truncate",
                cap=how.cap,
                floor=how.floor,
            )
            for what in ("mean", "min", "max"):
                self._see(f"sampling/importance_sampling_ratio/{what}", ratios, known)
            self.weights[place] *= ratios.to(self.weights)
        self.old[place] = logp.to(self.old)

    def _see(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Of the mask's tokens the smallest or largest value, as the name says, or the sum."""
        tokens = values[mask]
        if not name.endswith(("/min", "/max")):
            self.seen.append((name, float(tokens.sum()), len(tokens)))
        elif len(tokens):
            found = tokens.min() if name.endswith("min") else tokens.max()
            self.seen.append((name, float(found), len(tokens)))

    def _chosen(self) -> Tensor:
        """True at the tokens to learn from."""
        if self.grpo.top_entropy == 1.0:
            return self.keep
        entropies = [c.entropies for c in self.rollout.completions]
        if list(map(len, entropies)) != self.lengths:
            raise ConfigError(
                f"the backend that drew, {self.config.rollout.backend}, tells no entropies",
                ("grpo", "top_entropy"),
            )
        return high_entropy_mask(_padded(entropies), self.keep, self.grpo.top_entropy)


def _padded(rows: Sequence[Sequence[float]]) -> Float[Tensor, "batch time"]:
    tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    return pad_sequence(tensors, batch_first=True)


def _means(seen: Iterable[tuple[str, float, int]]) -> Metrics:
    """By name, the smallest or largest, if it says so, or the mean over tokens."""
    by_name: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for name, value, tokens in seen:
        by_name[name].append((value, tokens))
    found: Metrics = {}
    for name, parts in by_name.items():
        values, counts = zip(*parts, strict=True)
        if name.endswith(("/min", "/max")):
            found[name] = min(values) if name.endswith("min") else max(values)
        else:
            found[name] = sum(values) / (sum(counts) or 1)
    return found
