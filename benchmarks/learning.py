"""Does the engine learn as well as TRL, in less time? What do groups and models cost?

    python benchmarks/learning.py [--seeds 3] [--out benchmarks/results] [--quick]

1. Learning: the calculator example by TRL and by this engine, from the same policy, on the
   same prompts in the same order, with the same group size, number of samples, learning
   rate and its decay, rewards (our plugins, as reward functions there), weights, scaling
   and objective; seeds 0, 1, 2. Checkpoints of both are judged alike: a sampled answer to
   each held-out sum. Asked at every checkpoint: mean accuracy at least TRL's, within its
   95% interval (Wilson's, over all seeds' answers), in less than three quarters of its time.
   Time counts from the first step's begin and leaves loading and judging out. TRL scores
   in its own process after drawing, we in workers meanwhile; the table has TRL's time
   without scoring, too.
2. Group size: G = 2, 4, 8, 16 at equal samples a step, ours alone.
3. What each model costs: policy, reference, reward model, and the critic that PPO would
   add, of the size of setting A of benchmarks/engine.py.

Writes learning.json, learning.png and group-sizes.png. Exits with 1 when a bar is not held.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from _engine_learning import Judging, Trained, Training
from _engine_models import SETTINGS, Setting, build
from engine import machine, write
from grpo_core.config import load
from grpo_core.metrics import wilson_interval

HERE = Path(__file__).parent
CONFIG = HERE.parent / "examples" / "calculator" / "grpo.yaml"
GROUP_SIZES = (2, 4, 8, 16)
ROLES = ("policy", "reference", "reward", "critic")
TIME_BAR = 0.75


@dataclass
class Bench:
    """Starts processes one after another; a bar shows how far it is."""

    folder: Path
    threads: int
    limit: int | None
    overrides: list[str]
    progress: Progress
    task: Any = None

    def start(self, script: str, *arguments: str, what: str) -> Any:
        self.progress.update(self.task, what=what)
        result = self.folder / "result.json"
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        ended = subprocess.run(
            [sys.executable, str(HERE / script), *arguments, str(result)],
            env=os.environ | threads | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            sys.exit(f"{what} failed:\n{ended.stderr[-4000:]}")
        self.progress.advance(self.task)
        return json.loads(result.read_text())

    def given(self, spec: Training | Judging) -> str:
        path = self.folder / "spec.json"
        path.write_text(json.dumps(asdict(spec)))
        return str(path)

    def train(self, side: str, name: str, every: int, overrides: Sequence[str]) -> Trained:
        spec = Training(
            side,
            str(CONFIG),
            str(self.folder / name),
            every,
            self.threads,
            [*self.overrides, *overrides],
        )
        found = self.start("_engine_learning.py", self.given(spec), what=name)
        found["checkpoints"] = {int(k): path for k, path in found["checkpoints"].items()}
        return Trained(**found)

    def judge(self, checkpoints: Sequence[str], what: str) -> list[dict[str, float]]:
        spec = Judging(str(CONFIG), list(checkpoints), self.limit, self.threads, self.overrides)
        return self.start("_engine_learning.py", self.given(spec), what=f"judging {what}")


# --- 1: learning -------------------------------------------------------------------------


def learning(bench: Bench, seeds: int, every: int) -> dict[str, Any]:
    """Both sides, seed by seed, swapping who goes first; then all checkpoints judged."""
    runs: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    start = bench.judge([str(CONFIG.parent / load(CONFIG).model.name)], "the policy to start from")
    for seed in range(seeds):
        for side in ("trl", "ours") if seed % 2 == 0 else ("ours", "trl"):
            run = bench.train(side, f"{side}-{seed}", every, [f"train.seed={seed}"])
            judged = bench.judge(list(run.checkpoints.values()), f"{side}, seed {seed}")
            runs[side].append(
                asdict(run)
                | {
                    "seed": seed,
                    "checkpoints": list(run.checkpoints),  # their folders are gone afterwards
                    "judged": dict(zip(run.checkpoints, judged, strict=True)),
                }
            )
    return {"start": start[0], "runs": runs, "checkpoints": _checkpoints(runs)}


def _checkpoints(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row a checkpoint: both sides' mean accuracies and times, and whether bars are held."""
    rows = []
    for step in runs["ours"][0]["judged"]:
        row: dict[str, Any] = {"step": step}
        for side in ("trl", "ours"):
            judged = [run["judged"][step] for run in runs[side]]
            n = sum(one["n"] for one in judged)
            accuracy = sum(one["accuracy"] * one["n"] for one in judged) / n
            row[side] = {
                "accuracy": accuracy,
                "interval": wilson_interval(accuracy, n),
                "seeds": [one["accuracy"] for one in judged],
                "seconds": statistics.fmean(run["ends"][step - 1] for run in runs[side]),
                "scoring": statistics.fmean(sum(run["scoring"][:step]) for run in runs[side]),
            }
        trl, ours = row["trl"], row["ours"]
        row["accuracy_held"] = ours["accuracy"] >= trl["interval"][0]
        row["within_seeds"] = ours["accuracy"] >= min(trl["seeds"])
        row["time_ratio"] = ours["seconds"] / trl["seconds"]
        row["time_ratio_without_scoring"] = (ours["seconds"] - ours["scoring"]) / (
            trl["seconds"] - trl["scoring"]
        )
        row["time_held"] = row["time_ratio"] < TIME_BAR
        rows.append(row)
    return rows


