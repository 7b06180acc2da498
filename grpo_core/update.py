"""Learning from one rollout: passes, loss, optimizer steps.

What a pass looks like inside is `passes`, the loss `algorithm`. Random numbers
are not needed here; nothing is read or written.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

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
from grpo_core.passes import Group, Passes, TokenLogps, default_budget, micro_batches

PerToken = Float[Tensor, "batch time"]
Batch = list[tuple[int, list[int]]]
"""What one pass reads: completions of groups, both by their numbers."""


class Turn(NamedTuple):
    """One pass of this rank."""

    batch: Batch
    counts: bool
    """False for one that is made only because other ranks still have a pass to make."""


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
        mean = _TokenMean()
        visit = _Visit(self, rollout, advantages, mean)
        groups = len(rollout.completions) // grpo.group_size
        parts = [range(i, groups, grpo.minibatches) for i in range(grpo.minibatches)]
        self.passes.train()
        if grpo.iterations * grpo.minibatches > 1 and visit.foreign:
            visit.look(parts)
        norms: list[float] = []
        for iteration in range(grpo.iterations):
            visit.first = iteration == 0
            for part in parts:
                turns = visit.turns_of(part)
                for number, turn in enumerate(turns):
                    with self._accumulating(last=number + 1 == len(turns)):
                        self.accelerator.backward(visit.loss(turn) * self.ranks.world)
                    self.ranks.tick()
                if turns:  # a part without any signal changes nothing
                    limit = self.config.train.max_grad_norm
                    norms.append(clip_grad_norm(self.accelerator, self.passes, limit))
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    visit.learnt = True
        heap.give_back()
        empty: Metrics = {"loss": 0.0, "grad_norm": 0.0, "kl": None}
        clips = [f"clip_ratio/{side}_mean" for side in ("low", "high", "region")]
        found = _TokenMean.of(self.ranks.gather(mean)).means()
        if norms:
            found["grad_norm"] = sum(norms) / (grpo.iterations * grpo.minibatches)
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
    """One rollout while it is being learnt from."""

    def __init__(
        self, learner: Learner, rollout: Rollout, advantages: Tensor, mean: _TokenMean
    ) -> None:
        self.learner, self.rollout, self.mean = learner, rollout, mean
        self.config, self.grpo = learner.config, learner.config.grpo
        self.device = learner.accelerator.device
        self.advantages = advantages
        self.old: dict[int, Tensor] = {}
        self.ref: dict[int, Tensor] = {}
        self.first = True
        """Whether this is the first iteration, when the reference has not been asked yet."""
        self.learnt = False
        """Whether the policy has moved since the rollout was drawn."""
        self.correction = self.config.rollout.correction
        self.corrects = self.config.rollout.corrects
        unknown = any(math.isnan(logp) for c in rollout.completions for logp in c.logps)
        self.foreign = self.corrects or unknown
        """Whether the sampler's log-probabilities cannot stand in for the trainer's."""
        self.weights = self._token_weights()
        self.updates = self.grpo.iterations * self.grpo.minibatches
        self.divisor: Tensor = torch.zeros(())
        self.tokens: Tensor = torch.zeros(())

    @torch.no_grad()
    def look(self, parts: Sequence[Sequence[int]]) -> None:
        """Take the trainer's own log-probabilities of the whole rollout as the old ones."""
        for part in parts:
            for turn in self.turns_of(part):
                order, groups = self._read_by(turn)
                read: TokenLogps = self.learner.passes(groups)
                if turn.counts:
                    self._keep(order, read.logp, read.mask)
                self.learner.ranks.tick()

    def turns_of(self, part: Sequence[int]) -> list[Turn]:
        """The passes of this rank over some groups, as many as of every other rank.

        Also counts what the part's losses are divided by: of all ranks' groups.
        """
        size = self.grpo.group_size
        counted, tokens = 0.0, 0.0
        chosen: dict[int, list[int]] = {}
        for g in part:
            mine = range(g * size, (g + 1) * size)
            for n in mine:
                mask = torch.full((1, self._length(n)), not self._dropped(n))
                counted += float(count(self.learner.objective, mask))
                weights = self.weights.get(n)
                tokens += float(mask.sum() if weights is None else (weights != 0).sum())
            if teaching := [n - g * size for n in mine if self._teaches(n)]:
                chosen[g] = teaching
        self.divisor = torch.tensor(counted, dtype=torch.float64)
        self.tokens = torch.tensor(tokens, dtype=torch.float64)
        ranks = self.learner.ranks
        tokens_of = {
            g: self._prompt_length(g) + sum(self._length(g * size + j) for j in rows)
            for g, rows in chosen.items()
        }
        dealt = [
            self._batches({g: chosen[g] for g in share}) for share in deal(tokens_of, ranks.world)
        ]
        most = max(map(len, dealt))
        fillers = [  # of the rank with least to do, the last pass: the shortest
            Turn(batches[-1], False) for batches in sorted(dealt, key=len) if batches
        ]
        own = [Turn(batch, True) for batch in dealt[ranks.rank]]
        return own + [fillers[0]] * (most - len(own)) if most else []

    def _batches(self, chosen: dict[int, list[int]]) -> list[Batch]:
        """Some completions of some groups, cut into passes."""
        size = self.grpo.group_size
        inner = self.learner.accelerator.unwrap_model(self.learner.passes)
        groups = list(chosen)
        prompts = [self._prompt_length(g) for g in groups]
        budget = default_budget(self.device.type, max(prompts, default=0))
        batches = micro_batches(
            prompts,
            [[self._length(g * size + j) for j in chosen[g]] for g in groups],
            self.config.train.tokens_per_micro_batch or budget,
            inner.form,
            hidden_size=getattr(inner.model.config.get_text_config(), "hidden_size", 1024),
            sort=self.config.engine.sort_by_length,
        )
        return [
            [(groups[i], [chosen[groups[i]][j] for j in rows]) for i, rows in batch]
            for batch in batches
        ]

    def loss(self, turn: Turn) -> Float[Tensor, ""]:
        """The share of one pass in the loss of its part; 0 of one that does not count."""
        grpo = self.grpo
        order, groups = self._read_by(turn)
        if self.first and self.learner.reference is not None:
            # before the policy's own pass: both may be spread over the ranks
            self._ask_reference(self.learner.reference, order, groups)
        read: TokenLogps = self.learner.passes(groups, entropy=grpo.entropy_coef != 0)
        logp, mask = read.logp, read.mask
        if not turn.counts:
            return logp.sum() * 0.0
        if not self.learnt:
            self._keep(order, logp.detach(), mask)
        drawn = _stack([self.rollout.completions[n].logps for n in order], logp)
        old = _stack([self.old.get(n, drawn[row]) for row, n in enumerate(order)], logp)
        keep = (
            mask & torch.tensor([not self._dropped(n) for n in order], device=mask.device)[:, None]
        )
        chosen = _stack([self.weights[n] for n in order], logp) if self.weights else None
        weights = chosen
        if self.corrects and grpo.objective == "vespo":  # which weighs by that ratio itself
            old = torch.where(drawn.isnan(), old, drawn)
        elif self.corrects:
            ratios = self._ratios(old, drawn, mask)
            weights = ratios if chosen is None else chosen * ratios
        loss = policy_loss(
            logp,
            old,
            self._advantages_of(order, logp),
            keep,
            objective=self.learner.objective,
            epsilon=grpo.epsilon,
            epsilon_high=grpo.epsilon_high,
            delta=grpo.delta,
            level=grpo.level,
            ref_logp=_stack([self.ref[n] for n in order], logp) if self.ref else None,
            beta=grpo.beta,
            kl=grpo.kl,
            kl_bias_correction=grpo.kl_bias_correction,
            token_weights=weights,
            max_completion_length=self.config.rollout.max_tokens,
            normalizer=self.divisor,
        )
        value = loss.value
        if read.entropy is not None:
            acting = keep if chosen is None else keep * (chosen != 0)
            value = value - grpo.entropy_coef * entropy_bonus(read.entropy, acting, self.tokens)
        self.mean.total("loss", float(value.detach()) / self.updates)
        for name, each in loss.metrics.items():
            self.mean.add(name, each.expand_as(mask), mask)
        return value

    def _read_by(self, turn: Turn) -> tuple[list[int], list[Group]]:
        """The samples that a pass reads, in its order, and how it is given them."""
        size = self.grpo.group_size
        order = [g * size + j for g, rows in turn.batch for j in rows]
        groups = [
            Group(
                self.rollout.prompt_ids[g * size],
                [self.rollout.completions[g * size + j].ids for j in rows],
            )
            for g, rows in turn.batch
        ]
        return order, groups

    def _keep(self, order: Sequence[int], logp: Tensor, mask: Tensor) -> None:
        """Keep samples' own log-probabilities of before the first step, and measure how far
        the sampler's are from them; once a sample."""
        if all(n in self.old for n in order):
            return
        for row, n in enumerate(order):
            self.old[n] = logp[row, : self._length(n)]
        drawn = _stack([self.rollout.completions[n].logps for n in order], logp)
        known = (mask != 0) & ~drawn.isnan()
        difference = torch.where(known, logp - drawn, 0.0)
        self.mean.add("sampling/sampling_logp_difference/mean", difference.abs(), known)
        self.mean.extreme("sampling/sampling_logp_difference/max", difference.abs()[known])
        self.mean.add("sampling/kl", difference.expm1() - difference, known)
        if self.corrects and self.grpo.objective != "vespo":
            ratios = self._ratios(logp, drawn, mask)
            self.mean.add("sampling/importance_sampling_ratio/mean", ratios, known)
            for end in ("min", "max"):
                self.mean.extreme(f"sampling/importance_sampling_ratio/{end}", ratios[known])

    def _ratios(self, own: Tensor, drawn: Tensor, mask: Tensor) -> Tensor:
        how = self.correction
        return mismatch_weights(
            own,
            drawn,
            mask,
            level=how.level,
            how="mask" if how.how == "mask" else "truncate",
            cap=how.cap,
            floor=how.floor,
        )

    def _length(self, n: int) -> int:
        return len(self.rollout.completions[n].ids)

    def _prompt_length(self, g: int) -> int:
        return len(self.rollout.prompt_ids[g * self.grpo.group_size])

    def _dropped(self, n: int) -> bool:
        return self.grpo.mask_truncated and self.rollout.completions[n].truncated

    def _teaches(self, n: int) -> bool:
        if not self.config.engine.skip_silent:
            return True
        grpo = self.grpo
        moves = bool((self.advantages[n] != 0).any()) or grpo.beta > 0 or grpo.entropy_coef != 0
        return moves and not self._dropped(n)

    def _advantages_of(self, order: Sequence[int], logp: Tensor) -> Tensor:
        chosen = self.advantages[list(order)].to(logp)
        return chosen if chosen.dim() == 1 else chosen[:, : logp.shape[1]]

    def _token_weights(self) -> dict[int, Tensor]:
        """By sample, 1 at the tokens to learn from; empty when that is all of them."""
        if self.grpo.top_entropy == 1.0:
            return {}
        completions = self.rollout.completions
        if any(len(c.entropies) != len(c.ids) for c in completions):
            raise ConfigError(
                f"the backend that drew, {self.config.rollout.backend}, tells no entropies",
                ("grpo", "top_entropy"),
            )
        like = torch.zeros(len(completions), max(len(c.ids) for c in completions))
        entropies = _stack([c.entropies for c in completions], like)
        kept = [[float(not self._dropped(n))] * len(c.ids) for n, c in enumerate(completions)]
        chosen = high_entropy_mask(entropies, _stack(kept, like).bool(), self.grpo.top_entropy)
        return {n: chosen[n, : len(c.ids)].float() for n, c in enumerate(completions)}

    def _ask_reference(
        self, reference: Reference, order: Sequence[int], groups: Sequence[Group]
    ) -> None:
        with self.learner.accelerator.autocast():
            fresh = reference.logps(groups)
        for row, n in enumerate(order):
            self.ref[n] = fresh[row, : self._length(n)]


