"""Completions of given prompts, each judged as soon as it is whole.

Ties a rollout backend to a scorer so that judging hides behind drawing. What
the scores are worth is the rubric's part, what is learnt from them `update`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from grpo_core.data import PromptTemplate, Row
from grpo_core.distributed import ALONE, Ranks, Watcher
from grpo_core.policy import Policy
from grpo_core.rewards import Sample
from grpo_core.rollout import Completion, Sampling
from grpo_core.rubric import Rubric, Table
from grpo_core.scoring import Scorer

Draw = Callable[..., list[Completion]]


@dataclass
class Rollout:
    """Drawn and judged completions; all lists have one entry a sample, groups together."""

    samples: list[Sample]
    prompt_ids: list[list[int]]
    completions: list[Completion]
    table: Table
    seconds: Mapping[str, Sequence[float]]
    """By reward, what each verdict took."""
    times: dict[str, float]
    """`time/rollout`, `time/score` (what judging took) and `time/score_hidden` (the part
    of it during which completions were still being drawn)."""
    group_size: int

    def of(self, group: int) -> list[tuple[Rollout, int]]:
        """A group's samples, each as this rollout and its place in it."""
        return [(self, n) for n in range(group * self.group_size, (group + 1) * self.group_size)]

    def take(self, groups: Sequence[int]) -> Rollout:
        """Some of the groups."""
        return _picked([place for group in groups for place in self.of(group)])

    def replace(self, groups: Sequence[int], others: Rollout) -> Rollout:
        """This rollout with the groups of `others` in the places of `groups`."""
        chosen = [self.of(group) for group in range(len(self.samples) // self.group_size)]
        for other, group in enumerate(groups):
            chosen[group] = others.of(other)
        return _picked([place for places in chosen for place in places])


def interleaved(parts: Sequence[Rollout]) -> Rollout:
    """The rollout of which each rank has made every so-manieth group; times are the
    slowest rank's."""
    groups = sum(len(part.samples) // part.group_size for part in parts)
    chosen = [parts[g % len(parts)].of(g // len(parts)) for g in range(groups)]
    whole = _picked([place for places in chosen for place in places])
    times = {name: max(part.times[name] for part in parts) for name in parts[0].times}
    return dataclasses.replace(whole, times=times)


def _picked(places: Sequence[tuple[Rollout, int]]) -> Rollout:
    """A rollout of given samples of given rollouts, their groups numbered anew."""
    first, _ = places[0]
    size, names = first.group_size, first.table.names
    return Rollout(
        [dataclasses.replace(r.samples[n], group=i // size) for i, (r, n) in enumerate(places)],
        [r.prompt_ids[n] for r, n in places],
        [r.completions[n] for r, n in places],
        Table(
            names,
            {name: [r.table.scores[name][n] for r, n in places] for name in names},
            [r.table.values[n] for r, n in places],
            [r.table.totals[n] for r, n in places],
            {name: [r.table.steps[name][n] for r, n in places] for name in names},
        ),
        {name: [r.seconds[name][n] for r, n in places] for name in names},
        first.times,
        size,
    )


@dataclass
class Collector:
    """Draws with `draw` from `policy`, judges with `scorer`.

    Of several ranks each makes the groups of its share of the rows, and has all of them
    afterwards, in the rows' order; `whole` is the context in which parameters that are
    spread over ranks are gathered for drawing.
    """

    policy: Policy
    draw: Draw
    scorer: Scorer
    rubric: Rubric
    seed: int
    watcher: Watcher
    ranks: Ranks = ALONE
    whole: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def collect(
        self,
        rows: Sequence[tuple[int, Row]],
        template: PromptTemplate,
        group_size: int,
        how: Sampling,
        step: int,
        salt: int = 0,
    ) -> Rollout:
        """`group_size` completions of each row's prompt (rows with their indices).

        Random numbers depend on seed, step, `salt` and the rank alone.
        """
        rows = self.ranks.mine(rows)
        prompts = [template.fill(row) for _, row in rows]
        encoded = [self.policy.encode(prompt) for prompt in prompts]
        opened = f"<{self.rubric.tags.think}>"
        prefilled = [self.policy.render(p).rstrip().endswith(opened) for p in prompts]
        samples: dict[int, Sample] = {}  # in the order in which they are finished
        missing = Counter({group: group_size for group in range(len(rows))})
        batch = self.scorer.batch(step)

        def judge(n: int, completion: Completion) -> None:
            group, index = divmod(n, group_size)
            text = self.policy.decode(completion.ids)
            message = {"role": "assistant", "content": text}
            samples[n] = Sample(
                prompts[group],
                text if isinstance(prompts[group], str) else [message],
                rows[group][1],
                group=group,
                index=index,
                truncated=completion.truncated,
                id=f"{rows[group][0]}-{index}",
                completion_ids=completion.ids,
                tags=self.rubric.tags,
                prefilled=prefilled[group],
            )
            batch.add(samples[n])
            missing[group] -= 1
            if not missing[group]:
                batch.close_group(group)

        place_of = f"/{self.ranks.rank}" if self.ranks.rank else ""
        seed = random.Random(f"{self.seed}/{step}/{salt}{place_of}").getrandbits(63)
        generator = torch.Generator(self.policy.model.device).manual_seed(seed)
        if self.ranks.watch is not None:
            self.ranks.watch.follow(lambda: batch.news, self._judging)
        started = time.perf_counter()
        try:
            with self.whole():  # with nothing to draw, too: all ranks gather together
                completions = (
                    self.draw(self.policy, encoded, group_size, how, generator, judge)
                    if encoded
                    else []
                )
            self.watcher.phase("scoring", step)
            drawn = time.perf_counter()
            table = batch.result()
        except BaseException:
            batch.cancel()
            raise
        waited = time.perf_counter() - drawn
        timings = batch.timings()
        judged = max(waited, sum(timings.total_s.values()) / self.scorer.workers)
        if waited > 1:  # somebody may want to know whom for
            slowest = "; ".join(map(str, timings.slowest[:3]))
            self.watcher.say(f"step {step}: waited {waited:.1f} s for scores. Slowest: {slowest}")
        mine = Rollout(
            batch.samples,
            [encoded[n // group_size] for n in samples],
            [completions[n] for n in samples],
            table,
            timings.seconds,
            {
                "time/rollout": drawn - started,
                "time/score": judged,
                "time/score_hidden": judged - waited,
            },
            group_size,
        )
        if samples:
            place = {n: (mine, row) for row, n in enumerate(samples)}
            mine = _picked([place[n] for n in sorted(place)])
        return mine if self.ranks.world == 1 else interleaved(self.ranks.gather(mine))

    def _judging(self) -> str:
        """What is judged just now and has been for longest."""
        running = self.scorer.running()
        return f"judging: {running[0]}" if running else ""
