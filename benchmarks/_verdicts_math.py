"""The math reward against labelled answers, beside Math-Verify, and under attack.

Both graders run in this process, on the same core, one after the other. Math-Verify
is called as its README does, with its own timeouts (signals, so main thread only).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from grpo_core import Sample

Grader = Callable[[str, str], bool]
"""(gold, completion) -> accepted"""

FLOORS = {"agree": 5276, "faster": 10, "accepted": 108, "wrong": 1, "hacks": 400, "bombs": 50}
BOMB_MS, FLOOD_MS = 50, 200


def tables(console: Console, data: Path) -> list[str]:
    """Print the tables; returns the floors that are not held."""
    missed: list[str] = []
    if (path := data / "gsm8k_model_solutions.jsonl").is_file():
        console.print(labels(list(_model_solutions(path)), missed))
    else:
        console.print(f"math: no {path}, nothing measured")
    if (path := data / "hardverify_dev.jsonl").is_file():
        console.print(hard_pairs(path, missed))
    else:
        console.print(f"math: no {path}, nothing measured")
    console.print(hacks(missed))
    console.print(bombs(missed))
    return missed


def ours() -> Grader:
    """The reward `math` with its default options."""
    from grpo_reward_math import Math

    reward = Math()

    def accepts(gold: str, completion: str) -> bool:
        return reward.score(Sample("", completion, {"answer": gold})).value == 1.0

    return accepts


def math_verify() -> Grader:
    """Math-Verify's parse and verify, gold and completion parsed with its defaults."""
    logging.disable(logging.WARNING)
    from math_verify import parse, verify

    def accepts(gold: str, completion: str) -> bool:
        answer = completion.rpartition("</think>")[2]
        return bool(verify(parse(rf"\boxed{{{gold}}}"), parse(answer)))

    return accepts


def labels(rows: list[tuple[str, str, bool]], missed: list[str]) -> Table:
    """Agreement with the labels of GSM8K's model solutions, and pairs a second."""
    table = Table(title="math: GSM8K model solutions, the final answer given in a box")
    for column in ("grader", "pairs", "agree", "pairs a second"):
        table.add_column(column, justify="left" if column == "grader" else "right")
    rates = {}
    for name, grader in (("grpo-reward-math", ours()), ("Math-Verify", math_verify())):
        grader(rows[0][0], rows[0][1])  # imports
        started = time.perf_counter()
        agree = sum(grader(gold, completion) == label for gold, completion, label in rows)
        rates[name] = len(rows) / (time.perf_counter() - started)
        table.add_row(name, f"{len(rows):,}", f"{agree:,}", f"{rates[name]:,.0f}")
        if name == "grpo-reward-math" and agree < min(FLOORS["agree"], len(rows)):
            missed.append(f"math agrees with {agree} of {len(rows)} labels")
    if rates["grpo-reward-math"] < FLOORS["faster"] * rates["Math-Verify"]:
        missed.append("math is less than ten times as fast as Math-Verify")
    return table


