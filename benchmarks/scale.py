"""How step time and memory grow with group size, lengths and processes, and a model of it.

    python benchmarks/scale.py [--processes 1 2] [--repeats 3] [--json OUT] [--quick]
    python benchmarks/scale.py --from OUT      # the tables of an earlier run
    python benchmarks/scale.py --predict       # only what the model says of GPUs
    (with --markdown: the tables as docs/scale.md has them)

`grpo train` on a random Llama of 1.3M parameters, one setting varied at a time from a base
point, each point a run in a process of its own; several processes are started by torchrun
and talk over gloo (DDP). Memory is rank 0's, above the loaded model. A step is from the end
of one to the end of the next; the rest is what is neither drawing nor update.

Beside every figure stands what the cost model (`_scale_model.py`) says after its rates were
fitted to these points. Further points, which vary several settings at once, are not fitted:
their errors are the model's. The last table applies the same model to GPUs, with rates from
data sheets. Nobody measured those.

Every process has one thread. Needs Linux, an idle machine with a core for every process,
and the extra `dev`. Not measured: GPUs, FSDP2, several machines, rewards that take time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from _engine_models import Setting
from _engine_sides import MB, Steps
from _scale_model import (
    DDP,
    FSDP2,
    H100,
    LARGE,
    SMALL,
    Card,
    Held,
    Load,
    Seconds,
    Shape,
    Storage,
    fit,
    fit_memory,
    memory,
    phases,
    seconds,
    work,
)
from engine import Bench, machine, write

RESULTS = Path(__file__).parent / "results" / "scale.json"
MODEL = Shape(4, 128, 352, 128, 128, 2048)
BASE = Load(prompts=8, group=8, prompt=128, completion=64)
AXES: dict[str, tuple[int, ...]] = {
    "group": (4, 16, 32),
    "prompt": (32, 256, 512),
    "completion": (16, 128, 256),
    "prompts": (4, 16),
}
HELD_OUT = (
    replace(BASE, group=16, prompt=256, completion=32),
    replace(BASE, prompts=4, prompt=384, completion=192),
    replace(BASE, completion=128, mean=64.0),
    replace(BASE, prompts=16, group=4, completion=96),
)
AS_ON_A_GPU = ["engine.shared_prompt=mask", "train.tokens_per_micro_batch=768"]
"""A CPU would attend by blocks; predictions are for GPUs, whose passes go under a mask."""
QUICK_MODEL = Shape(2, 32, 64, 32, 32, 128)
QUICK_BASE = Load(prompts=2, group=4, prompt=16, completion=8)
QUICK_AXES: dict[str, tuple[int, ...]] = {"group": (8,), "prompt": (32,), "completion": (16,)}
QUICK_HELD_OUT = (replace(QUICK_BASE, group=8, prompt=32, completion=12),)
NAMES = {
    "group": "group size",
    "prompt": "prompt tokens",
    "completion": "completion tokens",
    "prompts": "groups a step",
    "processes": "processes",
}


@dataclass
class Point:
    """A setting, and what was measured there."""

    axis: str
    """What differs from the base; `base`; or `held out`."""
    load: Load
    runs: list[Steps] = field(default_factory=list)

    def figure(self, name: str) -> float:
        return statistics.median(run.medians()[name] for run in self.runs)

    @property
    def measured(self) -> Seconds:
        rest = statistics.median(
            total - draw - update
            for run in self.runs
            for total, draw, update in zip(run.total, run.generate, run.update, strict=True)
        )
        return Seconds(self.figure("generate"), self.figure("update"), rest)

    @property
    def drawn(self) -> Load:
        """The load with the mean length that was drawn."""
        lengths = [length for run in self.runs for length in run.mean_length]
        return replace(self.load, mean=statistics.fmean(lengths))

    @property
    def label(self) -> str:
        if self.axis in NAMES:
            return str(getattr(self.load, self.axis))
        load = self.load
        ragged = f" (mean {load.mean:g})" if load.mean is not None else ""
        return (
            f"{load.prompts} x {load.group}, {load.prompt} + {load.completion}{ragged}"
            f", {load.processes} proc."
        )


def points(processes: Sequence[int], quick: bool) -> list[Point]:
    """The base, every axis, and the points held out."""
    base = QUICK_BASE if quick else BASE
    axes = dict(QUICK_AXES if quick else AXES)
    several = [count for count in processes if count > 1]
    axes["processes"] = tuple(several)
    found = [Point("base", base)]
    found += [
        Point(axis, replace(base, **{axis: value}))
        for axis, values in axes.items()
        for value in values
    ]
    held_out = list(QUICK_HELD_OUT if quick else HELD_OUT)
    for count in several[:1]:
        shared = replace(base, processes=count)
        held_out.append(replace(shared, prompts=2 * base.prompts))
        held_out.append(replace(shared, completion=2 * base.completion))
    return found + [Point("held out", load) for load in held_out]


def measure(bench: Bench, shape: Shape, chosen: Sequence[Point], repeats: int) -> None:
    """Every point once, then all again: what changes over time changes for all."""
    for repeat in range(repeats):
        for point in chosen:
            load = point.load
            setting = Setting(
                f"{load.prompt}-{load.completion}-{load.mean}",
                shape.hidden,
                shape.layers,
                4 if shape.hidden % 4 == 0 else 2,
                shape.intermediate,
                shape.vocabulary,
                load.prompt,
                load.completion,
                load.mean,
                load.prompts,
                load.group,
            )
            bench.build(setting)
            what = f"{point.axis} {point.label}"
            run = bench.run("ours", setting, what, repeat, processes=load.processes)
            point.runs.append(run)


# --- showing ---------------------------------------------------------------------------


@dataclass
class Fitted:
    """The model with the rates of the machine that was measured."""

    shape: Shape
    rates: dict[str, float]
    held: Held

    @classmethod
    def to(cls, shape: Shape, chosen: Sequence[Point]) -> Fitted:
        taught = [point for point in chosen if point.axis != "held out"]
        rates = fit([(work(shape, point.drawn), point.measured) for point in taught])
        peaks = [(phases(shape, point.drawn), point.figure("peak") * MB) for point in taught]
        return cls(shape, rates, fit_memory(peaks))

    def seconds(self, point: Point) -> Seconds:
        return seconds(work(self.shape, point.drawn), self.rates)

    def peak_mb(self, point: Point) -> float:
        return memory(phases(self.shape, point.drawn), self.held) / MB

    def pairs(self, point: Point) -> dict[str, tuple[float, float]]:
        """Measured and predicted."""
        is_, says = point.measured, self.seconds(point)
        return {
            "draw": (is_.draw, says.draw),
            "update": (is_.update, says.update),
            "step": (point.figure("total"), says.total),
            "MB": (point.figure("peak"), self.peak_mb(point)),
        }


@dataclass
class Grid:
    """A table, for the terminal or for a page. The first cell of a row is its name; a row
    of nothing but a name is a heading."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        table = Table(title=self.title, header_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            if len(row) == 1:
                table.add_section()
            table.add_row(*row, style="bold" if len(row) == 1 else None)
        return table

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        empty = [""] * (len(self.columns) - 1)
        rows = [row if len(row) > 1 else [f"**{row[0]}**", *empty] for row in self.rows]
        rule = ["---", *["---:"] * len(empty)]
        return "\n".join(map(line, [self.columns, rule, *rows]))