def learning_table(found: dict[str, Any]) -> Table:
    seeds = len(found["runs"]["ours"])
    table = Table(
        title=f"held-out accuracy, sampled, {seeds} seeds (before: {found['start']['accuracy']:.3f})",
        header_style="bold",
    )
    for column in ("step", "TRL [95%]", "TRL's seeds", "ours", "our seeds", "accuracy"):
        table.add_column(column, justify="right")
    for column in ("TRL s", "ours s", "ours / TRL", "without scoring", f"< {TIME_BAR}"):
        table.add_column(column, justify="right")
    for row in found["checkpoints"]:
        trl, ours = row["trl"], row["ours"]
        low, high = trl["interval"]
        verdict = "[green]held" if row["accuracy_held"] else "[red]missed"
        if not row["accuracy_held"] and row["within_seeds"]:
            verdict += " (within TRL's seeds)"
        table.add_row(
            str(row["step"]),
            f"{trl['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            " ".join(f"{one:.3f}" for one in trl["seeds"]),
            f"{ours['accuracy']:.3f}",
            " ".join(f"{one:.3f}" for one in ours["seeds"]),
            verdict,
            f"{trl['seconds']:.1f}",
            f"{ours['seconds']:.1f}",
            f"{row['time_ratio']:.2f}",
            f"{row['time_ratio_without_scoring']:.2f}",
            "[green]held" if row["time_held"] else "[red]missed",
        )
    return table


# --- 2: group sizes ----------------------------------------------------------------------


def group_sizes(bench: Bench, sizes: Sequence[int], seeds: int, every: int) -> list[dict[str, Any]]:
    """What G does when each step has the same number of samples."""
    config = load(CONFIG)
    samples = config.train.prompts_per_step * config.grpo.group_size
    rows = []
    for size in sizes:
        keys = [f"grpo.group_size={size}", f"train.prompts_per_step={samples // size}"]
        runs, accuracies = [], []
        for seed in range(seeds):
            run = bench.train("ours", f"G{size}-{seed}", every, [*keys, f"train.seed={seed}"])
            judged = bench.judge(list(run.checkpoints.values()), f"G = {size}, seed {seed}")
            accuracies.append(
                {k: j["accuracy"] for k, j in zip(run.checkpoints, judged, strict=True)}
            )
            runs.append(run)
        rows.append(
            {
                "group_size": size,
                "prompts": samples // size,
                "accuracy": {
                    step: [one[step] for one in accuracies] for step in runs[0].checkpoints
                },
                "silent": statistics.fmean(s for run in runs for s in run.silent),
                "seconds": statistics.fmean(run.ends[-1] for run in runs),
            }
        )
    return rows


