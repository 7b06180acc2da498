"""Is an equal answer written as asked: as a value, or simplified?"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from grpo_reward_math.exact import exact
from grpo_reward_math.shapes import unlabel
from grpo_reward_math.tree import Node, TooCostly, is_expression


def wrong_form(gold: Node, answer: Node, form: Literal["any", "value", "simplified"]) -> str:
    """What is wrong with the form of an answer; empty when nothing is."""
    if form == "any":
        return ""
    gold, answer = _inner(gold), _inner(answer)
    if form == "value" and is_expression(gold) and not gold.variables() and _rational(gold):
        if _is_numeral(answer) or (_is_lowest(answer) and gold.has("div")):
            return ""
        return "an expression stands there, not its value"
    for part in answer.walk():
        if complaint := _unfinished(part):
            return complaint
    return ""


def _inner(node: Node) -> Node:
    node = unlabel(node).value
    return node.args[0] if node.kind == "quantity" else node


def _rational(node: Node) -> bool:
    try:
        return exact(node) is not None
    except TooCostly:
        return False


def _is_numeral(node: Node) -> bool:
    """A number as it is written out: signs, percent and powers of ten are part of it."""
    while node.kind in ("neg", "percent", "deg"):
        node = node.args[0]
    return node.kind == "num" or _is_scientific(node)


def _is_scientific(node: Node) -> bool:
    if node.kind != "mul" or len(node.args) != 2:
        return False
    number, power = node.args
    return number.kind == "num" and power.kind == "pow" and power.args[0].value == 10


def _is_lowest(node: Node) -> bool:
    """A fraction in lowest terms, or a mixed number with one."""
    if node.kind == "neg":
        node = node.args[0]
    if node.kind == "add" and len(node.args) == 2 and node.args[0].kind == "num":
        node = node.args[1]
    if node.kind != "div":
        return False
    top, bottom = (part.args[0] if part.kind == "neg" else part for part in node.args)
    if top.kind != "num" or bottom.kind != "num" or top.value is None or bottom.value is None:
        return False
    if top.value.denominator != 1 or bottom.value.denominator != 1 or bottom.value <= 1:
        return False
    return math.gcd(int(top.value), int(bottom.value)) == 1


def _unfinished(part: Node) -> str:
    """What is left to work out in one part of a formula."""
    if not is_expression(part) or part.variables() or _is_numeral(part) or _is_lowest(part):
        return _like_terms(part)
    if part.kind in ("add", "mul", "div", "pow", "fact", "fn") and _rational(part):
        return "something is left to work out"
    if part.kind == "fn" and part.name == "root" and _has_power(part):
        return "a root is left to simplify"
    if part.kind in ("add", "mul"):
        numerals = [arg for arg in part.args if _is_numeral(arg)]
        if len(numerals) > 1:
            return "numbers are left to put together"
    return ""


def _like_terms(part: Node) -> str:
    if part.kind == "add":
        bare = [_without_coefficient(arg) for arg in part.args]
        if len(set(bare)) < len(bare):
            return "like terms are left to put together"
    if part.kind == "div" and math.gcd(*map(_coefficient, part.args)) > 1:
        return "a fraction is not in lowest terms"
    if part.kind == "mul" and sum(map(_is_numeral, part.args)) > 1 and not _is_scientific(part):
        return "numbers are left to put together"
    return ""


def _without_coefficient(term: Node) -> Node:
    """What a term counts: x of -2x; every number counts the same."""
    if term.kind == "neg":
        term = term.args[0]
    if _is_numeral(term) or _is_lowest(term):
        return Node("num", value=Fraction(1))
    if term.kind == "mul" and _is_numeral(term.args[0]):
        rest = term.args[1:]
        return rest[0] if len(rest) == 1 else Node("mul", rest)
    return term


def _coefficient(node: Node) -> int:
    """The whole number that a product begins with; 1 when there is none."""
    node = node.args[0] if node.kind == "neg" else node
    first = node.args[0] if node.kind == "mul" else node
    if first.kind != "num" or first.value is None or first.value.denominator != 1:
        return 1
    return int(first.value) or 1


def _has_power(root: Node) -> bool:
    """Whether an integer under a root has a factor that could be taken out."""
    inside, degree = root.args
    if inside.kind != "num" or inside.value is None or inside.value.denominator != 1:
        return False
    if degree.value is None or degree.value.denominator != 1:
        return False
    value, power = int(inside.value), int(degree.value)
    return any(value % factor**power == 0 for factor in range(2, 100) if factor**power <= value)
