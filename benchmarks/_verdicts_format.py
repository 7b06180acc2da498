"""The format reward against a slow reference parser, and against a megabyte of anything.

Needs no data: the reference and the generator of damaged completions are those
of the plugin's own tests.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from grpo_core import Sample

COUNT = 100_000
MEGABYTE = 1_000_000


def tables(console: Console, data: Path) -> None:
    """Print both tables; `data` is not used."""
    console.print(agreement(COUNT))
    console.print(megabytes())


def agreement(count: int) -> Table:
    """How often the plugin and the reference parser say the same."""
    from grpo_reward_format import Layout, parse

    own = _tests_conftest()
    table = Table(title="format: verdicts against the reference parser")
    for column in ("template", "strings", "well formed", "agree", "differ"):
        table.add_column(column, justify="left" if column == "template" else "right")
    for seed, prefilled in enumerate((False, True)):
        texts = list(own.damaged(count, seed))
        if prefilled:
            texts = [text.replace("<think>", "", i % 4 > 0) for i, text in enumerate(texts)]
        layout = Layout(prefilled=prefilled)
        ours = [parse(text, layout).fault is None for text in texts]
        agree = sum(
            own.reference(text, prefilled=prefilled) == verdict
            for text, verdict in zip(texts, ours, strict=True)
        )
        table.add_row(
            "<think> prefilled" if prefilled else "plain",
            f"{count:,}",
            f"{sum(ours):,}",
            f"{agree:,}",
            f"{count - agree:,}",
        )
    return table


def megabytes() -> Table:
    """Milliseconds for inputs of 1 MB that were made to be slow."""
    from grpo_reward_format import Format

    plain = Format()
    full = Format(partial=0.5, answer_contains=[r"\boxed{*}", "so * is *"])
    table = Table(title="format: a megabyte, best of three, ms")
    table.add_column("input")
    table.add_column("plain", justify="right")
    table.add_column("partial, two patterns", justify="right")
    for name, text in _large().items():
        sample = Sample("p", text)
        _ = sample.completion_text
        table.add_row(name, *(f"{_best_ms(reward, sample):.2f}" for reward in (plain, full)))
    return table


def _large() -> dict[str, str]:
    def fill(unit: str) -> str:
        return unit * (MEGABYTE // len(unit.encode()))

    def answer(text: str) -> str:
        return f"<think>a</think><answer>{text}</answer>"

    half = fill("so 2 is 2. ")[: MEGABYTE // 2]
    return {
        "well formed": f"<think>{half}</think><answer>{half}</answer>",
        "no tag at all": fill("x"),
        "opening tags": fill("<think>"),
        "near-misses of a tag": fill("</answer"),
        "brackets": fill("<"),
        "white space": fill(" "),
        "zero-width spaces in the thinking": f"<think>{fill(chr(0x200B))}</think>",
        "line breaks, then a fault": "\n" * MEGABYTE + "<think>a</think> q",
        "unclosed boxes": answer(fill("\\boxed{")),
        "19,000 braces": answer("{".ljust(50, "x") * 19_000),
        "emoji": f"<think>{fill(chr(0x1F600))}",
    }


def _best_ms(reward: object, sample: Sample) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        reward.score(sample)  # type: ignore[attr-defined]
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def _tests_conftest() -> ModuleType:
    path = Path(__file__).parent.parent / "plugins" / "format" / "tests" / "conftest.py"
    spec = importlib.util.spec_from_file_location("format_tests_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    tables(Console(), Path())