def measured_grid(chosen: Sequence[Point], fitted: Fitted) -> Grid:
    found = Grid(
        "seconds a step, MB above the loaded model; in brackets what the model says",
        ["", "draw s", "update s", "step s", "MB"],
        [],
    )
    before = None
    for point in chosen:
        if point.axis != before:
            found.rows.append([NAMES.get(point.axis, point.axis)])
        before = point.axis
        cells = []
        for name, (is_, says) in fitted.pairs(point).items():
            form = ".0f" if name == "MB" else ".3f"
            cells.append(f"{is_:{form}} ({says:{form}})")
        found.rows.append([point.label, *cells])
    return found


def errors(chosen: Sequence[Point], fitted: Fitted) -> dict[str, dict[str, dict[str, float]]]:
    """Of the model, relative: the median and the worst, on fitted points and on the others."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for held_out in (False, True):
        rows = [fitted.pairs(p) for p in chosen if (p.axis == "held out") == held_out]
        found["held out" if held_out else "fitted"] = {
            name: {
                "median": statistics.median(abs(s / i - 1) for i, s in column),
                "worst": max(abs(s / i - 1) for i, s in column),
            }
            for name in rows[0]
            if (column := [row[name] for row in rows])
        }
    return found


def error_grid(found: dict[str, dict[str, dict[str, float]]]) -> Grid:
    columns = list(next(iter(found.values())))
    rows = [
        [which, *(f"{e['median']:.0%} ({e['worst']:.0%})" for e in by_column.values())]
        for which, by_column in found.items()
    ]
    return Grid("error of the model: median (worst)", ["points", *columns], rows)


UNITS = {
    "decode_layers": ("µs a layer and decode step", 1e6),
    "draw_flops": ("s per 10^9 FLOP, drawing", 1e9),
    "cache_read": ("s per 10^9 bytes of cache read", 1e9),
    "pass_layers": ("µs a layer and pass", 1e6),
    "train_flops": ("s per 10^9 FLOP of linear layers, learning", 1e9),
    "attention_flops": ("s per 10^9 FLOP of attention, learning", 1e9),
    "updated": ("ns a parameter updated", 1e9),
    "moved": ("s per 10^9 bytes all-reduced", 1e9),
    "steps": ("ms a step", 1e3),
    "samples": ("µs a sample", 1e6),
    "exchanged": ("s per 10^9 bytes of samples received", 1e9),
}


def rates_grid(fitted: Fitted, base: Point) -> Grid:
    """Each rate, and its part of the base point."""
    amounts = work(fitted.shape, base.drawn)
    rows = []
    for name, (unit, times) in UNITS.items():
        rate = fitted.rates[name]
        rows.append([name, f"{rate * times:.3g}", unit, f"{rate * amounts[name]:.3f}"])
    held = fitted.held
    rows += [
        ["fixed", f"{held.fixed / MB:.0f}", "MB of memory", ""],
        ["activation", f"{held.activation:.2f}", "bytes a value kept for the backward pass", ""],
        ["cache", f"{held.cache:.2f}", "bytes a byte of keys and values", ""],
    ]
    return Grid("fitted rates", ["", "rate", "unit", "s of the base step"], rows)


# --- GPUs that nobody measured ------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model, how it is held, and a step of it."""

    name: str
    shape: Shape
    storage: Storage
    load: Load
    gpus: tuple[int, ...]
    growing: bool
    """Whether there are `load.prompts` groups for every GPU, or in all."""

    def on(self, gpus: int) -> Load:
        groups = self.load.prompts * (gpus if self.growing else 1)
        return replace(self.load, prompts=groups, processes=gpus)


