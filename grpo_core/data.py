"""Rows from a local file or the Hub, and how a row becomes a prompt.

No torch here. A row is a plain dict; a prompt is a string or a list of chat
messages. Tokenizing belongs to `policy`.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from grpo_core.errors import ConfigError, nearest

Row = Mapping[str, Any]
_LOCAL = (".jsonl", ".json", ".parquet")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_rows(
    path: str,
    base_dir: Path,
    *,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    load: Callable[[str], Iterable[Row]] | None = None,
) -> list[Row]:
    """All rows of a local JSONL or Parquet file, of a Hub dataset, or of a plugin's `load`.

    Raises ConfigError with the key `path` when there is no such data, naming
    the line where a JSONL row is broken.
    """
    local = base_dir / path
    if load is not None:
        rows = _read_loader(load, str(local) if local.exists() else path)
    elif local.is_file():
        rows = _read_parquet(local) if local.suffix == ".parquet" else list(_read_jsonl(local))
    elif path.endswith(_LOCAL) or path.startswith((".", "/")) or not _HUB_ID.fullmatch(path):
        siblings = [str(p.relative_to(base_dir)) for p in base_dir.glob("*") if p.suffix in _LOCAL]
        raise ConfigError(f"there is no file {local}{nearest(path, siblings)}", ("path",))
    else:
        rows = _read_hub(path, split, subset)
    if not rows:
        raise ConfigError(f"{path} has no rows", ("path",))
    return rows[:limit]


def _read_loader(load: Callable[[str], Iterable[Row]], path: str) -> list[Row]:
    try:
        rows = list(load(path))
    except Exception as error:  # third-party code; nothing is judged here
        raise ConfigError(
            f"the data loader raised {type(error).__name__}: {error}", ("loader",)
        ) from error
    for row in rows:
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"the data loader returned a {type(row).__name__} for a row, not a mapping",
                ("loader",),
            )
    return rows


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path} line {number} is not JSON: {error}", ("path",)) from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path} line {number} is not a JSON object", ("path",))
            yield row


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{path} is not Parquet: {error}", ("path",)) from None
    return rows


def _read_hub(name: str, split: str, subset: str | None) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"{name!r} is no local file, and Hub datasets need: pip install 'grpo-core[train]'",
            ("path",),
        ) from None
    try:
        return list(datasets.load_dataset(name, subset, split=split))
    except (OSError, ValueError) as error:  # datasets' own errors derive from these two
        raise ConfigError(
            f"{name!r} is no local file and not to be had from the Hub: {' '.join(str(error).split())}",
            ("path",),
        ) from None


@dataclass(frozen=True)
class PromptTemplate:
    """Fills a row's columns into a template, a list of message templates, or
    takes the column `prompt` as it is (template None)."""

    template: str | Sequence[Mapping[str, str]] | None

    def columns(self) -> list[str]:
        """The columns it needs. Raises ConfigError when the template is malformed."""
        if self.template is None:
            return ["prompt"]
        texts = (
            [self.template]
            if isinstance(self.template, str)
            else [message["content"] for message in self.template]
        )
        names: list[str] = []
        for text in texts:
            try:
                fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
            except ValueError as error:
                raise ConfigError(
                    f"malformed template: {error} (write {{{{ and }}}} for braces)", ("prompt",)
                ) from None
            for name in fields:
                if not re.fullmatch(r"\w+", name):
                    raise ConfigError(
                        f"{{{name}}} is no column name (write {{{{ and }}}} for braces)",
                        ("prompt",),
                    )
            names += fields
        return names

    def check(self, columns: Sequence[str]) -> None:
        """Raise ConfigError when a column it needs is missing."""
        for name in self.columns():
            if name not in columns:
                what = "the template names" if self.template is not None else "the prompt is"
                raise ConfigError(
                    f"{what} the column {name!r}, which the data does not have"
                    f"{nearest(name, columns)}",
                    ("prompt",),
                )

    def fill(self, row: Row) -> str | list[dict[str, Any]]:
        """The prompt of a row."""
        if self.template is None:
            prompt: str | list[dict[str, Any]] = row["prompt"]
            return prompt
        if isinstance(self.template, str):
            return self.template.format_map(row)
        return [
            {"role": message["role"], "content": message["content"].format_map(row)}
            for message in self.template
        ]


def common_columns(rows: Sequence[Row]) -> list[str]:
    """The columns that every row has, in the order of the first row."""
    present = set(rows[0])
    for row in rows:
        present &= row.keys()
    return [name for name in rows[0] if name in present]


def batches(rows: Sequence[Row], size: int, seed: int, step: int) -> list[tuple[int, Row]]:
    """The rows of training step `step` (from 1), with their indices.

    Every epoch is a fresh permutation; which rows a step gets depends on seed
    and step alone, so resuming needs no state.
    """
    picked: list[tuple[int, Row]] = []
    for position in range((step - 1) * size, step * size):
        epoch, offset = divmod(position, len(rows))
        index = _permutation(len(rows), seed, epoch)[offset]
        picked.append((index, rows[index]))
    return picked


def extra(
    rows: Sequence[Row], size: int, seed: int, step: int, round_: int
) -> list[tuple[int, Row]]:
    """Rows beside those of a step, with their indices: `size` drawn anew for every
    round of a step, with as few repeats as the data allows."""
    chance = random.Random(f"{seed}/{step}/extra/{round_}")
    picked: list[int] = []
    while len(picked) < size:
        picked += chance.sample(range(len(rows)), min(size - len(picked), len(rows)))
    return [(index, rows[index]) for index in picked]


@functools.lru_cache(maxsize=1)  # steps walk through an epoch in order
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
