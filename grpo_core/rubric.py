"""Weights, gates and failure policies: a table of scores becomes one total a sample.

Pure: the rubric holds rewards but never runs them (`scoring` does), and it adds
before anything is normalised (`algorithm.group_advantages` does that).
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from grpo_core.errors import ConfigError, from_validation, nearest
from grpo_core.plugins import Host, PluginError, RewardEntry, load_plugins
from grpo_core.rewards import DEFAULT_TAGS, Outcome, Policy, Reward, Sample, Score, Steps, Tags


class ScoringError(Exception):
    """A score came out as its policy `raise` forbids."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_weight(value: object) -> object:
    if _is_number(value):
        return value
    if isinstance(value, Mapping) and value:
        if all(_is_number(k) and _is_number(v) for k, v in value.items()):
            return dict(sorted(value.items()))
        raise PydanticCustomError(
            "weight", "expected a schedule of numbers, as in {0: 0.2, 500: 0}"
        )
    raise PydanticCustomError("weight", "expected a number or a schedule, as in {0: 0.2, 500: 0}")


def _check_policy(value: object) -> object:
    if value is None or value in ("exclude", "abstain", "raise") or _is_number(value):
        return value
    raise PydanticCustomError("policy", "expected exclude, abstain, raise or a number")


Weight = Annotated[float | dict[int, float], BeforeValidator(_check_weight)]
PolicyField = Annotated[
    Any,
    BeforeValidator(_check_policy),
    WithJsonSchema(
        {"anyOf": [{"enum": ["exclude", "abstain", "raise", None]}, {"type": "number"}]}
    ),
]


class RewardConfig(BaseModel):
    """One entry of `rubric.rewards`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    use: str
    """A registered reward, `distribution/name`, `file.py:name` or `module:name`."""
    name: str | None = None
    """Its name in tables and metrics; the last part of `use` when not given."""
    weight: Weight = 1.0
    """A number, or a schedule `{step: number}`, linear between."""
    options: dict[str, Any] = {}
    """What the reward lets be set; `grpo_core.Reward.Options`."""
    only_if: dict[str, float] = {}
    """Counts only where each named reward's value is at least this; else it abstains."""
    when: dict[str, Any] = {}
    """Applies only to rows whose columns have these values."""
    clip: tuple[float, float] | None = None
    """Values are held between these two before they are weighed."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Seconds a sample may take before it is killed; the reward's own when not given."""
    on_timeout: PolicyField = None
    """What a timeout does to its sample: exclude, abstain, raise, or a number that stands
    in; the reward's own default when not given, as with the next three."""
    on_error: PolicyField = None
    """What an error does."""
    on_invalid: PolicyField = None
    """What an invalid verdict does."""
    on_abstained: PolicyField = None
    """What an abstention does."""


class TagsConfig(BaseModel):
    """The tags around thinking and answer, without brackets."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    think: str = "think"
    """Around the thinking."""
    answer: str = "answer"
    """Around the answer."""


class RubricConfig(BaseModel):
    """The config's `rubric` section."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    rewards: list[RewardConfig] = Field(min_length=1)
    """What judges a sample; see below."""
    combine: Literal["sum", "gdpo"] = "sum"
    """`sum`: weigh and add, then normalise in the group. `gdpo`: normalise each in
    the group, then weigh and add."""
    tags: TagsConfig = TagsConfig()
    """What encloses thinking and answer; see below."""


@dataclass(frozen=True)
class Term:
    """One reward of a rubric, with what the config says of it."""

    name: str
    reward: Reward
    weight: float | Mapping[int, float] = 1.0
    deadline_s: float = 5.0
    only_if: Mapping[str, float] = dataclasses.field(default_factory=dict)
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: tuple[float, float] | None = None
    policies: Mapping[Outcome, Policy] = dataclasses.field(default_factory=dict)

    def applies(self, sample: Sample) -> bool:
        """Whether `when` routes this sample to the reward."""
        return all(
            column in sample.columns and sample.columns[column] == value
            for column, value in self.when.items()
        )

    def weight_at(self, step: int) -> float:
        """The weight at a training step: linear between the schedule's points."""
        if not isinstance(self.weight, Mapping):
            return self.weight
        points = list(self.weight.items())
        for (left, before), (right, after) in pairwise(points):
            if left <= step < right:
                return before + (after - before) * (step - left) / (right - left)
        return points[0][1] if step < points[0][0] else points[-1][1]


