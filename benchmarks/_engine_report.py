"""What the engine's benchmark found: comparisons with TRL, their bars, tables.

Nothing is run here; `engine.py` does.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from _engine_models import SETTINGS, Setting
from _engine_sides import Steps


@dataclass(frozen=True)
class Bar:
    """What a comparison has to reach."""

    figure: str
    """`total` or `peak`."""
    ratio: float
    """TRL's figure over ours, at least."""


@dataclass
class Comparison:
    """One setting, both sides, and the bars that are asked of it."""

    name: str
    setting: Setting
    bars: Sequence[Bar]
    precision: str = "float32"
    accumulation: int = 1
    dtype: str = "float32"
    trl: list[Steps] = field(default_factory=list)
    ours: list[Steps] = field(default_factory=list)

    def ratio(self, figure: str) -> float:
        """The median over pairs of runs of TRL's figure over ours."""
        pairs = zip(self.trl, self.ours, strict=True)
        return statistics.median(t.medians()[figure] / o.medians()[figure] for t, o in pairs)

    def figures(self, side: str) -> dict[str, float]:
        runs = [steps.medians() for steps in getattr(self, side)]
        return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
            "mean_length": statistics.fmean(run["mean_length"] for run in runs)
        }

    def missed(self) -> list[str]:
        return [
            f"{self.name}: {bar.figure} {self.ratio(bar.figure):.2f}x, asked {bar.ratio:g}x"
            for bar in self.bars
            if self.ratio(bar.figure) < bar.ratio
        ]

    def warnings(self) -> list[str]:
        found = []
        trl, ours = (self.figures(side)["mean_length"] for side in ("trl", "ours"))
        if abs(trl - ours) > 0.05 * min(trl, ours):
            found.append(f"{self.name}: mean lengths differ: TRL {trl:.1f}, ours {ours:.1f} tokens")
        for side in ("trl", "ours"):
            silent = statistics.fmean(s for run in getattr(self, side) for s in run.silent)
            if silent:
                found.append(f"{self.name}: {silent:.1%} of {side}'s groups without signal")
        return found


def comparisons(names: Sequence[str]) -> list[Comparison]:
    """What is compared in each setting, and the bars of the project's issue."""
    found = []
    for name in names:
        setting = SETTINGS[name]
        if name in ("A", "S"):
            asked = [
                (Bar("total", 4.5), Bar("peak", 6.0)),
                (Bar("total", 4.0),),
                (Bar("peak", 4.0),),
            ]
            bars = asked if name == "A" else [(), (), ()]
            found += [
                Comparison(name, setting, bars[0]),
                Comparison(f"{name} bf16", setting, bars[1], "bfloat16"),
                Comparison(f"{name}, TRL in 4 parts", setting, bars[2], accumulation=4),
            ]
        elif name == "B":
            found.append(Comparison(name, setting, (Bar("total", 1.4), Bar("peak", 5.0))))
        elif name == "C":
            found.append(Comparison(name, setting, (Bar("total", 4.0),)))
    return found


def comparison_table(done: Sequence[Comparison], parameters: dict[str, int]) -> Table:
    table = Table(title="seconds a step; MB above the loaded model", header_style="bold")
    for column in ("setting", "side", "total", "generate", "update", "peak MB", "mean length"):
        table.add_column(column, justify="left" if column in ("setting", "side") else "right")
    table.add_column("bar")
    for comparison in done:
        size = f"{parameters[comparison.setting.name] / 1e6:.1f}M"
        for side in ("trl", "ours"):
            figures = comparison.figures(side)
            table.add_row(
                f"{comparison.name} ({size})" if side == "trl" else "",
                "TRL" if side == "trl" else "ours",
                *(f"{figures[name]:.3f}" for name in ("total", "generate", "update")),
                f"{figures['peak']:.0f}",
                f"{figures['mean_length']:.1f}",
            )
        bars = []
        for bar in comparison.bars:
            held = comparison.ratio(bar.figure) >= bar.ratio
            colour = "green" if held else "red"
            bars.append(
                f"[{colour}]{bar.figure} >= {bar.ratio:g}x {'held' if held else 'missed'}[/]"
            )
        ratios = (f"{comparison.ratio(name):.2f}x" for name in ("total", "generate", "update"))
        table.add_row(
            "", "[bold]TRL / ours", *ratios, f"{comparison.ratio('peak'):.2f}x", "", ", ".join(bars)
        )
        table.add_section()
    return table


