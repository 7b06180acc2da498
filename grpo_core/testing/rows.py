"""A dataset, before training: on which rows a reward abstains, fails, or refuses its own gold.

Every row is judged with a perfect answer where one can be written, else with the
completion it has, else with an ordinary one, by warm workers under deadlines.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grpo_core.plugins import Host
from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.rubric import Rubric
from grpo_core.scoring import Scorer
from grpo_core.testing.lab import Lab, shown
from grpo_core.testing.samples import COMPLETIONS, with_completion

AT_A_TIME = 512

Kind = Literal["abstained", "refused", "failed"]
"""`refused`: its own gold, written as a perfect answer, does not get the maximum;
`failed`: error, timeout or invalid."""


@dataclass
class Audit:
    """What was found: `found` holds line number, kind and what is wrong, in order."""

    rows: int = 0
    found: list[tuple[int, Kind, str]] = field(default_factory=list)
    how: str = ""
    """What the rows were judged with."""

    def count(self, kind: Kind) -> int:
        return Counter(kind for _, kind, _ in self.found)[kind]


def audit(lab: Lab, rows: Sequence[tuple[int, Sample]], host: Host, workers: int = 2) -> Audit:
    """Judge every row (line number, sample) of a dataset."""
    reward = lab.reward
    never = {f"on_{o.value}": "abstain" for o in Outcome if o is not Outcome.scored}
    options = reward.options.model_dump(exclude_unset=True, by_alias=True)
    rubric = Rubric.from_config(
        {"rewards": [{"use": lab.name, "name": "it", "options": options, **never}]}, host=host
    )
    perfect = None if lab.grouped else lab.perfect
    found = Audit(how=f"a perfect answer ({perfect.name})" if perfect else "its own completion")
    with Scorer(rubric, workers) as scorer:
        for block in _blocks(rows, lab.grouped):
            samples, by_gold = [], []
            for _, sample in block:
                text = perfect.write(sample) if perfect is not None else None
                if text is None and not sample.completion and not lab.grouped:
                    samples.append(with_completion(sample, COMPLETIONS[0]))
                else:
                    samples.append(sample if text is None else with_completion(sample, text))
                by_gold.append(text is not None)
            scores = scorer.score(samples).scores["it"]
            for (line, _), score, gold in zip(block, scores, by_gold, strict=True):
                if problem := _problem(score, lab.maximum if gold else None):
                    found.found.append((line, *problem))
            found.rows += len(block)
    return found


def _problem(score: Score, maximum: float | None) -> tuple[Kind, str] | None:
    if score.outcome is Outcome.abstained:
        return "abstained", score.reason or "no reason given"
    if score.value is None:
        return "failed", shown(score)
    if maximum is not None and not math.isclose(score.value, maximum):
        return "refused", f"its own gold gets {score.value:g}: {score.reason or 'no reason given'}"
    return None


def _blocks(rows: Sequence[tuple[int, Sample]], grouped: bool) -> Iterator[list[tuple[int, Any]]]:
    """Blocks of rows; no group is cut."""
    block: list[tuple[int, Sample]] = []
    for line, sample in rows:
        new = not (grouped and block and block[-1][1].group == sample.group)
        if len(block) >= AT_A_TIME and new:
            yield block
            block = []
        block.append((line, sample))
    if block:
        yield block