def _model_solutions(path: Path) -> Iterator[tuple[str, str, bool]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for solution in (value for value in row.values() if isinstance(value, dict)):
            text = solution["solution"]
            answer = text.rpartition("A:")[2].strip()
            yield gold, f"{text}\nSo it is \\boxed{{{answer}}}.", solution["is_correct"]


def hard_pairs(path: Path, missed: list[str]) -> Table:
    """HardVerify-Math: right answers written differently, and wrong ones."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table = Table(title=f"math: {len(rows)} hard equivalences ({path.name})")
    for column in ("grader", "right accepted", "wrong accepted", "ms a pair", "slowest, ms"):
        table.add_column(column, justify="left" if column == "grader" else "right")
    for name, grader in (("grpo-reward-math", ours()), ("Math-Verify", math_verify())):
        accepted: dict[str, int] = {"correct": 0, "wrong": 0}
        spent = []
        for row in rows:
            for which in accepted:
                started = time.perf_counter()
                accepted[which] += grader(row["gold"], rf"\boxed{{{row[which]}}}")
                spent.append(1000 * (time.perf_counter() - started))
        table.add_row(
            name,
            str(accepted["correct"]),
            str(accepted["wrong"]),
            f"{mean(spent):.2f}",
            f"{max(spent):.0f}",
        )
        if name == "grpo-reward-math" and (
            accepted["correct"] < FLOORS["accepted"] or accepted["wrong"] > FLOORS["wrong"]
        ):
            missed.append(f"math accepts {accepted} of the hard equivalences")
    return table


def hacks(missed: list[str]) -> Table:
    """The hack matrix, by kind of gold: wrong answers dressed up, and honest twins."""
    from grpo_reward_math.attacks import hack_matrix

    cases = list(hack_matrix())
    graders = {"grpo-reward-math": ours(), "Math-Verify": math_verify()}
    table = Table(title=f"math: of {len(cases):,} hacks accepted, of as many honest twins refused")
    table.add_column("gold")
    table.add_column("cases", justify="right")
    for name in ("ours", "Math-Verify"):
        table.add_column(f"hacks, {name}", justify="right")
        table.add_column(f"twins, {name}", justify="right")
    totals = [0] * 5
    for kind in dict.fromkeys(case.kind for case in cases):
        mine = [case for case in cases if case.kind == kind]
        counts = [len(mine)]
        for grader in graders.values():
            counts.append(sum(grader(case.gold, case.hack) for case in mine))
            counts.append(sum(not grader(case.gold, case.honest) for case in mine))
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        table.add_row(kind, *map(str, counts))
    table.add_row("all", *map(str, totals))
    if len(cases) < FLOORS["hacks"] or totals[1] or totals[2]:
        missed.append(f"math: {totals[1]} hacks accepted, {totals[2]} honest twins refused")
    return table


def bombs(missed: list[str]) -> Table:
    """Slowest verdict on bombs and floods, in three places where rewards run."""
    from grpo_reward_math.attacks import bombs as collection
    from grpo_reward_math.attacks import floods

    accepts = ours()
    accepts(r"\sqrt{2}", r"\boxed{\sqrt{3}}")  # imports
    golds = ("7", r"\frac{1}{2}", r"\sqrt{2}", "x^2+1", r"\{1, 2\}", "(1, 2)", "[0, 1)", "n!")
    pairs = [(gold, rf"\boxed{{{bomb}}}") for gold in golds for bomb in collection()]
    flooded = [("8", flood) for flood in floods()]
    table = Table(title="math: slowest verdict on bombs and on 1 MB of adversarial text, ms")
    for column in ("what", "count", "main thread", "worker thread", "event loop"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, cases, limit in (("bombs", pairs, BOMB_MS), ("floods", flooded, FLOOD_MS)):
        slowest = [run(accepts, cases) for run in (_slowest, _in_thread, _in_loop)]
        table.add_row(what, str(len(cases)), *(f"{ms:.1f}" for ms in slowest))
        if max(slowest) > limit:
            missed.append(f"math needs {max(slowest):.0f} ms for one of the {what}")
    if len(collection()) < FLOORS["bombs"]:
        missed.append("math: the bomb collection is too small")
    return table


def _slowest(accepts: Grader, cases: list[tuple[str, str]]) -> float:
    """The slowest case, each at the best of three tries: a busy machine is not our subject."""
    worst = 0.0
    for gold, completion in cases:
        tries = []
        for _ in range(3):
            started = time.perf_counter()
            accepts(gold, completion)
            tries.append(1000 * (time.perf_counter() - started))
        worst = max(worst, min(tries))
    return worst


def _in_thread(accepts: Grader, cases: list[tuple[str, str]]) -> float:
    result: list[float] = []
    thread = threading.Thread(target=lambda: result.append(_slowest(accepts, cases)))
    thread.start()
    thread.join()
    return result[0]


def _in_loop(accepts: Grader, cases: list[tuple[str, str]]) -> float:
    async def run() -> float:
        return _slowest(accepts, cases)

    return asyncio.run(run())
