"""How far the verdicts of the math, format and language rewards can be trusted.

    python benchmarks/verdicts.py --data DIR [math] [format] [language]

DIR holds the labelled data: gsm8k_model_solutions.jsonl (OpenAI grade-school-math,
MIT), hardverify_dev.jsonl (uw-nsl/TinyV, MIT), language_sentences/ (lingua-py,
Apache-2.0). What is not there is left out, and said so. Exits with 1 when a floor is
not held; the floors stand in the modules that measure.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

REWARDS = ("math", "format", "language")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "rewards", nargs="*", help=f"of {', '.join(REWARDS)}; all when none is named"
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with labelled data")
    arguments = parser.parse_args()
    if unknown := set(arguments.rewards) - set(REWARDS):
        parser.error(f"no tables for {', '.join(sorted(unknown))}")
    arguments.rewards = arguments.rewards or list(REWARDS)
    console = Console()
    sys.path.insert(0, str(Path(__file__).parent))
    missed: list[str] = []
    for reward in arguments.rewards:
        module = importlib.import_module(f"_verdicts_{reward}")
        missed += module.tables(console, arguments.data) or []
    for floor in missed:
        console.print(f"[red]floor not held:[/red] {floor}", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
