"""Floors on labelled data: what the benchmark measures must not get worse unnoticed."""

import csv
import json
from pathlib import Path

from grpo_core import Sample
from grpo_reward_math import Math

DATA = Path(__file__).parent / "data"
MATH = Math()


def accepts(gold: str, answer: str) -> bool:
    return MATH.score(Sample("Q", rf"\boxed{{{answer}}}", {"answer": gold})).value == 1.0


def test_every_label_of_the_gsm8k_model_solutions_is_met() -> None:
    with (DATA / "gsm8k_answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5276
    differ = [r for r in rows if accepts(r["gold"], r["answer"]) != (r["is_correct"] == "1")]
    assert not differ


def test_hard_equivalences() -> None:
    lines = (DATA / "hardverify_dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum(accepts(row["gold"], row["correct"]) for row in rows) >= 108
    # the one that is accepted is the gold's own set in another order: a wrong label
    assert [row["id"] for row in rows if accepts(row["gold"], row["wrong"])] == [52]
