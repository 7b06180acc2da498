"""Scoring a file of any size: rows in, judged rows out, in order, in constant memory.

What `grpo score` does without its terminal. A few thousand rows are on their
way at a time; reading goes on while they are judged.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_core.rewards import Sample
from grpo_core.scoring.batch import Batch
from grpo_core.scoring.scorer import Scorer

ROWS = 512
"""Rows judged as one batch."""
BATCHES = 8
"""Batches on their way at a time."""


@dataclass(frozen=True)
class Row:
    """One line of the input: a sample, or what is wrong with it."""

    line: int
    """From 1."""
    sample: Sample | None
    problem: str = ""

    @property
    def id(self) -> str | int:
        """The row's id, or its index."""
        given = self.sample.id if self.sample is not None else None
        return self.line - 1 if given is None else given


def parse_rows(
    lines: Iterable[bytes], columns: Collection[str] = (), needs_group: bool = False
) -> Iterator[Row]:
    """Rows of JSON lines; blank lines are passed over.

    `prompt` and `completion` are strings or lists of messages. `id` and `group`
    place the sample and are columns only where `columns`, those that rewards
    require, names them; everything else is a column.
    """
    hidden = {"id", "group"}.difference(columns)
    group: object = None
    index = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, problem = _parsed(line, first=number == 1)
        if row is not None:
            problem = _problem(row, needs_group)
        if row is None or problem:
            yield Row(number, None, problem)
            continue
        prompt, completion = row.pop("prompt"), row.pop("completion")
        index = index + 1 if row.get("group") == group else 0
        group = row.get("group")
        yield Row(
            number,
            Sample(
                prompt,
                completion,
                {k: v for k, v in row.items() if k not in hidden} if hidden & row.keys() else row,
                group if group is not None else 0,
                index,
                truncated=row.get("truncated") is True,
                id=row.get("id"),
                completion_ids=row.get("completion_ids"),
                trajectory=row.get("trajectory"),
            ),
        )


def _parsed(line: bytes, first: bool) -> tuple[dict[str, Any] | None, str]:
    try:
        row = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: {error.reason} at byte {error.start}"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    if not isinstance(row, dict):
        return None, f"a JSON {_KINDS.get(type(row), 'value')}, not an object"
    return row, ""


_KINDS = {list: "array", str: "string", int: "number", float: "number"}


def _problem(row: Mapping[str, Any], needs_group: bool) -> str:
    for key in ("prompt", "completion"):
        value = row.get(key)
        if type(value) is str:
            continue
        if key not in row:
            return f"no {key!r}"
        if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
            return f"{key!r} is neither a string nor a list of messages"
    for key in ("id", "group"):
        value = row.get(key)
        if value is not None and (type(value) is bool or not isinstance(value, (str, int))):
            return f"{key!r} is neither a string nor a whole number"
    if needs_group and row.get("group") is None:
        return "no 'group', and a reward here judges whole groups"
    for key, kind in (("completion_ids", list), ("trajectory", dict)):
        if row.get(key) is not None and not isinstance(row[key], kind):
            return f"{key!r} is not a {'list' if kind is list else 'mapping'}"
    return ""


def in_batches(rows: Iterable[Row], whole_groups: bool, size: int = ROWS) -> Iterator[list[Row]]:
    """Cut rows into batches of `size`; with `whole_groups`, between groups only."""
    batch: list[Row] = []
    group: object = None
    for row in rows:
        mine = row.sample.group if row.sample is not None else group
        if len(batch) >= size and not (whole_groups and mine == group):
            yield batch
            batch = []
        group = mine
        batch.append(row)
    if batch:
        yield batch


@dataclass
class Judged:
    """One batch of rows and, once `batch` is done, their verdicts."""

    rows: list[Row]
    good: list[Row]
    batch: Batch | None

    def lines(self, summary: Summary, skip: int = 0) -> list[str]:
        """The rows out but the first `skip`, counted in `summary`.

        Raises ScoringError where a policy says `raise`.
        """
        if self.batch is None:
            return []
        table = self.batch.table()
        columns = list(table.scores.items())
        lines: list[str] = []
        for n, row in enumerate(self.good[skip:], start=skip):
            scores = {
                name: {"value": one.value, "outcome": one.outcome.value, "reason": one.reason}
                | ({} if one.steps is None else {"steps": one.steps})
                for name, column in columns
                for one in (column[n],)
            }
            out = {"id": row.id, "total": table.totals[n], "scores": scores}
            summary.add(out)
            lines.append(to_json(out))
        return lines


def judged(scorer: Scorer, batches: Iterable[list[Row]]) -> Iterator[Judged]:
    """Judge batches, several at a time; yields each in order, perhaps before it is done:
    wait for `batch.done`."""
    under_way: deque[Judged] = deque()
    for rows in batches:
        good = [row for row in rows if row.sample is not None]
        batch = scorer.batch() if good else None
        if batch is not None:
            batch.add([row.sample for row in good if row.sample is not None])
            batch.finish()
        under_way.append(Judged(rows, good, batch))
        while len(under_way) >= BATCHES or (under_way and _is_done(under_way[0])):
            yield under_way.popleft()
    yield from under_way


def _is_done(one: Judged) -> bool:
    return one.batch is None or one.batch.done.done()


def to_json(row: Mapping[str, Any]) -> str:
    """A row out, as a line that UTF-8 can hold."""
    text = _ENCODE(row)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: only an escape can hold it
            return json.dumps(row)
    return text


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Summary:
    """What came out, added up row by row."""

    rows: int = 0
    totals: int = 0
    total_sum: float = 0.0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    value_sums: dict[str, float] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row out."""
        self.rows += 1
        if row["total"] is not None:
            self.totals += 1
            self.total_sum += row["total"]
        for name, one in row["scores"].items():
            counts = self.outcomes.setdefault(name, {})
            counts[one["outcome"]] = counts.get(one["outcome"], 0) + 1
            if one["value"] is not None:
                self.value_sums[name] = self.value_sums.get(name, 0.0) + one["value"]