def lever_table(setting: Setting, found: dict[str, dict[str, float]]) -> Table:
    table = Table(
        title=f"setting {setting.name}: times as long, and as much, with a lever switched off",
        header_style="bold",
    )
    table.add_column("lever")
    for column in ("total", "generate", "update", "peak", "seconds", "peak MB"):
        table.add_column(column, justify="right")
    for name, ratios in found.items():
        table.add_row(
            name,
            *(f"{ratios[figure]:.2f}x" for figure in ("total", "generate", "update", "peak")),
            f"{ratios['seconds']:.2f}",
            f"{ratios['peak_mb']:.0f}",
        )
    return table


def flops(setting: Setting, parameters: int, mean_length: float, *, once: bool) -> float:
    """Floating-point operations of a step; `engine.py` has the formula."""
    looked_up = 0 if setting.tied else setting.vocabulary * setting.hidden
    weights = parameters - looked_up
    samples, groups = setting.samples, setting.prompts
    prompts = groups if once else samples
    tokens = samples * mean_length + prompts * setting.prompt
    pairs = samples * mean_length * (setting.prompt + mean_length / 2)
    pairs += prompts * setting.prompt**2 / 2
    return 8 * weights * tokens + 16 * setting.layers * setting.hidden * pairs


def on_gpu(
    done: Sequence[Comparison], sizes: Mapping[str, int], peak: float
) -> tuple[Table, list[Any]]:
    table = Table(title="on the GPU", header_style="bold")
    columns = ("seconds a step", "tokens / s", "drawing", "update s", "peak MB", "of the peak")
    for column in ("", "side", *columns, "prompt once a group"):
        table.add_column(column, justify="left" if column in ("", "side") else "right")
    results = []
    for comparison in done:
        setting = comparison.setting
        parameters = sizes[setting.name]
        for side in ("trl", "ours"):
            figures = comparison.figures(side)
            tokens = setting.samples * figures["mean_length"]
            share = [
                flops(setting, parameters, figures["mean_length"], once=once)
                / (figures["total"] * peak * 1e12)
                for once in (False, True)
            ]
            result = {
                "comparison": comparison.name,
                "side": side,
                **figures,
                "tokens_per_second": tokens / figures["total"],
                "drawn_per_second": tokens / figures["generate"],
                "share_of_peak": share[0],
                "share_of_peak_prompt_once": share[1] if side == "ours" else None,
            }
            results.append(result)
            table.add_row(
                comparison.name if side == "trl" else "",
                "TRL" if side == "trl" else "ours",
                f"{figures['total']:.2f}",
                f"{result['tokens_per_second']:,.0f}",
                f"{result['drawn_per_second']:,.0f}",
                f"{figures['update']:.2f}",
                f"{figures['peak']:,.0f}",
                f"{share[0]:.1%}",
                f"{share[1]:.1%}" if side == "ours" else "",
            )
        table.add_row(
            "",
            "[bold]TRL / ours",
            f"{comparison.ratio('total'):.2f}x",
            "",
            f"{comparison.ratio('generate'):.2f}x",
            f"{comparison.ratio('update'):.2f}x",
            f"{comparison.ratio('peak'):.2f}x",
        )
        table.add_section()
    return table, results


def as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "precision": comparison.precision,
        "accumulation": comparison.accumulation,
        "bars": [asdict(bar) for bar in comparison.bars],
        "ratios": {n: comparison.ratio(n) for n in ("total", "generate", "update", "peak")},
        "medians": {side: comparison.figures(side) for side in ("trl", "ours")},
        "runs": {side: [asdict(r) for r in getattr(comparison, side)] for side in ("trl", "ours")},
    }
