"""Is this answer equal to this gold? In layers, cheapest first; the verdict says which decided.

1. numbers: both are numerals; exact rationals decide.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from grpo_reward_math.numbers import Number, read_number, rounds_to

MAX_ANSWER = 2000
"""Characters; what is longer is no answer but a text."""


class Rules(NamedTuple):
    """The options that bear on equality; see `Math.Options`."""

    form: Literal["any", "value", "simplified"] = "any"
    units: Literal["if_given", "required", "ignore"] = "if_given"
    lenient_percent: bool = False
    chains: bool = False
    approximate: bool = False


class Verdict(NamedTuple):
    equal: bool
    why: str


class Gold(NamedTuple):
    """A gold answer, read once."""

    text: str
    number: Number | None = None
    unreadable: str = ""
    """Why it cannot be read; empty when it can."""


@lru_cache(maxsize=8192)
def read_gold(text: str, kind: str = "auto") -> Gold:
    number = read_number(_bare(text))
    if number is not None:
        return Gold(text, number)
    return Gold(text, unreadable="not a number")


def decide(gold: Gold, answer: str, rules: Rules) -> Verdict:
    """Whether `answer` equals `gold` under `rules`, and why."""
    if len(answer) > MAX_ANSWER:
        return Verdict(False, f"{len(answer)} characters are too long for an answer")
    number = read_number(_bare(answer))
    if gold.number is not None and number is not None:
        return compare_numbers(gold.number, number, rules)
    return Verdict(False, "not read")


def compare_numbers(gold: Number, answer: Number, rules: Rules) -> Verdict:
    """Two numerals: equal rationals, or an exact answer that rounds to a decimal gold."""
    same = gold.value == answer.value
    if not same and gold.percent and not answer.percent and rules.lenient_percent:
        same = gold.value * 100 == answer.value
    why = "the same number" if same else "another number"
    if not same and gold.decimals is not None and answer.fraction:
        same = rounds_to(answer.value, gold.decimals, gold.value)
        why = "an exact value that rounds to the gold" if same else why
    if not same and gold.value * 100 == answer.value and gold.percent:
        why = "a bare number is no percentage"
    if same and answer.fraction:
        if rules.form == "value" and not (gold.fraction and answer.lowest):
            return Verdict(False, "equal, but an expression stands there, not its value")
        if rules.form == "simplified" and not answer.lowest:
            return Verdict(False, "equal, but not in lowest terms")
    return Verdict(same, why)


def _bare(text: str) -> str:
    """Without math delimiters, thin spaces and a final full stop."""
    text = text.strip()
    if "$" in text or text.startswith(("\\(", "\\[")):
        text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
        text = text.replace("\\[", "").replace("\\]", "").strip()
    return text[:-1] if text.endswith(".") else text
