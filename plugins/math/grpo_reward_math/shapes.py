"""The shape of an answer: labels, several values, plus-or-minus, functions, families.

`x = 2`, `f(x) = 2x` and `x \\in S` carry a label and a value; `3 \\pm 2` is two
values. Left out: when two shapes are the same answer (`compare`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import NamedTuple

from grpo_reward_math.tree import Node, is_expression

MAX_EXPANSION = 32


class Labelled(NamedTuple):
    """A value and what stood before its `=`: nothing, a variable, or a function call.

    `bound` are the arguments of the function that it defines.
    """

    value: Node
    label: str = ""
    bound: tuple[str, ...] = ()


def unlabel(node: Node) -> Labelled:
    """The value behind a label; a bare value has none."""
    if node.kind == "quant":
        return Labelled(node)
    if node.kind == "rel" and node.name in ("=", "==", "in"):
        left, right = node.args
        label = _label(left)
        if label is None and node.name != "in" and _label(right) is not None:
            left, right, label = right, left, _label(right)
        is_member = node.name == "in" and right.kind != "const" and is_expression(right)
        if label is not None and not is_member and not _self_referring(label, right):
            return Labelled(right, *label)
    return Labelled(node)


def _label(node: Node) -> tuple[str, tuple[str, ...]] | None:
    """A label's name and bound variables; None for what is a formula in its own right."""
    if node.kind == "var":
        return node.name, ()
    if node.kind == "call" and all(arg.kind == "var" for arg in node.args):
        return node.name, tuple(arg.name for arg in node.args)
    if node.kind == "mul" and all(part.kind == "var" for part in node.args):
        name = "".join(part.name for part in node.args)
        return None if {"x", "y"} & node.variables() else (name, ())
    if node.kind == "call" and not any(arg.variables() for arg in node.args):
        return _written(node), ()  # f(2) = 5
    if node.kind in ("union", "inter", "minus") and all(arg.kind == "var" for arg in node.args):
        return _written(node), ()
    names = node.variables()
    if node.kind not in _FORMULAS or not is_expression(node) or {"x", "y"} & names:
        return None
    # cos A = 1/2, a + b = 3: what was asked for, not an equation for one unknown
    asked = len(names) > 1 or (names and node.kind == "fn" and _is_named_thing(node))
    if not asked or node.has("call"):
        return None
    return f"{COUNTED if _has_coefficient(node) else ''}{_written(node)}", ()


COUNTED = "="
"""Begins a label with numbers in it (`2a + b`): it must be the gold's label, too."""


def _has_coefficient(node: Node) -> bool:
    """Whether a number stands in it other than as an exponent, a root's degree or a base."""
    if node.kind == "num":
        return True
    args = node.args[:1] if node.kind in ("pow", "fn") else node.args
    return any(map(_has_coefficient, args))


_FORMULAS = frozenset(("fn", "add", "div", "mul", "pow"))


def _is_named_thing(node: Node) -> bool:
    """Whether a function is of an angle, a point or a vector, which are named, not sought."""
    return all(name[0].isupper() or len(name) > 1 for name in node.variables())


def _written(node: Node) -> str:
    inner = ",".join(map(_written, node.args))
    return (
        f"{node.name or node.value or node.kind}({inner})"
        if inner
        else node.name or str(node.value)
    )


def _self_referring(label: tuple[str, tuple[str, ...]], value: Node) -> bool:
    """`x = x + 1` labels nothing."""
    name, bound = label
    return not bound and name in value.variables()


def parts(node: Node) -> list[Labelled]:
    """An answer's values one by one: items of a list, of a labelled tuple, of ±."""
    if node.kind == "list":
        return [part for item in node.args for part in parts(item)]
    if node.kind == "rel" and node.name in ("=", "==") and node.args[0].kind == "tuple":
        names, values = node.args
        labels = [_label(name) for name in names.args]
        if values.kind == "tuple" and len(values.args) == len(labels) and all(labels):
            return [Labelled(values)]  # (x, y) = (1, 2) is the pair
        if all(labels):
            return parts(values)
    if node.kind == "chain" and set(node.name.split()) == {"="}:
        labels = [_label(name) for name in node.args[:-1]]
        names_only = [label for label in labels if label is not None]
        last = node.args[-1]
        if len(names_only) == len(labels) and not last.variables():
            return [Labelled(last, *label) for label in names_only]  # x = y = 3
    single = unlabel(node)
    expanded = expand(single.value)
    return [Labelled(value, single.label, single.bound) for value in expanded]


