"""Make train.jsonl and test.jsonl: the one-operation sums that GSM8K's calculator worked out.

GSM8K's worked solutions carry calculator marks such as `<<48/2=24>>`. Kept are the
marks with exactly one operation between two plain, non-negative numbers; each
distinct one becomes a row `{"expression": "48/2", "answer": "24"}`. Left out: chains,
brackets, fractions, percentages, and any mark whose stated result is not exactly right
(a rounded result counts as wrong, nothing is rounded here, so every gold is exact).

Numbers are written one way (`.5` is 0.5, `9.00` is 9), so that the same sum is the
same row. The tables (sums of two digits, and their reverse: 7*8, 56/8, 15-7) are what
every longer sum is worked out with, so they are to be learnt and never held out. Of the
rest, the test rows are all the sums of the test file, the train rows those of the train
file that are not in the test: so the held-out sums are what real word problems need, not
just the rare ones left over. Order is that of first appearance; running it twice gives
the same bytes. It needs nothing but the standard library:

    python extract.py gsm8k_train.jsonl gsm8k_test.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

MARK = re.compile(r"<<([^<>]*)>>")
NUMBER = r"(?:\d+\.?\d*|\.\d+)"
ONE_OPERATION = re.compile(rf"({NUMBER})([-+*/])({NUMBER})=(-?{NUMBER})")


def canonical(number: str) -> str:
    """A decimal numeral written one way: no leading or trailing zeros, no bare point.

    >>> canonical("09.50"), canonical(".5"), canonical("144.00"), canonical("-0")
    ('9.5', '0.5', '144', '0')
    """
    sign = "-" if number.startswith("-") else ""
    whole, _, decimals = number.lstrip("-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    text = f"{whole}.{decimals}" if decimals else whole
    return text if text == "0" else sign + text


def evaluate(left: str, operator: str, right: str) -> Fraction | None:
    """The exact value of one operation; none when it divides by zero."""
    a, b = Fraction(left), Fraction(right)
    if operator == "/":
        return a / b if b else None
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def sums_in(solution: str) -> Iterator[tuple[str, str]]:
    """The (expression, answer) pairs of one worked solution, in order."""
    for mark in MARK.findall(solution):
        match = ONE_OPERATION.fullmatch(mark.replace(" ", ""))
        if match is None:
            continue
        left, operator, right, answer = match.groups()
        left, right, answer = canonical(left), canonical(right), canonical(answer)
        if evaluate(left, operator, right) == Fraction(answer):
            yield f"{left}{operator}{right}", answer


def in_the_tables(expression: str, answer: str) -> bool:
    """Whether two digits are added or multiplied, or such a sum is undone.

    >>> [in_the_tables("7*8", "56"), in_the_tables("15-7", "8"), in_the_tables("25-7", "18")]
    [True, True, False]
    """
    match = re.fullmatch(r"(\d\d?)([-+*/])(\d)", expression)
    return match is not None and len(match[1] if match[2] in "+*" else answer) == 1


def distinct_sums(lines: Iterable[str]) -> dict[str, str]:
    """Expression to answer, over the lines of a GSM8K file, in order of first appearance."""
    found: dict[str, str] = {}
    for line in lines:
        if line.strip():
            found.update(pair for pair in sums_in(json.loads(line)["answer"]))
    return found


def write(path: Path, sums: dict[str, str]) -> None:
    rows = ({"expression": expression, "answer": answer} for expression, answer in sums.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="gsm8k_train.jsonl")
    parser.add_argument("test", type=Path, help="gsm8k_test.jsonl")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    arguments = parser.parse_args()
    train = distinct_sums(arguments.train.read_text(encoding="utf-8").splitlines())
    test = distinct_sums(arguments.test.read_text(encoding="utf-8").splitlines())
    test = {e: answer for e, answer in test.items() if not in_the_tables(e, answer)}
    train = {e: answer for e, answer in train.items() if e not in test}
    write(arguments.out / "train.jsonl", train)
    write(arguments.out / "test.jsonl", test)
    print(f"train.jsonl {len(train)} rows, test.jsonl {len(test)} rows")


if __name__ == "__main__":
    main()
