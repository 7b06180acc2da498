"""When two formulas say the same: equal values, roundings of a gold, families.

`log` without a base may be natural or decimal, so both readings are tried, the
same on both sides.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from grpo_reward_math.ellipsis import instances
from grpo_reward_math.exact import exact
from grpo_reward_math.numbers import rounds_to
from grpo_reward_math.numeric import NoValue, equal, value_of, within
from grpo_reward_math.tree import Node, number


def same_formula(gold: Node, answer: Node) -> str:
    """Why two formulas are equal; empty when they are not. Raises TooCostly."""
    if equal(gold, answer):
        return "the same value" if not gold.variables() else "the same function"
    written_out = instances(gold, answer)
    if written_out and all(equal(mine, theirs) for mine, theirs in written_out):
        return "the same function, for 3 to 7 terms"
    for reading in ("lg", "ln") if _bare_log(gold) or _bare_log(answer) else ():
        if equal(_read_log(gold, reading), _read_log(answer, reading)):
            return f"the same value, with log read as {reading}"
    if _has_constant(gold) and _has_constant(answer) and _differ_by_constant(gold, answer):
        return "the same up to the constant of integration"
    return ""


def rounds_to_gold(gold: Node, answer: Node) -> bool:
    """Whether the gold is a decimal and the answer an exact value that rounds to it."""
    scale = Fraction(1)
    while gold.kind in ("percent", "deg") and gold.kind == answer.kind:
        gold, answer = gold.args[0], answer.args[0]
    if gold.kind == "percent":
        gold, scale = gold.args[0], Fraction(1, 100)
    sign = 1
    if gold.kind == "neg":
        gold, sign = gold.args[0], -1
    if gold.kind != "num" or gold.decimals is None or gold.value is None:
        return False
    if answer.variables() or any(part.decimals is not None for part in answer.walk()):
        return False  # a decimal in the answer is a rounding itself
    decimals = gold.decimals + (2 if scale != 1 else 0)
    target = sign * gold.value * scale
    value = exact(answer)
    if value is not None:
        return rounds_to(value, decimals, target)
    return within(answer, target, Fraction(1, 2 * 10**decimals))


def same_family(gold: Node, answer: Node) -> bool:
    """`a + bk` and `a' + b'k` for all integers k: the same values in another order."""
    names = gold.variables()
    if len(names) != 1 or names != answer.variables():
        return False
    (name,) = names
    if not _multiplies_pi(gold, name):
        return False
    lines = [_line(node, name) for node in (gold, answer)]
    if lines[0] is None or lines[1] is None:
        return False
    (start, step), (other_start, other_step) = lines[0], lines[1]
    if not (equal(step, other_step) or equal(step, Node("neg", (other_step,)))):
        return False
    shift = Node("div", (Node("add", (start, Node("neg", (other_start,)))), step))
    try:
        count = round(float(value_of(shift)))
    except (NoValue, TypeError, OverflowError):
        return False
    return abs(count) < 1000 and equal(shift, number(count))


def _line(node: Node, name: str) -> tuple[Node, Node] | None:
    """Start and step of a formula that is linear in one variable; None when it is not."""
    start = _put(node, name, 0)
    step = Node("add", (_put(node, name, 1), Node("neg", (start,))))
    second = Node("add", (_put(node, name, 7), Node("neg", (start,))))
    return (start, step) if equal(second, Node("mul", (number(7), step))) else None


def _multiplies_pi(node: Node, name: str) -> bool:
    pi, variable = Node("const", name="pi"), Node("var", name=name)
    return any(
        part.kind == "mul" and pi in part.args and variable in part.args for part in node.walk()
    )


def _bare_log(node: Node) -> bool:
    return any(
        part.kind == "fn" and part.name == "log" and len(part.args) == 1 for part in node.walk()
    )


def _read_log(node: Node, reading: str) -> Node:
    def change(part: Node) -> Node | None:
        if part.kind == "fn" and part.name == "log" and len(part.args) == 1:
            return Node("fn", (_read_log(part.args[0], reading),), reading)
        return None

    return node.map(change)


def _has_constant(node: Node) -> bool:
    return node.kind == "add" and node.args[-1] in (
        Node("var", name="C"),
        Node("var", name="c"),
        Node("var", name="K"),
    )


def _differ_by_constant(gold: Node, answer: Node) -> bool:
    """Antiderivatives: their difference is the same at two points."""
    constant = gold.args[-1]
    bare = [replace(node, args=node.args[:-1]) for node in (gold, answer)]
    difference = Node("add", (bare[0], Node("neg", (bare[1],))))
    names = difference.variables() - {constant.name}
    if len(names) != 1:
        return False
    (name,) = names
    values = [_put(difference, name, Fraction(3, 7)), _put(difference, name, Fraction(5, 11))]
    return equal(values[0], values[1])


def _put(node: Node, name: str, value: int | Fraction) -> Node:
    """The formula with a number in the place of a variable."""
    return node.map(lambda part: number(value) if part == Node("var", name=name) else None)