@dataclass(frozen=True)
class Table:
    """What a rubric makes of N samples judged by R rewards.

    `scores[name]` holds N scores; `values[n][r]` the number that counts after
    gates and policies, nan where there is none, rewards in the order of
    `names`; `totals[n]` the weighted sum, None where the sample was excluded or
    has no value at all. `steps[name][n]` are the steps that count, clipped as
    values are; None where the reward gave none, or its value does not count.
    """

    names: tuple[str, ...]
    scores: Mapping[str, list[Score]]
    values: list[list[float]]
    totals: list[float | None]
    steps: Mapping[str, list[Steps | None]]

    @property
    def outcome_values(self) -> list[list[float]]:
        """`values`, with nan also where a reward judged by steps: what outcome
        supervision learns from. The steps are for `algorithm.step_advantages`, and
        nothing is learnt from the same verdict twice."""
        columns = [self.steps[name] for name in self.names]
        return [
            [
                value if column[n] is None else math.nan
                for value, column in zip(row, columns, strict=True)
            ]
            for n, row in enumerate(self.values)
        ]


@dataclass(frozen=True)
class Rubric:
    """The weighted list of rewards from a config."""

    terms: tuple[Term, ...]
    combine: Literal["sum", "gdpo"] = "sum"
    tags: Tags = DEFAULT_TAGS

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | RubricConfig,
        *,
        host: Host | None = None,
        base_dir: Path | None = None,
    ) -> Rubric:
        """Build a rubric from the config's `rubric` section.

        `base_dir` is what relative file paths start from. Raises ConfigError,
        which names the key's path, on any mistake.
        """
        if not isinstance(config, RubricConfig):
            try:
                config = RubricConfig.model_validate(config)
            except ValidationError as error:
                raise from_validation(error, RubricConfig) from None
        host = host or load_plugins()
        terms: list[Term] = []
        for i, entry in enumerate(config.rewards):
            try:
                terms.append(_term(entry, host, base_dir, taken={term.name for term in terms}))
            except ConfigError as error:
                raise error.within("rewards", i) from None
        _check_gates(terms)
        return cls(tuple(terms), config.combine, Tags(config.tags.think, config.tags.answer))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(term.name for term in self.terms)

    def weights(self, step: int = 0) -> list[float]:
        """The weight of each reward at a training step."""
        return [term.weight_at(step) for term in self.terms]

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise ConfigError when a reward needs a column that the data lacks."""
        present = set(columns)
        for i, term in enumerate(self.terms):
            for column in (*term.reward.requires, *term.when):
                if column not in present:
                    raise ConfigError(
                        f"reward {term.name!r} needs the column {column!r}, "
                        f"which the data does not have{nearest(column, present)}",
                        ("rewards", i),
                    )

    def table(
        self, samples: Sequence[Sample], scores: Mapping[str, Sequence[Score]], step: int = 0
    ) -> Table:
        """Apply gates, policies and weights to the scores of N samples.

        Raises ScoringError where a policy says `raise`.
        """
        values: dict[str, list[float]] = {}
        excluded: set[int] = set()
        for term in self._gates_first:
            values[term.name], without = _column(term, samples, scores[term.name], values)
            excluded.update(without)
        rows = [list(row) for row in zip(*(values[name] for name in self.names), strict=True)]
        for n in excluded:
            rows[n] = [math.nan] * len(self.terms)
        weights = self.weights(step)
        totals = [_total(weights, row) for row in rows]
        steps = {
            term.name: _steps(term, scores[term.name], rows, r) for r, term in enumerate(self.terms)
        }
        kept = {name: list(scores[name]) for name in self.names}
        return Table(self.names, kept, rows, totals, steps)

    @cached_property
    def _gates_first(self) -> tuple[Term, ...]:
        """The terms, each after those that its `only_if` names."""
        by_name = {term.name: term for term in self.terms}
        order = TopologicalSorter({term.name: term.only_if for term in self.terms})
        return tuple(by_name[name] for name in order.static_order())


def _column(
    term: Term,
    samples: Sequence[Sample],
    scores: Sequence[Score],
    others: Mapping[str, Sequence[float]],
) -> tuple[list[float], list[int]]:
    """What counts of one reward's N scores, nan where nothing does; and the rows that it
    excludes whole. `others` are the columns of its gates.

    A column at a time: nearly every score is a plain value that only wants copying.
    """
    column: list[Any] = [score.value for score in scores]
    excludes: list[int] = []
    if term.clip is not None:
        low, high = term.clip
        column = [v if v is None else min(max(v, low), high) for v in column]
    if term.when or term.only_if:
        for n, sample in enumerate(samples):
            # nan compares false, so a gate on a missing value stays shut
            gates = (others[name][n] >= least for name, least in term.only_if.items())
            if not term.applies(sample) or not all(gates):
                column[n] = math.nan
    for n, value in enumerate(column):
        if value is None:
            number = _stand_in(term, scores[n], samples[n])
            column[n] = math.nan if number is None else number
            if number is None:
                excludes.append(n)
    return column, excludes


def _steps(
    term: Term, scores: Sequence[Score], rows: Sequence[Sequence[float]], r: int
) -> list[Steps | None]:
    """The steps of the reward in column r of the values, where those count; clipped."""
    column = [score.steps for score in scores]
    if column.count(None) == len(column):  # as nearly always
        return column
    low, high = term.clip or (-math.inf, math.inf)
    for n, steps in enumerate(column):
        if steps is not None:
            column[n] = (
                None
                if math.isnan(rows[n][r])
                else tuple((offset, min(max(value, low), high)) for offset, value in steps)
            )
    return column


def _total(weights: Sequence[float], row: Sequence[float]) -> float | None:
    """The weighted sum of the values there are; None where there is none."""
    total = math.fsum(map(operator.mul, weights, row))
    if not math.isnan(total):
        return total
    present = [w * v for w, v in zip(weights, row, strict=True) if not math.isnan(v)]
    return math.fsum(present) if present else None


def _stand_in(term: Term, score: Score, sample: Sample) -> float | None:
    """The number that counts where there is no value; nan to abstain, None to exclude
    the whole sample."""
    policy = term.policies.get(score.outcome, _default_policy(term.reward, score.outcome))
    if policy == "exclude":
        return None
    if policy == "abstain":
        return math.nan
    if policy == "raise":
        raise ScoringError(
            f"reward {term.name!r} ended in {score.outcome.value} on sample "
            f"{sample.id if sample.id is not None else f'{sample.group}/{sample.index}'}: "
            f"{score.reason or 'no reason given'} (its policy is 'raise')"
        )
    return float(policy)


def _default_policy(reward: Reward, outcome: Outcome) -> Policy:
    policy: Policy = getattr(reward, f"on_{outcome.value}")
    return policy


def _term(entry: RewardConfig, host: Host, base_dir: Path | None, taken: set[str]) -> Term:
    try:
        found: RewardEntry = host.reward(entry.use, base_dir)
    except PluginError as error:
        raise ConfigError(str(error), ("use",)) from None
    try:
        reward = found(**entry.options)
    except ValidationError as error:
        raise from_validation(error, found.cls.Options).within("options") from None
    name = entry.name or entry.use.rpartition(":")[2].rpartition("/")[2]
    if name in taken:
        raise ConfigError(f"a second reward called {name!r}; give one of them a name", ("name",))
    policies = {
        outcome: policy
        for outcome in (Outcome.timeout, Outcome.error, Outcome.invalid, Outcome.abstained)
        if (policy := getattr(entry, f"on_{outcome.value}")) is not None
    }
    deadline = reward.deadline_s if entry.deadline_s is None else entry.deadline_s
    return Term(
        name, reward, entry.weight, deadline, entry.only_if, entry.when, entry.clip, policies
    )


def _check_gates(terms: Sequence[Term]) -> None:
    gates = {term.name: set(term.only_if) for term in terms}
    for i, term in enumerate(terms):
        for name in term.only_if:
            if name not in gates:
                raise ConfigError(
                    f"no reward here is called {name!r}{nearest(name, gates)}",
                    ("rewards", i, "only_if"),
                )
        reached, ahead = set[str](), set(gates[term.name])
        while ahead:
            reached |= ahead
            ahead = {after for name in ahead for after in gates.get(name, ())} - reached
        if term.name in reached:
            raise ConfigError("gates go round in a circle", ("rewards", i, "only_if"))
