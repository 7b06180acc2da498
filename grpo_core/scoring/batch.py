"""A batch: samples on their way through a rubric, from the first one to the table.

Samples may be added while earlier ones are being judged, so that scoring hides
behind whatever produces them. Left out: where a reward runs (`pool`, `inline`).
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import pickle
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.scoring.inline import Inline
from grpo_core.scoring.judge import Call
from grpo_core.scoring.pool import Pool
from grpo_core.scoring.timing import Timing, Timings
from grpo_core.scoring.watch import Watch
from grpo_core.scoring.work import Item, Lane

if TYPE_CHECKING:
    from grpo_core.rubric import Rubric, Table, Term
    from grpo_core.scoring.on_ray import RayPool


@dataclass(frozen=True)
class Station:
    """One term of the rubric, and where its samples are judged."""

    term: Term
    call: Call
    requires: Sequence[str]
    lane: Lane | None
    """Its way through the pool; None for an inline reward."""

    @property
    def twins(self) -> bool:
        """Whether equal samples may share one verdict."""
        return self.term.reward.deterministic and self.call is not Call.group


@dataclass(frozen=True)
class Plant:
    """All that judges for one rubric."""

    rubric: Rubric
    stations: Sequence[Station]
    pool: Pool | RayPool
    inline: Inline
    watch: Watch


class Batch:
    """Samples being judged. Made by `Scorer.batch()`; one thread adds.

    >>> batch = scorer.batch()
    >>> batch.add(sample)               # as often as samples come
    >>> table = batch.result()          # waits for the verdicts
    """

    def __init__(self, plant: Plant, step: int = 0) -> None:
        self._plant = plant
        self._rubric = plant.rubric
        self._stations = plant.stations
        self._step = step
        self.samples: list[Sample] = []
        self.cancelled = False
        names = plant.rubric.names
        self._scores: dict[str, list[Score | None]] = {name: [] for name in names}
        self._seconds: dict[str, list[float]] = {name: [] for name in names}
        self._seen: dict[Any, int] = {}
        self._same_as: dict[int, int] = {}
        self._groups: dict[int | str, list[int]] = {}
        self._lock = threading.Lock()
        self._left = 1  # one for `finish`
        self._finished = False
        self._began = self._ended = time.monotonic()
        self.done: Future[None] = Future()
        """Resolved when every verdict is there (and `finish` was called)."""
        self.done.set_running_or_notify_cancel()  # so that a cancelled waiter leaves it alone
        self.finished_at = math.inf
        self.news = self._began
        """When the last verdict came, or when waiting for one began."""

    # --- adding ------------------------------------------------------------------

    def add(self, samples: Sample | Iterable[Sample]) -> None:
        """Have samples judged, from now on; returns before their verdicts are there.

        Rewards that judge whole groups wait for `close_group` or `finish`.
        """
        if self._finished:
            raise RuntimeError("this batch is finished; start another")
        tags = self._rubric.tags
        first = len(self.samples)
        if not first:
            self._began = time.monotonic()
        if not self.pending:
            self.news = time.monotonic()
            self._plant.watch.over(self)
        for sample in [samples] if isinstance(samples, Sample) else samples:
            self.samples.append(
                sample if sample.tags == tags else dataclasses.replace(sample, tags=tags)
            )
        rows = range(first, len(self.samples))
        twins = self._find_twins(rows) if any(s.twins for s in self._stations) else set()
        for station in self._stations:
            name = station.term.name
            self._scores[name].extend([None] * len(rows))
            self._seconds[name].extend([0.0] * len(rows))
        for station in self._stations:
            if station.call is not Call.group:
                self._send(station, [r for r in rows if not (station.twins and r in twins)])
        if any(station.call is Call.group for station in self._stations):
            for row in rows:
                self._groups.setdefault(self.samples[row].group, []).append(row)

    def close_group(self, group: int | str) -> None:
        """Say that no more samples of this group will come, so that it can be judged."""
        rows = self._groups.pop(group, [])
        for station in self._stations:
            if station.call is Call.group and rows:
                self._send(station, rows)

    def finish(self) -> None:
        """Say that no more samples will come."""
        if not self._finished:
            for group in list(self._groups):
                self.close_group(group)
            self._finished = True
            self.finished_at = time.monotonic()
            self._settled(1)

    def cancel(self) -> None:
        """Judge nothing more of this batch; what is being judged runs to its end."""
        self.cancelled = True

    def _find_twins(self, rows: Iterable[int]) -> set[int]:
        """Rows equal to an earlier one in all that a verdict may depend on."""
        found = set()
        for row in rows:
            sample = self.samples[row]
            key: Any = (sample.prompt, sample.completion)
            if type(sample.prompt) is not str or type(sample.completion) is not str:
                key = _fingerprint(key)
            earlier = self._seen.setdefault(key, row)
            if earlier != row and key is not None:
                mine, other = (
                    _fingerprint(_rest(sample)),
                    _fingerprint(_rest(self.samples[earlier])),
                )
                if mine is not None and mine == other:
                    self._same_as[row] = earlier
                    found.add(row)
        return found

    def _send(self, station: Station, rows: Sequence[int]) -> None:
        """Settle at once what needs no judging, and have the rest judged."""
        term, requires = station.term, station.requires
        name = term.name
        chosen = list(rows)
        if term.when or requires:
            chosen.clear()
            for row in rows:
                sample = self.samples[row]
                missing = next((c for c in requires if c not in sample.columns), None)
                if not term.applies(sample):
                    self._scores[name][row] = _does_not_apply(term)
                elif missing is not None:
                    self._scores[name][row] = _no_column(missing)
                else:
                    chosen.append(row)
        if not chosen:
            return
        with self._lock:
            self._left += len(chosen)
        if station.lane is None:
            samples = [self.samples[row] for row in chosen]
            scores, seconds = self._plant.inline.judge(name, term.reward, station.call, samples)
            for row, score, took in zip(chosen, scores, seconds, strict=True):
                self._scores[name][row] = score
                self._seconds[name][row] = took
            self._settled(len(chosen))
        else:
            parts = [chosen] if station.call is Call.group else [[row] for row in chosen]
            self._plant.pool.submit(station.lane, [Item(self, name, part) for part in parts])

    # --- verdicts ----------------------------------------------------------------

    def put(self, name: str, rows: Sequence[int], scores: Sequence[Score], seconds: float) -> None:
        """Take verdicts from the pool."""
        for row, score in zip(rows, scores, strict=True):
            self._scores[name][row] = score
            self._seconds[name][row] = seconds / len(rows)
        self._settled(len(rows))

    def _settled(self, count: int) -> None:
        with self._lock:
            self._left -= count
            over = self._left == 0
        self.news = time.monotonic()
        if over:
            self._ended = self.news
            self.done.set_result(None)

    @property
    def pending(self) -> int:
        """Verdicts still to come of the samples added so far."""
        return 0 if self.cancelled else self._left - (not self._finished)

    def result(self, timeout: float | None = None) -> Table:
        """Finish, wait for the verdicts, and make the table of them.

        Raises ScoringError where a policy says `raise`, TimeoutError after
        `timeout` seconds.
        """
        self.finish()
        self.done.result(timeout)
        return self.table()

    def table(self) -> Table:
        """The table of a batch that is done."""
        return self._rubric.table(self.samples, self.scores(), self._step)

    def scores(self) -> dict[str, list[Score]]:
        """The verdicts of a batch that is done."""
        assert self.done.done(), "wait for `done` first"
        for station in self._stations:
            if station.twins:
                column = self._scores[station.term.name]
                for row, earlier in self._same_as.items():
                    column[row] = column[earlier]
        return self._scores  # type: ignore[return-value]  # nothing is None any more

    def timings(self) -> Timings:
        """Where the time went, of a batch that is done."""
        scores = self.scores()
        slowest = heapq.nlargest(
            10,
            (
                (seconds, name, row)
                for name, column in self._seconds.items()
                for row, seconds in enumerate(column)
                if seconds
            ),
        )
        return Timings(
            self._ended - self._began,
            {name: sum(column) for name, column in self._seconds.items()},
            self._seconds,
            [
                Timing(name, self.samples[row], seconds, scores[name][row])
                for seconds, name, row in slowest
            ],
        )


def _rest(sample: Sample) -> tuple[Any, ...]:
    """What a verdict may depend on, beside prompt and completion."""
    return (
        sample.columns,
        sample.truncated,
        sample.completion_ids,
        sample.trajectory,
        sample.prefilled,
    )


def _fingerprint(value: object) -> bytes | None:
    """Bytes that only equal values share, types included; None where there are none."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # an unpicklable column only means that nothing is shared
        return None


def _does_not_apply(term: Term) -> Score:
    wanted = ", ".join(f"{column} = {value!r}" for column, value in term.when.items())
    return Score(None, reason=f"does not apply: only where {wanted}")


def _no_column(column: str) -> Score:
    return Score(None, Outcome.error, f"the row has no column {column!r}")
