"""Weights, gates and failure policies: a table of scores becomes one total a sample.

Pure: the rubric holds rewards but never runs them (`scoring` does), and it adds
before anything is normalised (`algorithm.group_advantages` does that).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from grpo_core.rewards import DEFAULT_TAGS, Outcome, Policy, Reward, Sample, Score, Tags


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
    has no value at all.
    """

    names: tuple[str, ...]
    scores: Mapping[str, list[Score]]
    values: list[list[float]]
    totals: list[float | None]


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
        weights = self.weights(step)
        by_name = {term.name: term for term in self.terms}
        values: list[list[float]] = []
        totals: list[float | None] = []
        for n, sample in enumerate(samples):
            row = _row(sample, by_name, {name: scores[name][n] for name in by_name})
            present = [w * v for w, v in zip(weights, row, strict=True) if not math.isnan(v)]
            values.append(row)
            totals.append(math.fsum(present) if present else None)
        return Table(self.names, {name: list(scores[name]) for name in self.names}, values, totals)


def _row(sample: Sample, terms: Mapping[str, Term], scores: Mapping[str, Score]) -> list[float]:
    """One sample's values in the order of `terms`; all nan when it is excluded."""
    values: dict[str, float] = {}
    excluded = False

    def value(name: str) -> float:
        nonlocal excluded
        if name not in values:
            term = terms[name]
            values[name] = math.nan
            # nan compares false, so a gate on a missing value stays shut
            if term.applies(sample) and all(
                value(other) >= least for other, least in term.only_if.items()
            ):
                number = _value(term, scores[name], sample)
                excluded = excluded or number is None
                values[name] = math.nan if number is None else number
        return values[name]

    row = [value(name) for name in terms]
    return [math.nan] * len(row) if excluded else row


def _value(term: Term, score: Score, sample: Sample) -> float | None:
    """The number that counts; nan to abstain, None to exclude the whole sample."""
    if score.value is not None:
        low, high = term.clip or (-math.inf, math.inf)
        return min(max(score.value, low), high)
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