TYPICAL = Load(256, 8, 512, 1024, 512.0, budget=16_384)
CASES = tuple(
    Case(f"{name}, {what}", shape, storage, replace(load, prompts=groups), gpus, growing)
    for name, shape, storage, load, gpus in (
        ("0.5B, DDP", SMALL, DDP, TYPICAL, (1, 8, 64)),
        ("7B, FSDP2", LARGE, FSDP2, replace(TYPICAL, checkpointing=True), (8, 64)),
    )
    for what, groups, growing in (("256 groups a step", 256, False), ("32 groups a GPU", 32, True))
)


def predict() -> list[dict[str, Any]]:
    """What the model says of `CASES` on H100s, a row a number of GPUs."""
    found: list[dict[str, Any]] = []
    for case in CASES:
        first = 0.0
        for gpus in case.gpus:
            load = case.on(gpus)
            amounts, rates = work(case.shape, load, case.storage), H100.rates(case.storage, gpus)
            spent = seconds(amounts, rates)
            links = ("draw_moved", "moved", "messages", "exchanged")
            share = 1 / gpus if case.storage.sharded else 1.0
            weights = case.shape.parameters * case.storage.weight * share
            held = weights + memory(phases(case.shape, load, case.storage), H100.held)
            each = load.samples / spent.total / gpus
            first = first or each
            found.append(
                {
                    "case": case.name,
                    "gpus": gpus,
                    **asdict(spent),
                    "step": spent.total,
                    "starting": amounts["decode_layers"] * rates["decode_layers"],
                    "network": sum(amounts[name] * rates[name] for name in links),
                    "samples_per_second": each * gpus,
                    "efficiency": each / first,
                    "gb": held / 1e9,
                }
            )
    return found


def card_grid(card: Card) -> Grid:
    """What is taken from data sheets, and what is assumed."""
    sheet, guess = "data sheet", "assumed"
    rows = [
        ["bfloat16, dense", f"{card.bfloat16 / 1e12:g} TFLOP/s", sheet],
        ["float32", f"{card.float32 / 1e12:g} TFLOP/s", sheet],
        ["memory", f"{card.memory / 1e9:g} GB", sheet],
        ["memory bandwidth", f"{card.bandwidth / 1e12:g} TB/s", sheet],
        ["NVLink, one direction", f"{card.nvlink / 1e9:g} GB/s, {card.node} GPUs a node", sheet],
        ["InfiniBand, one direction", f"{card.infiniband / 1e9:g} GB/s a node", sheet],
        ["share of the FLOP/s that is reached", f"{card.used:.0%}", guess],
        ["share of every bandwidth that is reached", f"{card.reached:.0%}", guess],
        ["starting a layer, a decode step", f"{card.decode_layer * 1e3:g} ms", guess],
        ["a message of a collective", f"{card.message * 1e6:g} µs", guess],
        ["the exchange of samples", f"{card.network / 1e9:g} GB/s", guess],
        ["reading the samples received", f"{card.unpack / 1e6:g} MB/s", "measured on a CPU"],
        ["Python, a sample, on every process", f"{card.sample * 1e3:g} ms", guess],
        ["a step, whatever its size", f"{card.step * 1e3:g} ms", guess],
        ["activations", f"{card.held.activation:g} bytes a value", guess],
        ["keys and values", f"{card.held.cache:g} bytes a byte", guess],
        ["context, libraries, slack", f"{card.held.fixed / 1e9:g} GB a GPU", guess],
    ]
    return Grid(f"what is taken of {card.name}", ["", "figure", ""], rows)


