"""`grpo plot`: draw the curves of one or more runs as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `grpo train` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The picture; curve.png in the first run.")
    ] = None,
) -> None:
    """Draw reward, each reward's mean, and held-out pass@1 against steps."""
    from grpo_core.errors import ConfigError
    from grpo_core.metrics import RunFolder

    try:
        import matplotlib
    except ImportError:
        print("grpo: plots need matplotlib: pip install 'grpo-core[plot]'", file=sys.stderr)
        raise typer.Exit(1) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for path in runs:
        folder = RunFolder(path)
        if not folder.metrics_path.exists():
            raise ConfigError(f"{path} is no run: it has no metrics.jsonl")
        _draw(folder, axes, label=path.name if len(runs) > 1 else None)
    for axis, title in zip(axes, ("reward", "each reward's mean", "held-out pass@1"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize="small")
    target = out or runs[0] / "curve.png"
    figure.savefig(target, dpi=110)
    typer.echo(f"drawn to {target}")


def _draw(folder: Any, axes: Any, label: str | None) -> None:
    lines = folder.read_metrics()
    suffix = f", {label}" if label else ""

    def curve(axis: Any, key: str, name: str | None, **style: Any) -> None:
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1.2, **style)

    curve(axes[0], "reward", label)
    names = sorted({key for line in lines for key in line if key.startswith("rewards/")})
    for key in names:
        if key.endswith("/mean"):
            curve(axes[1], key, key.split("/")[1] + suffix)
    before = folder.read_summary().get("before") or {}
    for key, mode in (("pass@1", "sampled"), ("greedy_pass@1", "greedy")):
        points = [(0, before[key])] if key in before else []
        points += [(line["step"], line[f"eval/{key}"]) for line in lines if f"eval/{key}" in line]
        if points:
            axes[2].plot(*zip(*points, strict=True), "o-", markersize=3, label=mode + suffix)
    axes[2].set_ylim(0, 1)
