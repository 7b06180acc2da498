"""Is this answer equal to this gold? In layers, cheapest first; the verdict says which decided.

1. numbers: both are numerals; exact rationals decide (`numbers`)
2. words: the gold is a text or a choice letter (`words`)
3. text: the same tokens once layout is dropped (`tokens`)
4. mathematics: both are read into trees and compared by shape and value (`compare`)
5. sympy: a gold that only math-verify can read, such as a sum or an integral (`fallback`)

No layer uses signals or threads, and each bounds its cost before it computes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from grpo_reward_math import words
from grpo_reward_math.numbers import Number, read_number, rounds_to
from grpo_reward_math.readings import answer_readings, gold_readings
from grpo_reward_math.tree import Node, TooCostly, Unreadable

_LAYOUT = re.compile(r"\$|\\left(?![a-z])|\\right(?![a-z])|\\[,;! ]")
_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_EMPTY_SET = Node("set")
MAX_ANSWER = 2000
"""Characters; what is longer is no answer but a text."""
MAX_GOLD = 4000

Kind = Literal["auto", "math", "choice", "text"]


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
    """A gold answer, read once. `unreadable` says why it cannot be; empty when it can."""

    text: str
    number: Number | None = None
    choice: str | None = None
    inner: Gold | None = None
    """The text of a choice, which is an answer too."""
    with_text: bool = False
    """Whether the text of the choice may follow its letter."""
    words: words.Text | None = None
    readings: tuple[Node, ...] = ()
    unreadable: str = ""


@lru_cache(maxsize=8192)
def read_gold(text: str, kind: Kind = "auto") -> Gold:
    """Read a gold answer, as `kind` or as whatever it looks like."""
    if len(text) > MAX_GOLD:
        return Gold(text, unreadable=f"it is {len(text)} characters long")
    if kind == "choice":
        letter = words.read_choice(text)
        unreadable = "" if letter else "no choice letter begins it"
        return Gold(text, choice=letter, with_text=True, unreadable=unreadable)
    if kind == "text":
        read = words.read_text(text, force=True)
        return Gold(text, words=read, unreadable="" if read else "it has no words")
    number = read_number(_bare(text))
    if number is not None:
        return Gold(text, number)
    if kind == "auto":
        if choice := words.read_bracketed(text):
            letter, said = choice
            inner = read_gold(said, "auto") if said else None
            readable = inner if inner and not inner.unreadable else None
            return Gold(text, choice=letter, with_text=bool(said), inner=readable)
        if read := words.read_text(text):
            return Gold(text, words=read)
    try:
        return Gold(text, readings=gold_readings(text))
    except (Unreadable, TooCostly) as error:
        return Gold(text, unreadable=str(error))


def decide(gold: Gold, answer: str, rules: Rules) -> Verdict:
    """Whether `answer` equals a readable `gold` under `rules`, and why."""
    if len(answer) > MAX_ANSWER:
        return Verdict(False, f"{len(answer)} characters are too long for an answer")
    if gold.number is not None:
        number = read_number(_bare(answer))
        if number is not None:
            return compare_numbers(gold.number, number, rules)
    if gold.choice is not None:
        read = words.read_choice if gold.with_text else words.read_letter
        letter = read(answer)
        if gold.inner is not None:
            said = words.choice_text(answer) if letter == gold.choice else answer
            if said:
                return decide(gold.inner, said, rules)
        if letter is None:
            return Verdict(False, "one choice letter is wanted")
        return Verdict(
            letter == gold.choice, "the same choice" if letter == gold.choice else "another choice"
        )
    if gold.words is not None:
        same = _squeezed(gold.text) == _squeezed(answer)
        why = "the same text" if same else words.same_text(gold.words, answer)
        return Verdict(bool(why), why or "other words")
    return _compare_trees(gold, answer, rules)


def _compare_trees(gold: Gold, answer: str, rules: Rules) -> Verdict:
    # sympy-free and mpmath-free up to here: most pairs never come this far
    from grpo_reward_math.compare import same_answer
    from grpo_reward_math.forms import wrong_form

    if rules.form == "any" and _squeezed(gold.text) == _squeezed(answer):
        return Verdict(True, "the same text")
    if gold.readings == (_EMPTY_SET,) and words.says_nothing(answer):
        return Verdict(True, "there is nothing, both say")
    mine = gold.readings or (_number_readings(gold.text, gold.number) if gold.number else ())
    try:
        theirs = answer_readings(answer, chains=rules.chains, approximate=rules.approximate)
    except Unreadable as error:
        return Verdict(False, f"the answer cannot be read: {error}")
    except TooCostly as error:
        return Verdict(False, f"not worked out: {error}")
    verdict = Verdict(False, "another value")
    for first, reading in enumerate(mine):
        for other in theirs:
            try:
                match = same_answer(
                    reading, other, units=rules.units, lenient_percent=rules.lenient_percent
                )
            except TooCostly as error:
                verdict = Verdict(False, f"not worked out: {error}")
                continue
            except Unreadable as error:
                verdict = Verdict(False, f"the answer cannot be read: {error}")
                continue
            if match.equal:
                complaint = wrong_form(reading, other, rules.form)
                if not complaint:
                    return Verdict(True, match.why)
                verdict = Verdict(False, f"equal, but {complaint}")
            elif first == 0 and not verdict.why.startswith("equal"):
                verdict = Verdict(False, match.why)
    return verdict


@lru_cache(maxsize=8192)
def _number_readings(text: str, number: Number) -> tuple[Node, ...]:
    """A numeral as a tree; its text may also read as a quantity or a list."""
    try:
        return gold_readings(text)
    except (Unreadable, TooCostly):
        value = number.value * 100 if number.percent else number.value
        decimals = number.decimals - 2 if number.percent and number.decimals else number.decimals
        node = Node("num", value=value, decimals=decimals)
        return (Node("percent", (node,)) if number.percent else node,)


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


def _squeezed(text: str) -> str:
    """Without what only lays out."""
    return _SPACE.sub("", _LAYOUT.sub(" ", text).strip())


def _bare(text: str) -> str:
    """Without math delimiters, thin spaces and a final full stop."""
    text = text.strip()
    if "$" in text or text.startswith(("\\(", "\\[")):
        text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
        text = text.replace("\\[", "").replace("\\]", "").strip()
    return text[:-1] if text.endswith(".") else text
