"""What a run leaves behind: metrics.jsonl, samples/, summary.json, and the numbers in them.

The names are those that dashboards of this field know. Whatever depends on the
clock or the machine is `step_time`, `time/…` or `system/…`; everything else is
the same for the same seed.
"""

from __future__ import annotations

import fcntl
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_core.disk import Say, append, rename, when_there_is_space, write_whole
from grpo_core.errors import ConfigError
from grpo_core.rewards import Outcome, Sample, Steps
from grpo_core.rubric import Rubric, Table

Metrics = dict[str, float | int | None]


def mean(values: Iterable[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def deviation(values: Iterable[float]) -> float | None:
    """The sample deviation; 0 of one value, None of nothing."""
    values = list(values)
    if not values:
        return None
    return statistics.stdev(values) if len(values) > 1 else 0.0


def reward_metrics(table: Table, group_size: int) -> Metrics:
    """Reward, its spread, and how each reward's judgements ended.

    `reward_std` is the mean over groups of their deviation;
    `frac_reward_zero_std` the share of groups from which nothing is learnt.
    """
    totals = table.totals
    groups = [
        [total for total in totals[first : first + group_size] if total is not None]
        for first in range(0, len(totals), group_size)
    ]
    metrics: Metrics = {
        "reward": mean(total for total in totals if total is not None),
        "reward_std": mean(d for group in groups if (d := deviation(group)) is not None),
        "frac_reward_zero_std": len(_flat(table, group_size)) / len(groups),
    }
    for name, scores in table.scores.items():
        values = [score.value for score in scores if score.value is not None]
        metrics[f"rewards/{name}/mean"] = mean(values)
        metrics[f"rewards/{name}/std"] = deviation(values)
        outcomes = Counter(score.outcome for score in scores)
        for outcome in Outcome:
            metrics[f"outcomes/{name}/{outcome.value}"] = outcomes[outcome]
        details: dict[str, list[float]] = {}
        for score in scores:
            for key, value in score.details.items():
                details.setdefault(key, []).append(value)
        for key in sorted(details):
            metrics[f"details/{name}/{key}"] = mean(details[key])
    metrics["outcomes/excluded"] = sum(total is None for total in totals)
    return metrics


def _flat(table: Table, group_size: int) -> list[range]:
    """The samples of each group whose totals are all equal, or missing."""
    groups = [range(first, first + group_size) for first in range(0, len(table.totals), group_size)]
    return [g for g in groups if len({table.totals[n] for n in g} - {None}) <= 1]


def silent_groups(table: Table, group_size: int) -> list[int]:
    """The groups from which nothing is learnt: flat ones whose steps are, too."""

    def taught_by(column: Sequence[Steps | None], samples: range) -> bool:
        return len({value for n in samples for _, value in column[n] or ()}) > 1

    return [
        samples.start // group_size
        for samples in _flat(table, group_size)
        if not any(taught_by(column, samples) for column in table.steps.values())
    ]


NO_SIGNAL = ("all_right", "all_wrong", "cancelling", "all_abstained", "all_truncated")


def no_signal_metrics(
    table: Table, truncated: Sequence[bool], rubric: Rubric, group_size: int, step: int
) -> Metrics:
    """Why groups teach nothing, counted over those whose totals are all equal.

    `all_abstained`: no sample has a total; `all_truncated`: every completion was cut
    off; `cancelling`: rewards differ but their weighted sums do not; else, by the
    reward of the greatest weight, `all_right` (every sample at its maximum) or
    `all_wrong`.
    """
    counts = dict.fromkeys(NO_SIGNAL, 0)
    weights = rubric.weights(step)
    main = max(range(len(weights)), key=lambda r: abs(weights[r]))
    best = rubric.terms[main].reward.range[1]
    best = 1.0 if math.isinf(best) else best
    for rows in _flat(table, group_size):
        present = [n for n in rows if table.totals[n] is not None]
        if not present:
            counts["all_abstained"] += 1
        elif all(truncated[n] for n in rows):
            counts["all_truncated"] += 1
        elif len({str(table.values[n]) for n in present}) > 1:  # as text: nan equals itself
            counts["cancelling"] += 1
        else:
            right = table.values[present[0]][main] >= best
            counts["all_right" if right else "all_wrong"] += 1
    return {f"no_signal/{reason}": number for reason, number in counts.items()}


def length_metrics(lengths: Sequence[int], truncated: Sequence[bool]) -> Metrics:
    """Completion lengths in tokens, and the share that was cut off."""
    return {
        "completions/mean_length": mean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": sum(truncated) / len(truncated),
    }


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share seen in n trials (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def sample_rows(
    samples: Sequence[Sample],
    table: Table,
    seconds: Mapping[str, Sequence[float]],
    prompts: Sequence[str],
    extra: Mapping[str, Sequence[Any]],
) -> list[dict[str, Any]]:
    """Judged samples as flat rows: text, columns, total, and each reward's
    score with what it took, and its steps if it gave any on any row."""
    by_steps = {n for n, column in table.scores.items() if any(s.steps for s in column)}
    rows = []
    for n, sample in enumerate(samples):
        row: dict[str, Any] = {
            "group": sample.group,
            "index": sample.index,
            "prompt": prompts[n],
            "completion": sample.completion_text,
            "columns": json.dumps(dict(sample.columns), ensure_ascii=False, default=str),
            "truncated": sample.truncated,
            **{name: values[n] for name, values in extra.items()},
            "total": table.totals[n],
        }
        for name, scores in table.scores.items():
            row[f"{name}/value"] = scores[n].value
            row[f"{name}/outcome"] = scores[n].outcome.value
            row[f"{name}/reason"] = scores[n].reason
            row[f"{name}/seconds"] = seconds[name][n]
            if name in by_steps:
                steps = scores[n].steps
                row[f"{name}/steps"] = (
                    None if steps is None else [{"offset": o, "value": v} for o, v in steps]
                )
        rows.append(row)
    return rows


class RunFolder:
    """The folder of one run. Files appear whole, and a full disk is waited for: `say` is told."""

    def __init__(self, path: Path, say: Say = print) -> None:
        self.path, self.say = path, say
        self.metrics_path = path / "metrics.jsonl"
        self.samples_path = path / "samples"
        self.checkpoints_path = path / "checkpoints"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """While entered no other process can claim this folder. Raises ConfigError when one has."""
        with _writable(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.with_name(f".{self.path.name}.lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process is training in {self.path}; wait for it, or name another run "
                    "(`name=...`)",
                    ("name",),
                ) from None
            except OSError as error:  # a file system without locks
                self.say(f"{self.path} cannot be locked against other processes: {error}")
            yield

    def start(self) -> Path | None:
        """Make the folder anew. One that holds a run is moved aside, and its new path returned.

        Raises ConfigError when it cannot be made or written to.
        """
        aside = None
        with _writable(self.path):
            if self._holds_a_run():
                number = 1
                while self.path.with_name(f"{self.path.name}.{number}").exists():
                    number += 1
                aside = self.path.rename(self.path.with_name(f"{self.path.name}.{number}"))
            when_there_is_space(self._make, self.path, self.say)
        return aside

    def rewind(self, step: int) -> None:
        """Forget what was written after a step, before going on from its checkpoint.

        Raises ConfigError when the folder cannot be written to, or a line up to that step
        is torn.
        """
        with _writable(self.path):
            when_there_is_space(self._make, self.path, self.say)
            for partial in self.samples_path.glob("*.partial"):
                partial.unlink()
            for path in self.samples_path.glob("*.parquet"):
                if int(path.stem.split("-")[1]) > step:
                    path.unlink()
            kept = "".join(self._lines_up_to(step))
            self._write(self.metrics_path, kept)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every complete line of metrics.jsonl (a crash may have torn the last)."""
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }  # JSON has no nan
        line = json.dumps(finite, allow_nan=False)
        when_there_is_space(lambda: append(self.metrics_path, line), self.metrics_path, self.say)

    def add_samples(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write `samples/<name>.parquet`."""
        import pyarrow
        import pyarrow.parquet

        path = self.samples_path / f"{name}.parquet"
        partial = path.with_suffix(".partial")
        table = pyarrow.Table.from_pylist(
            [{name: _writable_text(value) for name, value in row.items()} for row in rows]
        )

        def write() -> None:
            try:
                pyarrow.parquet.write_table(table, partial)
                rename(partial, path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise

        when_there_is_space(write, path, self.say)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        path = self.path / "summary.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def write_config(self, text: str) -> None:
        self._write(self.path / "config.yaml", text)

    def read_config(self) -> str:
        """The config that was resolved when the run was last started; empty when there is none."""
        path = self.path / "config.yaml"
        return path.read_text() if path.exists() else ""

    def _lines_up_to(self, step: int) -> list[str]:
        """As they were written. What a crash has torn comes after the last checkpoint."""
        kept: list[str] = []
        with self.metrics_path.open(newline="", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                try:
                    of = int(json.loads(line)["step"]) if line.endswith("\n") else None
                except (ValueError, KeyError, TypeError):
                    of = None
                if of is None and len(kept) < step:
                    raise ConfigError(
                        f"{self.metrics_path} line {number} is torn, though the run got to step "
                        f"{step}: repair the line, or remove the file"
                    )
                if of is None:
                    break
                if of <= step:
                    kept.append(line)
        return kept

    def _write(self, path: Path, text: str) -> None:
        when_there_is_space(lambda: write_whole(path, text), path, self.say)

    def _make(self) -> None:
        self.samples_path.mkdir(parents=True, exist_ok=True)
        self.checkpoints_path.mkdir(exist_ok=True)
        self.metrics_path.touch()

    def _holds_a_run(self) -> bool:
        lines = self.metrics_path.exists() and self.metrics_path.stat().st_size
        return bool(lines) or any(self.checkpoints_path.glob("step-*"))


def _writable_text(value: Any) -> Any:
    """Text with half a surrogate pair, which no file can hold, with its escape instead."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """What the disk refuses is a mistake in the config, said before a model is loaded."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write to {path}: {(error.strerror or str(error)).lower()}; "
            "name another folder (`train.output_dir=...`) or make this one writable",
            ("train", "output_dir"),
        ) from None
