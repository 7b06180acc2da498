"""Scorer: the public face of scoring. (First version: everything in this process.)"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.scoring import judge

if TYPE_CHECKING:
    from grpo_core.rubric import Rubric, Table, Term


class Scorer:
    """Runs a rubric over samples."""

    def __init__(self, rubric: Rubric, workers: int = 2) -> None:
        self.rubric = rubric
        self.workers = workers

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go."""

    def score(self, samples: Sequence[Sample], step: int = 0) -> Table:
        """Judge samples by every reward of the rubric."""
        tags = self.rubric.tags
        samples = [s if s.tags == tags else dataclasses.replace(s, tags=tags) for s in samples]
        scores = {term.name: _judge(term, samples) for term in self.rubric.terms}
        return self.rubric.table(samples, scores, step)

    async def score_async(self, samples: Sequence[Sample], step: int = 0) -> Table:
        """The same, from inside an event loop."""
        return await asyncio.to_thread(self.score, samples, step)

    def submit(self, sample: Sample | Sequence[Sample], step: int = 0) -> Future[Table]:
        """The same, as a future."""
        future: Future[Table] = Future()
        future.set_result(self.score([sample] if isinstance(sample, Sample) else sample, step))
        return future


def score(samples: Sequence[Sample], rubric: Rubric, workers: int = 2) -> Table:
    """Judge samples by a rubric: `table.scores`, `table.values`, `table.totals`."""
    with Scorer(rubric, workers) as scorer:
        return scorer.score(samples)


def _judge(term: Term, samples: Sequence[Sample]) -> list[Score]:
    scores: list[Score | None] = [None] * len(samples)
    todo: dict[Any, list[int]] = {}
    for row, sample in enumerate(samples):
        missing = [column for column in term.reward.requires if column not in sample.columns]
        if not term.applies(sample):
            scores[row] = Score(None, reason=f"does not apply: it is for {dict(term.when)}")
        elif missing:
            scores[row] = Score(None, Outcome.error, f"the row has no column {missing[0]!r}")
        else:
            todo.setdefault(sample.group if term.reward.scope == "group" else 0, []).append(row)
    for rows in todo.values():
        chosen = [samples[row] for row in rows]
        if judge.call_of(term.reward) is judge.Call.group:
            verdicts = judge.judge_together(term.reward, chosen, _wait)
        elif judge.call_of(term.reward) is judge.Call.bulk:
            verdicts = judge.judge_bulk(term.reward, chosen, _wait)
        else:
            verdicts = [judge.judge_one(term.reward, sample, _wait) for sample in chosen]
        for row, one in zip(rows, verdicts, strict=True):
            scores[row] = one
    return [one for one in scores if one is not None]


def _wait(awaitable: Awaitable[Any]) -> Any:
    async def later() -> Any:
        return await awaitable

    return asyncio.run(later())
