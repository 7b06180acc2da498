"""How long `grpo plugins` takes with fifty plugins installed, ten of them broken.

    python benchmarks/plugins.py

The peer, in the same run, is `pip list` of the same environment: another command
that reads every installed distribution's metadata.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "zoo"))
from conftest import Environment, wheel
from test_zoo import ZOO, good


def seconds(command: list[str], runs: int = 7) -> list[float]:
    spent = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.perf_counter() - started)
    return spent


def main() -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        environment = Environment(folder / "environment")
        broken = [source for source, _ in ZOO.values()]
        wheels = [
            wheel(folder, f"many{n}", broken[n % len(broken)] if n < 10 else good(f"r{n}"))
            for n in range(50)
        ]
        environment.install(*wheels)
        python = str(environment.python)
        ours = seconds([python, "-c", "from grpo_core.cli import main; main()", "plugins"])
        peer = seconds([sys.executable, "-m", "pip", "--python", python, "list"])
    table = Table(title="50 plugins, 10 of them broken: seconds a command")
    for column in ("command", "median", "slowest", "ratio"):
        table.add_column(column)
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    table.add_row(
        "grpo plugins", f"{statistics.median(ours):.2f}", f"{max(ours):.2f}", f"{ratio:.2f}"
    )
    table.add_row("pip list", f"{statistics.median(peer):.2f}", f"{max(peer):.2f}", "1")
    Console().print(table)


if __name__ == "__main__":
    main()
