"""One reward under test: its samples, and the runs that several checks look at.

A run is made once, when a check first asks for it. Left out: what is right or
wrong about it (`checks`).
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo_core.plugins import Host, PluginError, PluginRecord, load_plugins
from grpo_core.rewards import FunctionReward, Reward, Sample, Score, Text
from grpo_core.scoring.judge import Call, call_of
from grpo_core.scoring.recipe import Recipe, recipe_of
from grpo_core.testing import hostile
from grpo_core.testing.bench import Bench, CannotBuild, Judged
from grpo_core.testing.child import Touched
from grpo_core.testing.samples import (
    Example,
    Perfect,
    gold_columns,
    made_up,
    shaped,
    varied,
    with_completion,
)

Unit = list[Sample]
"""What is judged in one call when nothing else is there: a sample, or a whole group."""


@dataclasses.dataclass(frozen=True)
class Base:
    """The run that all others are compared with."""

    alone: list[Judged]
    again: list[Judged]
    facts: Mapping[str, Any]
    """What the rebuilt reward says of itself, and what importing it cost."""
    build_touched: Touched


class Lab:
    """A reward, named as in a config or given as a class, with options.

    `examples` are samples with the value each gets; without them the class's own
    `examples` are taken, and without those `rows` or made-up samples. `perfect`
    makes the completion that deserves the maximum; default: the class's own.
    Raises PluginError or pydantic.ValidationError when the reward cannot be had.
    """

    def __init__(
        self,
        use: str | type[Reward],
        options: Mapping[str, Any] | None = None,
        *,
        examples: Sequence[tuple[Sample, float | None]] = (),
        rows: Sequence[Sample] = (),
        perfect: Callable[[Sample], Text | None] | None = None,
        allowed: Collection[str] = (),
        host: Host | None = None,
        base_dir: Path | None = None,
    ) -> None:
        self.plugin: PluginRecord | None = None
        if isinstance(use, str):
            entry = (host or load_plugins()).reward(use, base_dir)
            self.reward, self.plugin = entry(**dict(options or {})), entry.plugin
            self.name = use
        else:
            self.reward, self.name = use(**dict(options or {})), use.__name__
        self._given = tuple(examples) or tuple(getattr(self.reward, "examples", ()))
        # What a class states of its examples, it states of its default options.
        self._values_known = bool(examples) or not self.reward.options.model_fields_set
        self._rows = list(rows)
        self._perfect = perfect or getattr(self.reward, "perfect", None)
        self._allowed = set(allowed)
        self._bench: Bench | None = None
        self._unbuildable: CannotBuild | None = None
        if self.reward.isolation == "async":
            self._allowed.add("network")  # it waits on one: that is what the word says

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._bench is not None:
            self._bench.close()
            self._bench = None

    # --- the reward ----------------------------------------------------------------

    @cached_property
    def recipe(self) -> Recipe:
        """How a worker makes it. Raises PluginError where none could."""
        return recipe_of(self.name, self.reward)

    @property
    def can_be_built(self) -> bool:
        """Whether workers can make it at all."""
        try:
            return bool(self.base)
        except (CannotBuild, PluginError):
            return False

    @property
    def grouped(self) -> bool:
        return self.reward.scope == "group"

    @property
    def requires(self) -> tuple[str, ...]:
        return tuple(self.reward.requires)

    @property
    def takes_lists(self) -> bool:
        """Whether it judges several samples in one call."""
        return call_of(self.reward) in (Call.bulk, Call.group)

    @property
    def is_function(self) -> bool:
        return isinstance(self.reward, FunctionReward)

    @property
    def maximum(self) -> float | None:
        """The greatest value it declares, None where that is infinite."""
        high = self.reward.range[1]
        return high if math.isfinite(high) else None

    @property
    def is_made_up(self) -> bool:
        """Whether nobody gave any samples, so that made-up ones are judged."""
        return not self._given and not self._rows

    # --- samples -------------------------------------------------------------------

    @cached_property
    def stated(self) -> list[Example]:
        """The samples that were given, with the values stated for them."""
        given = [Example(sample, self._values_known, value) for sample, value in self._given]
        return given + [Example(row) for row in self._rows[:8]]

    @cached_property
    def perfect(self) -> Perfect | None:
        """How a perfect completion is made of a row, declared or found out by trying."""
        rows = [example.sample for example in self.stated]
        if self._perfect is not None:
            return Perfect("as `perfect` makes it", self._perfect)
        if self.grouped or self.maximum is None or not rows:
            return None
        best, most = None, 0.0
        for candidate in shaped(rows, self.requires):
            written = [(row, candidate.write(row)) for row in rows]
            calls = [[with_completion(row, text)] for row, text in written if text is not None]
            scores = [judged.scores[0].value for judged in self.bench.judge(calls)]
            share = sum(value == self.maximum for value in scores) / len(rows)
            if share > most:
                best, most = candidate, share
            if share == 1.0:
                break
        return best if most > 0.5 else None

    @cached_property
    def examples(self) -> list[Example]:
        """What the checks judge: what was given and variations of it, or made-up samples."""
        if self.is_made_up:
            return [Example(sample) for sample in made_up(self.requires, self.grouped)]
        return varied(self.stated, self.perfect, self.grouped)

    @property
    def samples(self) -> list[Sample]:
        return [example.sample for example in self.examples]

    @cached_property
    def units(self) -> list[Unit]:
        """The samples cut into what stands together: groups, or one at a time."""
        if not self.grouped:
            return [[sample] for sample in self.samples]
        groups: dict[int | str, Unit] = {}
        for sample in self.samples:
            groups.setdefault(sample.group, []).append(sample)
        return list(groups.values())

    @property
    def gold_columns(self) -> list[str]:
        """Required columns; for a reward that requires none, those that look like a gold."""
        if self.requires:
            return list(self.requires)
        return gold_columns(self.samples[0], ())

    # --- runs ----------------------------------------------------------------------

    def fresh(self, seed: int = 0) -> Bench:
        """A bench that has judged nothing. The caller closes it. Raises CannotBuild."""
        if self._unbuildable is not None:
            raise self._unbuildable
        try:
            return Bench(self.recipe, self.reward.deadline_s, seed=seed, allowed=self._allowed)
        except CannotBuild as error:
            self._unbuildable = error  # once is enough: it may have taken a minute
            raise

    @property
    def bench(self) -> Bench:
        """A bench that may have judged anything before."""
        if self._bench is None:
            self._bench = self.fresh()
        return self._bench

    def run_fresh(self, calls: Sequence[Sequence[Sample]], seed: int = 0) -> list[Judged]:
        with self.fresh(seed) as bench:
            return bench.judge(calls)

    @cached_property
    def base(self) -> Base:
        """Every unit in a call of its own, twice over, in a fresh process."""
        with self.fresh() as bench:
            return Base(
                bench.judge(self.units), bench.judge(self.units), bench.facts, bench.build_touched
            )

    @property
    def alone(self) -> list[Judged]:
        """The first judgement of every unit; what others are compared with."""
        return self.base.alone

    @cached_property
    def elsewhere(self) -> list[Judged]:
        """The same in another fresh process, with other hash values."""
        return self.run_fresh(self.units, seed=1)

    @cached_property
    def steady(self) -> bool:
        """Whether both came out the same, so that values can be compared at all."""
        return all(
            same(a, b)
            for x, y in zip(self.alone, self.elsewhere, strict=True)
            for a, b in zip(x.scores, y.scores, strict=True)
        )

    @cached_property
    def stateful(self) -> bool:
        """Whether the second time in one process differs from the first."""
        return not all(
            same(a, b)
            for x, y in zip(self.base.alone, self.base.again, strict=True)
            for a, b in zip(x.scores, y.scores, strict=True)
        )

    @cached_property
    def together(self) -> list[Judged]:
        """Several samples a call, in several orders; of a group reward its groups, shuffled."""
        rng = random.Random(0)
        if self.grouped:
            calls = [rng.sample(unit, len(unit)) for unit in self.units]
            calls += [unit[::-1] for unit in self.units]
        else:
            samples = self.samples
            calls = [samples, samples[::-1], rng.sample(samples, len(samples))]
            calls += [samples[i : i + 2] for i in range(0, len(samples) - 1, 2)]
        return self.run_fresh(calls)

    @cached_property
    def hostile(self) -> list[tuple[str, Judged]]:
        """Every hostile input, each in a call of its own or within a group."""
        base = self.samples[0]
        rest = self.units[0][1:] if self.grouped else []
        named: list[tuple[str, Sample]] = [
            (name, with_completion(base, completion)) for name, completion in hostile.completions()
        ]
        named.append(("cut off", dataclasses.replace(base, truncated=True)))
        if not self.is_function:
            asked = [{"role": "user", "content": base.prompt_text}]
            for name, completion in hostile.messages():
                chat = dataclasses.replace(base, prompt=asked, completion=completion)
                named.append((name, chat))
        for column in self.gold_columns:
            if isinstance(base.columns.get(column), str):
                for name, text in hostile.golds():
                    columns = {**base.columns, column: text}
                    row = dataclasses.replace(base, columns=columns)
                    named.append((f"{name}, in the column {column!r}", row))
        answers = self.run_fresh([[sample, *rest] for _, sample in named])
        return list(zip([name for name, _ in named], answers, strict=True))


def same(a: Score, b: Score) -> bool:
    """Whether two verdicts are one: same outcome, same values, of steps too, but for rounding."""
    if a.value is None or b.value is None:
        return a.outcome == b.outcome
    if [offset for offset, _ in a.steps or ()] != [offset for offset, _ in b.steps or ()]:
        return False
    pairs = [(a.value, b.value)]
    pairs += [(x, y) for (_, x), (_, y) in zip(a.steps or (), b.steps or (), strict=True)]
    return all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-6) for x, y in pairs)


def shown(score: Score) -> str:
    """A verdict as findings name it."""
    if score.value is not None:
        steps = "".join(f" [{offset}: {value:g}]" for offset, value in (score.steps or ())[:4])
        return f"{score.value:g}{steps}"
    return f"{score.outcome.value} ({score.reason})" if score.reason else score.outcome.value


def excerpt(sample: Sample, limit: int = 60) -> str:
    """A completion as findings name it."""
    text = sample.completion_text if not isinstance(sample.completion, str) else sample.completion
    quoted = repr(text[: limit + 1])
    return quoted if len(text) <= limit else f"{quoted[:limit]}…' ({len(text):,} characters)"
