"""`grpo check`: the conformance checks of one reward, and its verdict on a dataset's rows."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grpo_core.data import PromptTemplate
    from grpo_core.plugins import Host
    from grpo_core.rewards import Reward, Sample
    from grpo_core.testing.lab import Lab

SHOWN = 20
"""Rows named of each kind; the rest are counted."""


def check(
    name: Annotated[str, typer.Argument(help="A reward: a name, file.py:name or module:name.")],
    data: Annotated[
        Path | None, typer.Option(help="JSON lines with the columns the reward reads.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="The prompt of a row, as data.prompt in a config: '{question}'."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="An option of the reward.")
    ] = None,
) -> None:
    """Check that a reward keeps to what training relies on.

    It is judged in processes of its own, under deadlines, without network and
    without writing outside the temporary folder. With --data, the checks use its
    rows, and every row is tried before training does: those on which the reward
    abstains (a gold that cannot be read), fails, or refuses the row's own gold are
    listed. The exit code is 1 when a check failed, when the reward failed on a row or
    refused its gold, and when it abstains on all of them.
    """
    from pydantic import ValidationError

    from grpo_core.data import PromptTemplate
    from grpo_core.errors import from_validation
    from grpo_core.plugins import load_plugins
    from grpo_core.testing.check import run_check
    from grpo_core.testing.checks import CHECKS
    from grpo_core.testing.lab import Lab
    from grpo_core.testing.report import figures, line, told

    template = PromptTemplate(prompt)
    template.columns()  # raises where it is malformed
    host = load_plugins()
    entry = host.reward(name)
    try:
        reward = entry(**_options(option or []))
    except ValidationError as error:
        raise from_validation(error, entry.cls.Options).within("-o") from None
    rows = _rows(data, reward, template) if data is not None else []
    started = time.monotonic()
    options = reward.options.model_dump(exclude_unset=True, by_alias=True)
    with Lab(name, options, rows=_spread(rows), host=host) as lab:
        typer.echo(_heading(lab, data))
        statuses: Counter[str] = Counter()
        for one in CHECKS:
            result = run_check(lab, one, {})
            statuses[result.status] += 1
            typer.echo(line(result))
            if result.status == "failed":
                typer.echo(told(result))
        counts = ", ".join(f"{n} {status}" for status, n in statuses.items())
        typer.echo(f"{len(CHECKS)} checks in {time.monotonic() - started:.0f} s: {counts}")
        bad = statuses["failed"] > 0
        if lab.can_be_built:
            typer.echo(figures(lab))
            if data is not None:
                bad = _print_audit(lab, host, data, rows) or bad
    if bad:
        raise typer.Exit(1)


def _heading(lab: Lab, data: Path | None) -> str:
    plugin = lab.plugin
    home = f" of {plugin.distribution} {plugin.version}" if plugin is not None else ""
    if not lab.is_made_up:
        kind = f"rows of {data}" if data is not None else "its own examples"
        return f"{lab.name}{home}, on {kind} and variations of them"
    return f"{lab.name}{home}, on made-up samples (it has no examples; --data gives real ones)"


def _print_audit(lab: Lab, host: Host, data: Path, rows: list[tuple[int, Sample]]) -> bool:
    """Print what is wrong with which rows; whether that is more than abstaining."""
    from grpo_core.testing.rows import Kind, audit

    found = audit(lab, rows, host)
    typer.echo(f"{data}: {found.rows:,} rows, each judged with {found.how}")
    titles: dict[Kind, str] = {
        "abstained": "it abstains; such a row teaches nothing",
        "refused": "its own gold does not get the maximum; such a row can only punish",
        "failed": "it fails",
    }
    for kind, title in titles.items():
        lines = [(number, what) for number, of, what in found.found if of == kind]
        if lines:
            typer.echo(f"  on {len(lines):,} rows {title}:")
        for number, what in lines[:SHOWN]:
            typer.echo(f"    line {number}: {_one_line(what)}")
        if len(lines) > SHOWN:
            typer.echo(f"    … and {len(lines) - SHOWN:,} more")
    if not found.found:
        typer.echo("  it has a verdict on every row")
    silent = found.count("abstained") == found.rows
    return bool(silent or found.count("refused") or found.count("failed"))


def _rows(path: Path, reward: Reward, prompt: PromptTemplate) -> list[tuple[int, Sample]]:
    """Line number and sample of every row. Raises ConfigError where one is no row."""
    from grpo_core.errors import ConfigError, nearest
    from grpo_core.testing.samples import row_sample

    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    rows: list[tuple[int, Sample]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                row: Any = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                if reward.scope == "group" and row.get("group") is None:
                    raise ValueError("no 'group', and the reward judges whole groups")
                filled = prompt.fill(row) if prompt.template is not None else None
                rows.append((number, row_sample(row, reward.requires, filled)))
            except (ValueError, RecursionError) as error:
                hint = "; give --prompt '{column}'" if str(error).startswith("no prompt") else ""
                raise ConfigError(f"line {number}: {error}{hint}", file=str(path)) from None
            except KeyError as error:
                raise ConfigError(
                    f"line {number}: --prompt: no column {error}", file=str(path)
                ) from None
    if not rows:
        raise ConfigError(f"{path} has no rows")
    present = {column for _, sample in rows for column in sample.columns}
    for column in reward.requires:
        if column not in present:
            raise ConfigError(
                f"the reward needs the column {column!r}{nearest(column, present)}", file=str(path)
            )
    return rows


def _spread(rows: list[tuple[int, Sample]], count: int = 8) -> list[Sample]:
    """Rows from all over the file, the first among them; whole groups cannot be told apart
    here, so the first rows where there are groups."""
    samples = [sample for _, sample in rows]
    if len({sample.group for sample in samples}) > 1:
        return samples[:count]
    step = max(1, len(samples) // count)
    return samples[::step][:count]


def _options(texts: Iterable[str]) -> dict[str, Any]:
    from grpo_core.config import yaml_value
    from grpo_core.errors import ConfigError

    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"-o {text}: expected KEY=VALUE")
        values[key] = yaml_value(value)
    return values


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