def deal(sizes: Mapping[int, int], hands: int) -> list[list[int]]:
    """Keys in as many shares of about even sums, each in the given order."""
    shares: list[set[int]] = [set() for _ in range(hands)]
    sums = [0] * hands
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        least = sums.index(min(sums))
        shares[least].add(key)
        sums[least] += sizes[key]
    return [[key for key in sizes if key in share] for share in shares]


def _stack(rows: Sequence[Tensor | Sequence[float]], like: Tensor) -> Tensor:
    """Ragged rows as one tensor of the shape, dtype and device of `like`, 0 behind each."""
    stacked = torch.zeros(len(rows), like.shape[1], dtype=like.dtype, device=like.device)
    for i, row in enumerate(rows):
        values = torch.as_tensor(row)[: like.shape[1]]
        stacked[i, : len(values)] = values
    return stacked


class _TokenMean:
    """Means over all completion tokens of a step, plain sums, and extremes."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._extremes: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    @classmethod
    def of(cls, ranks: Sequence[_TokenMean]) -> _TokenMean:
        """The means over the tokens of all ranks."""
        whole = cls()
        for each in ranks:
            whole._counts.update(each._counts)
            for name, value in each._sums.items():
                whole.total(name, value)
            for name, value in each._extremes.items():
                whole.extreme(name, torch.tensor([value]))
        return whole

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float((values * mask).sum())
        self._counts[name] += int(mask.sum())

    def extreme(self, name: str, values: Tensor) -> None:
        """The smallest or largest value, as the name ends in min or max."""
        if values.numel():
            pick = min if name.endswith("min") else max
            new = float(values.min() if pick is min else values.max())
            self._extremes[name] = pick(self._extremes.get(name, new), new)

    def total(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> Metrics:
        means: Metrics = {
            name: value / (self._counts[name] or 1) for name, value in self._sums.items()
        }
        return means | self._extremes
