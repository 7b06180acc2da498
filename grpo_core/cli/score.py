"""`grpo score`: judge a file of completions. Terminal, files and signals; what
becomes of a row is in `scoring.stream`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grpo_core.rubric import Rubric
    from grpo_core.scoring import Scorer
    from grpo_core.scoring.stream import Judged, Row, Summary

SHOWN = 20
"""Bad rows reported one by one; the rest are counted."""


def score(
    input: Annotated[
        Path, typer.Argument(help="JSON lines with prompt, completion and columns; - is stdin.")
    ],
    config: Annotated[Path | None, typer.Option(help="A config; its rubric judges.")] = None,
    reward: Annotated[
        str | None, typer.Option(help="One reward: a name, file.py:name or module:name.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="KEY=VALUE", help="An option of --reward; a --config override."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where rows go; stdout when not given.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT ends.")] = False,
) -> None:
    """Judge completions by a config's rubric, or by one reward.

    A row in: {"prompt": …, "completion": …, columns}; optional id, and group
    (equal groups standing together). A row out, in the same order: {"id": …,
    "total": …, "scores": {NAME: {"value", "outcome", "reason"}}}. Bad rows are
    reported by line number and left out; the exit code is 1 if there were any.
    """
    from grpo_core.errors import ConfigError

    if (config is None) == (reward is None):
        raise ConfigError("give one of --config and --reward")
    if resume and out is None:
        raise ConfigError("--resume goes on with a file: give --out")
    if str(input) != "-" and not input.is_file():
        raise ConfigError(f"there is no file {input}")
    if out is not None and out.exists() and str(input) != "-" and out.samefile(input):
        raise ConfigError(f"--out is the input, {input}; it would be overwritten")
    rubric = _rubric(config, reward, option or [])
    with contextlib.ExitStack() as stack:
        source: IO[bytes] = (
            sys.stdin.buffer if str(input) == "-" else stack.enter_context(input.open("rb"))
        )
        code = _run(rubric, input, source, out, workers, resume)
    if code:
        raise typer.Exit(code)


def _rubric(config: Path | None, reward: str | None, options: list[str]) -> Rubric:
    from grpo_core.config import load_rubric, yaml_value
    from grpo_core.errors import ConfigError
    from grpo_core.rubric import Rubric

    if config is not None:
        return load_rubric(config, options)
    values: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"-o {text}: expected KEY=VALUE")
        values[key] = yaml_value(value)
    try:
        return Rubric.from_config(
            {"rewards": [{"use": reward, "options": values}]}, base_dir=Path.cwd()
        )
    except ConfigError as error:
        inner = error.key[2:]  # there is but one reward, rewards.0
        raise ConfigError(error.message, ("--reward",) if inner == ("use",) else inner) from None


def _run(
    rubric: Rubric, input: Path, source: IO[bytes], out: Path | None, workers: int, resume: bool
) -> int:
    from grpo_core.rubric import ScoringError
    from grpo_core.scoring import Scorer
    from grpo_core.scoring.stream import ROWS, Summary, in_batches, judged, parse_rows

    summary = Summary()
    grouped = any(term.reward.scope == "group" for term in rubric.terms)
    required = {column for term in rubric.terms for column in term.reward.requires}
    lines = _Lines(source)
    rows = parse_rows(lines, required, needs_group=grouped)
    ahead = list(itertools.islice(rows, ROWS))
    _check_columns(rubric, ahead)
    rows = itertools.chain(ahead, rows)
    bad = _BadRows("stdin" if str(input) == "-" else str(input))
    stop = _Stop()
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(Scorer(rubric, workers))
        target = _Target(out, resume, rubric, summary)
        stack.callback(target.close)
        show = stack.enter_context(_progress(source, lines))
        stack.enter_context(stop)
        try:
            batches = _skipping(in_batches(rows, grouped), target, bad)
            for one in judged(scorer, stop.cut(batches)):
                if not _wait(one, scorer, stop, show):
                    break
                for row in one.rows:
                    bad.note(row)
                target.write(one, summary)
                show(summary.rows, "")
        except ScoringError as error:
            print(f"grpo: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    bad.close()
    _print_summary(summary, rubric)
    if stop.asked:
        again = f"; --resume goes on from there ({out})" if out is not None else ""
        print(f"stopped after {summary.rows:,} rows{again}", file=sys.stderr)
        return 130
    return 1 if bad.count else 0


def _check_columns(rubric: Rubric, rows: Iterable[Row]) -> None:
    """A column that the first rows all lack is a mistake in the call, not in the rows."""
    from grpo_core.errors import ConfigError

    columns = {c for row in rows if row.sample is not None for c in row.sample.columns}
    if columns or any(row.sample is not None for row in rows):
        try:
            rubric.check_columns(columns)
        except ConfigError as error:
            raise ConfigError(error.message) from None


def _skipping(batches: Iterable[list[Row]], target: _Target, bad: _BadRows) -> Iterator[list[Row]]:
    """Leave out batches that the output already has; one that it has in part is judged
    whole, for a group must be, and only the rest of it is written."""
    left = target.rows
    for rows in batches:
        ids = [row.id for row in rows if row.sample is not None]
        if 0 < left <= len(ids):
            target.check_last(ids[left - 1])
        if left >= len(ids) > 0:
            left -= len(ids)
            for row in rows:
                bad.note(row)
        else:
            if left and ids:
                target.known, left = left, 0
            yield rows
    if left:
        target.check_last(None)


def _wait(
    one: Judged, scorer: Scorer, stop: _Stop, show: Callable[[int | None, str], None]
) -> bool:
    """Wait for a batch; False when Ctrl-C came first."""
    waited = 0.0
    while one.batch is not None:
        try:
            one.batch.done.result(0.25)
            break
        except NotYet:
            waited += 0.25
            if stop.asked:
                return False
            if waited >= 5 and (running := scorer.running()):
                show(None, f"waiting for {running[0]}")
    return True


class _Lines:
    """Lines of a file, and how many bytes they were."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._source:
            self.read += len(line)
            yield line