def prediction_grid(found: Sequence[dict[str, Any]]) -> Grid:
    columns = ("GPUs", "draw s", "update s", "rest s", "step s", "starting layers s", "network s")
    grid = Grid(
        f"predicted, measured by nobody: {H100.name}, groups of {TYPICAL.group}, prompts of "
        f"{TYPICAL.prompt}, completions up to {TYPICAL.completion}, {TYPICAL.mean:g} on average",
        [*columns, "samples / s", "efficiency", "GB a GPU"],
        [],
    )
    before = None
    for row in found:
        if row["case"] != before:
            grid.rows.append([row["case"]])
        before = row["case"]
        names = ("draw", "update", "rest", "step", "starting", "network")
        grid.rows.append(
            [
                str(row["gpus"]),
                *(f"{row[name]:.1f}" for name in names),
                f"{row['samples_per_second']:.0f}",
                f"{row['efficiency']:.0%}",
                f"{row['gb']:.0f}",
            ]
        )
    return grid


# --- the command ------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help=f"by default results/{RESULTS.name}"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, once: does it work")
    parser.add_argument("--from", type=Path, dest="earlier", metavar="OUT", help="measure nothing")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument("--predict", action="store_true", help="only the prediction for GPUs")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    console = Console(width=None if sys.stdout.isatty() else 140)

    def show(*grids: Grid) -> None:
        for grid in grids:
            if arguments.markdown:
                print(f"\n{grid.title}\n\n{grid.markdown()}")
            else:
                console.print(grid.rich())

    predicted = predict()
    if arguments.predict:
        show(card_grid(H100), prediction_grid(predicted))
        return 0
    if arguments.earlier:
        kept = json.loads(arguments.earlier.read_text())
        about, shape = kept["machine"], Shape(**kept["shape"])
        chosen = [
            Point(p["axis"], Load(**p["load"]), [Steps(**run) for run in p["runs"]])
            for p in kept["points"]
        ]
    else:
        about, shape, chosen = run(arguments, console)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    fitted = Fitted.to(shape, chosen)
    missed = errors(chosen, fitted)
    show(measured_grid(chosen, fitted), error_grid(missed), rates_grid(fitted, chosen[0]))
    show(prediction_grid(predicted))
    target = arguments.json or (None if arguments.quick or arguments.earlier else RESULTS)
    if target:
        found = {
            "machine": about,
            "shape": asdict(shape),
            "parameters": shape.parameters,
            "points": [asdict(point) for point in chosen],
            "model": [
                {name: {"measured": i, "model": s} for name, (i, s) in fitted.pairs(point).items()}
                for point in chosen
            ],
            "rates": fitted.rates,
            "held": asdict(fitted.held),
            "errors": missed,
            "predicted": predicted,
        }
        write(target, found)
        console.print(f"written to {target}", highlight=False)
    return 0


def run(
    arguments: argparse.Namespace, console: Console
) -> tuple[dict[str, Any], Shape, list[Point]]:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours is shown
    about = machine(1, gpu=False)
    if about["load"] > 0.5:
        console.print(f"[yellow]the machine is not idle: load {about['load']:.1f}")
    if max(arguments.processes) > about["cores"]:
        console.print(f"[yellow]{about['cores']} cores for {max(arguments.processes)} processes")
    repeats, steps = (1, 3) if arguments.quick else (arguments.repeats, 6)
    shape = QUICK_MODEL if arguments.quick else MODEL
    chosen = points(arguments.processes, arguments.quick)
    with (
        tempfile.TemporaryDirectory(prefix="grpo-scale-") as folder,
        Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as progress,
    ):
        task = progress.add_task("", total=repeats * len(chosen), what="building models")
        bench = Bench(Path(folder), 1, 1, {"ours": steps}, AS_ON_A_GPU, progress, task)
        measure(bench, shape, chosen, repeats)
    return about, shape, chosen


if __name__ == "__main__":
    sys.exit(main())