def named_tuple(node: Node) -> list[Labelled] | None:
    """`(f(n), g(n)) = (n, 1)` as two labelled values; None for anything else."""
    if node.kind != "rel" or node.name != "=" or {arg.kind for arg in node.args} != {"tuple"}:
        return None
    names, values = node.args
    labels = [_label(name) for name in names.args]
    if len(labels) != len(values.args) or not all(labels):
        return None
    return [
        Labelled(value, *label)
        for label, value in zip(labels, values.args, strict=True)
        if label is not None
    ]


def expand(node: Node) -> list[Node]:
    """The values that ± stands for. In a tuple each component's ± is chosen freely."""
    if not node.has("pm"):
        return [node]
    if node.kind == "tuple":
        choices = [expand(arg) for arg in node.args]
        count = 1
        for choice in choices:
            count *= len(choice)
        if count > MAX_EXPANSION:
            return [node]
        return [replace(node, args=combination) for combination in product(*choices)]
    if node.kind == "set":
        return [replace(node, args=tuple(v for arg in node.args for v in expand(arg)))]
    return [_signed(node, sign) for sign in ("+", "-")]


def _signed(node: Node, sign: str) -> Node:
    def change(part: Node) -> Node | None:
        if part.kind != "pm":
            return None
        inner = part.args[0].map(change)
        return inner if part.name == sign else Node("neg", (inner,))

    return node.map(change)


def renamings(gold: Node, answer: Node) -> list[dict[str, str]]:
    """Ways to rename the answer's parameters to the gold's, where that is fair:
    `2cx` for `2Cx`, `n\\pi` for `k\\pi`, `(3t, 5t)` for `(3x, 5x)`, `+ K` for `+ C`."""
    gold, answer = (Node("list", tuple(part.value for part in parts(n))) for n in (gold, answer))
    mine, theirs = gold.variables(), answer.variables()
    only_gold, only_answer = sorted(mine - theirs), sorted(theirs - mine)
    if not only_gold or len(only_gold) != len(only_answer) or len(only_gold) > 3:
        return []
    by_case = {name.lower(): name for name in only_gold}
    if {name.lower() for name in only_answer} == set(by_case) and len(by_case) == len(only_gold):
        return [{name: by_case[name.lower()] for name in only_answer}]
    if not all(is_parameter(gold, name) for name in only_gold):
        return []
    if not all(is_parameter(answer, name) for name in only_answer):
        return []
    return [dict(zip(only_answer, order, strict=True)) for order in permutations(only_gold)]


def parameters(gold: Labelled, answer: Node) -> list[dict[str, str]]:
    """Ways to rename what is free in a family of functions: f(x) = mx for f(x) = ax."""
    mine = sorted(gold.value.variables() - set(gold.bound))
    theirs = sorted(answer.variables() - set(gold.bound))
    if mine == theirs or len(mine) != len(theirs) or len(mine) > 3:
        return []
    return [dict(zip(theirs, order, strict=True)) for order in permutations(mine)]


def is_parameter(node: Node, name: str) -> bool:
    """Whether a variable numbers a family: it multiplies π, is added as a constant of
    integration, or runs through a tuple."""
    variable = Node("var", name=name)
    for part in node.walk():
        if part.kind == "mul" and Node("const", name="pi") in part.args and variable in part.args:
            return True
        if part.kind == "add" and part.args[-1] == variable and name in "CcKkD":
            return True
        if part.kind == "tuple" and all(map(is_expression, part.args)) and name in part.variables():
            return True
    return False


def choice_letters(node: Node) -> list[str] | None:
    """The letters of `ACD` or `A, C, D`, in order; None for anything else."""
    if node.kind not in ("mul", "list"):
        return None
    names = [arg.name for arg in node.args if arg.kind == "var" and arg.name in "ABCDEFG"]
    return sorted(names) if len(names) == len(set(names)) == len(node.args) else None


def as_equation(part: Labelled) -> Node | None:
    """`y = 2x` again, from its label and value."""
    if part.value.kind == "rel":
        return part.value
    if not part.label or not is_expression(part.value):
        return None
    return Node("rel", (Node("var", name=part.label), part.value), "=")


def labels_agree(gold: Labelled, answer: Labelled) -> bool:
    """Labels agree unless both are plain variables that differ: y may be f(x)."""
    if answer.label.startswith(COUNTED) and answer.label != gold.label:
        return False
    if not gold.label or not answer.label or gold.bound or answer.bound:
        return True
    return gold.label.lower() == answer.label.lower()