def group_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="group size at equal samples a step", header_style="bold")
    steps = list(rows[0]["accuracy"])
    columns = [f"step {step}" for step in steps]
    for column in ("G", "prompts", *columns, "seeds at the end", "silent groups", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        last = row["accuracy"][steps[-1]]
        table.add_row(
            str(row["group_size"]),
            str(row["prompts"]),
            *(f"{statistics.fmean(row['accuracy'][step]):.3f}" for step in steps),
            " ".join(f"{one:.3f}" for one in last),
            f"{row['silent']:.1%}",
            f"{row['seconds']:.1f}",
        )
    return table


# --- 3: what models cost -----------------------------------------------------------------


def costs(bench: Bench, setting: Setting) -> dict[str, dict[str, float]]:
    place = bench.folder / setting.name
    place.mkdir()
    build(setting, place, rows=1)
    numbers = (setting.samples, setting.prompt, setting.completion, bench.threads)
    work = [str(place / "model"), *map(str, numbers)]
    return {
        role: bench.start("_engine_costs.py", role, *work, what=f"cost of the {role}")
        for role in ROLES
    }


def cost_table(found: dict[str, dict[str, float]], setting: Setting) -> Table:
    title = f"models of {found['policy']['parameters'] / 1e6:.1f}M parameters; a step of "
    title += (
        f"{setting.samples} sequences of {setting.prompt + setting.completion} tokens, no drawing"
    )
    table = Table(title=title, header_style="bold")
    names = ("weights", "gradients", "optimizer", "activations")
    table.add_column("model")
    for column in (*names, "kept MB", "forward s", "learn s"):
        table.add_column(column, justify="right")
    for role, cost in found.items():
        table.add_row(
            role,
            *(f"{cost[f'{name}_mb']:.0f}" for name in names),
            f"{kept(cost):.0f}",
            f"{cost['forward_s']:.2f}",
            f"{cost['update_s']:.2f}" if cost["update_s"] else "",
        )
    table.add_section()
    together = {
        "GRPO, rule rewards": ("policy",),
        "GRPO with KL": ("policy", "reference"),
        "GRPO with KL, reward model": ("policy", "reference", "reward"),
        "PPO: the same and a critic": ROLES,
    }
    for name, roles in together.items():
        mb = sum(kept(found[role]) for role in roles)
        # policy and critic learn; what only reads, and the critic's values, are a forward pass
        seconds = sum(found[role]["update_s"] for role in roles)
        seconds += sum(found[role]["forward_s"] for role in roles if role != "policy")
        table.add_row(name, "", "", "", "", f"{mb:.0f}", "", f"{seconds:.2f}")
    return table


def kept(cost: dict[str, float]) -> float:
    """MB that a model holds for as long as training lasts."""
    return cost["weights_mb"] + cost["gradients_mb"] + cost["optimizer_mb"]


# --- plots -------------------------------------------------------------------------------


def plot_learning(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_time) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    before = found["start"]["accuracy"]
    for side, label, colour in (("trl", "TRL 1.16", "tab:orange"), ("ours", "grpo", "tab:blue")):
        for run in found["runs"][side]:
            steps = [0, *run["judged"]]
            values = [before, *(one["accuracy"] for one in run["judged"].values())]
            times = [0.0, *(run["ends"][step - 1] for step in run["judged"])]
            name = label if run["seed"] == 0 else None
            by_step.plot(steps, values, color=colour, label=name, alpha=0.8, marker=".")
            by_time.plot(times, values, color=colour, alpha=0.8, marker=".")
    by_step.set(xlabel="step", ylabel="held-out accuracy, sampled")
    by_time.set(xlabel="seconds")
    by_step.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def plot_groups(rows: Sequence[dict[str, Any]], before: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 4))
    for row in rows:
        steps = [0, *row["accuracy"]]
        values = [before, *(statistics.fmean(found) for found in row["accuracy"].values())]
        axes.plot(steps, values, marker=".", label=f"G = {row['group_size']}")
    axes.set(xlabel="step", ylabel="held-out accuracy, sampled")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# --- the command -------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("learning", "groups", "costs")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=14, help="steps between checkpoints")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=list(GROUP_SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument(
        "--quick", action="store_true", help="4 steps, one seed, a tiny model: a look"
    )
    parser.add_argument("--ours", nargs="*", default=[], metavar="KEY=VALUE", help="config")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; parts: {', '.join(parts)}")
    arguments.parts = arguments.parts or list(parts)
    return arguments


def main() -> int:
    arguments = parse()
    console = Console(width=None if sys.stdout.isatty() else 160)
    about = machine(arguments.threads, gpu=False)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    if about["load"] > 0.5:
        console.print(f"[yellow]the machine is not idle: load {about['load']:.1f}")
    seeds, every, limit, keys = arguments.seeds, arguments.every, None, arguments.ours
    if arguments.quick:
        seeds, every, limit, keys = 1, 2, 100, ["train.steps=4", *keys]
    parts: list[str] = arguments.parts
    total = (1 + 4 * seeds) * ("learning" in parts) + len(ROLES) * ("costs" in parts)
    total += 2 * seeds * len(arguments.group_sizes) * ("groups" in parts)
    found: dict[str, Any] = {"machine": about, "overrides": keys}
    missed = []
    with (
        tempfile.TemporaryDirectory(prefix="grpo-learning-") as folder,
        Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as progress,
    ):
        task = progress.add_task("", total=total, what="")
        bench = Bench(Path(folder), arguments.threads, limit, keys, progress, task)
        arguments.out.mkdir(parents=True, exist_ok=True)
        if "learning" in parts:
            found["learning"] = learning(bench, seeds, every)
            console.print(learning_table(found["learning"]))
            plot_learning(found["learning"], arguments.out / "learning.png")
            missed = [
                f"step {row['step']}: {what}"
                for row in found["learning"]["checkpoints"]
                for what in ("accuracy", "time")
                if not row[f"{what}_held"]
            ]
        if "groups" in parts:
            rows = group_sizes(bench, arguments.group_sizes, seeds, every)
            found["groups"] = rows
            console.print(group_table(rows))
            before = found["learning"]["start"]["accuracy"] if "learning" in parts else math.nan
            plot_groups(rows, before, arguments.out / "group-sizes.png")
        if "costs" in parts:
            setting = SETTINGS["S" if arguments.quick else "A"]
            found["costs"] = costs(bench, setting)
            console.print(cost_table(found["costs"], setting))
    for text in missed:
        console.print(f"[red]bar missed:[/] {text}", highlight=False)
    write(arguments.out / "learning.json", found)
    console.print(f"written to {arguments.out}", highlight=False)
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