class _BadRows:
    """Reports what is wrong with which line, without drowning the terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.count = 0

    def note(self, row: Row) -> None:
        if row.sample is None:
            self.count += 1
            if self.count <= SHOWN:
                print(f"{self._name} line {row.line}: {row.problem}", file=sys.stderr)

    def close(self) -> None:
        if self.count > SHOWN:
            print(f"{self._name}: {self.count - SHOWN} more bad rows", file=sys.stderr)


class _Target:
    """Where rows go. Whole lines reach the file at once, a batch at a time, so whatever
    happens it ends, at worst, in one torn line, which `--resume` cuts off."""

    def __init__(self, path: Path | None, resume: bool, rubric: Rubric, summary: Summary) -> None:
        self.path = path
        self.rows = 0
        """Rows that were already there."""
        self.known = 0
        """How many of the first batch to be written are already there."""
        self._last_id: str | int | None = None
        self._file: IO[bytes] | None = None
        if path is None:
            return
        if resume and path.exists():
            self._file = path.open("r+b")
            self._take_over(self._file, rubric, summary)
        else:
            self._file = path.open("wb")

    def _take_over(self, file: IO[bytes], rubric: Rubric, summary: Summary) -> None:
        from grpo_core.errors import ConfigError

        end = 0
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
                if row is None:
                    break
                if set(row["scores"]) != set(rubric.names):
                    raise ConfigError(
                        f"{self.path} has scores of {', '.join(row['scores'])}, "
                        f"not of {', '.join(rubric.names)}: it is not this command's output"
                    )
                summary.add(row)
            except (ValueError, TypeError, KeyError):
                raise ConfigError(
                    f"{self.path} line {summary.rows + 1} is no row of `grpo score`"
                ) from None
            end += len(line)
            self._last_id = row["id"]
        self.rows = summary.rows
        file.seek(end)
        file.truncate()

    def check_last(self, id: str | int | None) -> None:
        """Raise ConfigError unless the rows already there end with this one."""
        from grpo_core.errors import ConfigError

        if id != self._last_id:
            where = "ends before it" if id is None else f"has {id!r} there"
            raise ConfigError(
                f"{self.path} ends with row {self._last_id!r}, and the input {where}: "
                "it was written from another input"
            )

    def write(self, one: Judged, summary: Summary) -> None:
        lines = one.lines(summary, self.known)
        self.known = 0
        if not lines:
            return
        data = ("\n".join(lines) + "\n").encode()
        if self._file is not None:
            self._file.write(data)
            self._file.flush()
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Stop:
    """Turns the first Ctrl-C into a request, so that no line is torn; the second is final."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def cut(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        return itertools.takewhile(lambda _: not self.asked, batches)


@contextlib.contextmanager
def _progress(source: IO[bytes], lines: _Lines) -> Iterator[Callable[[int | None, str], None]]:
    """A bar on a terminal, by bytes of the input where its size is known."""
    if not sys.stderr.isatty():
        yield lambda rows, note: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        size: int | None = os.fstat(source.fileno()).st_size or None
    except OSError:
        size = None
    with Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%" if size else ""),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=size, rows=0, note="")

        def show(rows: int | None, note: str) -> None:
            progress.update(task, completed=lines.read, note=note)
            if rows is not None:
                progress.update(task, rows=rows)

        yield show


def _print_summary(summary: Summary, rubric: Rubric) -> None:
    from rich.console import Console
    from rich.table import Table

    from grpo_core.rewards import Outcome

    seen = [o for o in Outcome if any(o in counts for counts in summary.outcomes.values())]
    if Outcome.scored not in seen:
        seen.insert(0, Outcome.scored)
    table = Table(box=None, header_style="bold")
    table.add_column("")
    table.add_column("mean", justify="right")
    for outcome in seen:
        table.add_column(outcome.value, justify="right")
    for name in rubric.names:
        counts = summary.outcomes.get(name, {})
        scored = counts.get(Outcome.scored, 0)
        mean = f"{summary.value_sums.get(name, 0.0) / scored:.4f}" if scored else "-"
        table.add_row(name, mean, *(f"{counts.get(outcome, 0):,}" for outcome in seen))
    mean = f"{summary.total_sum / summary.totals:.4f}" if summary.totals else "-"
    table.add_row("total", mean, f"{summary.totals:,}", style="bold")
    Console(stderr=True, highlight=False).print(table)
