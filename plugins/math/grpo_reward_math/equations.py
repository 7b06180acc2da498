"""Equations: the same up to a constant factor, or solved for one variable."""

from __future__ import annotations

from grpo_reward_math.numeric import equal, sample
from grpo_reward_math.tree import Node, is_expression, number


def difference(equation: Node) -> Node:
    """Left side minus right side."""
    return Node("add", (equation.args[0], Node("neg", (equation.args[1],))))


def same_equation(gold: Node, answer: Node) -> str:
    """Why two equations in several variables have the same solutions; empty when
    one is not a constant multiple of the other. Raises TooCostly."""
    if gold.name != "=" or answer.name != "=" or len(gold.variables()) < 2:
        return ""
    if not is_expression(difference(gold)) or not is_expression(difference(answer)):
        return ""
    if gold.variables() != answer.variables():
        return ""
    mine, theirs = difference(gold), difference(answer)
    for at in range(6):
        values, others = sample(mine, at), sample(theirs, at)
        if values is None or others is None or not all((*values, *others)):
            continue
        cross = values[0] * others[1] - values[1] * others[0]
        if abs(cross) > abs(values[0] * others[1]) * 1e-9:
            return ""
        ratio = Node("div", (theirs, mine))
        fixed = _at_fixed_point(ratio)
        return "the same equation" if equal(theirs, Node("mul", (mine, fixed))) else ""
    return ""


def solves(gold: Node, answer: Node) -> str:
    """Why the answer is what a gold equation gives: one of its sides when both
    are the same (`a(a - b) = a^2 - ab`), or the value of the one variable that
    the answer does not have (`y + 1 = x` gives `x - 1`); else empty."""
    if gold.name != "=" or not is_expression(answer):
        return ""
    left, right = gold.args
    if not is_expression(left) or not is_expression(right):
        return ""
    if left.args and equal(left, right):
        return "the value of both sides" if equal(left, answer) else ""
    free = gold.variables() - answer.variables()
    if len(free) != 1 or not answer.variables() <= gold.variables():
        return ""
    (name,) = free
    variable = Node("var", name=name)
    solved = Node("rel", (variable, answer), "=")
    return f"the equation solved for {name}" if same_equation(gold, solved) else ""


def _at_fixed_point(ratio: Node) -> Node:
    """The ratio with small fractions put in for its variables: a closed formula."""
    names = sorted(ratio.variables())
    values = {
        name: Node("div", (number(7 * at + 5), number(3 * at + 11)))
        for at, name in enumerate(names)
    }
    return ratio.map(lambda part: values.get(part.name) if part.kind == "var" else None)
