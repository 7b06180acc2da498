"""From an answer's text to the trees it may be read as.

`1,234` may be a number or a list, so a text can have two readings. A gold is
trusted and may say more than one thing at once (`x = 48/2 = 24`, an exact value and
≈ its rounding); an answer that does so is refused here, unless an option allows it.
"""

from __future__ import annotations

from collections.abc import Iterator

from grpo_reward_math.grammar import parse
from grpo_reward_math.numeric import has_value
from grpo_reward_math.sets import as_set, describes_set
from grpo_reward_math.shapes import unlabel
from grpo_reward_math.tokens import has_comma_groups, has_zero_groups, tokenize
from grpo_reward_math.tree import NeedsAlgebra, Node, Unreadable, is_expression
from grpo_reward_math.units import read_quantity

_HOW = {"~": "it is marked as approximate", "->": "an arrow", "=>": "an implication"}


def gold_readings(text: str) -> tuple[Node, ...]:
    """What a gold says, most likely reading first. Raises Unreadable."""
    readings: list[Node] = []
    try:
        trees = _trees(text)
    except NeedsAlgebra:
        from grpo_reward_math.fallback import read_with_sympy

        trees = [read_with_sympy(text)]
    for tree in trees:
        readings.extend(_said(tree))
    for reading in readings:
        _refuse_words(reading)
        for part in reading.walk():
            read_quantity(part)
        if is_expression(reading) and not reading.variables() and not has_value(reading):
            raise Unreadable("it has no value")
        if (
            describes_set(reading)
            and as_set(reading) is None
            and reading.kind not in ("rel", "chain", "list", "builder")
        ):
            raise Unreadable("its set is not understood")
    return tuple(readings)


def answer_readings(text: str, *, chains: bool, approximate: bool) -> tuple[Node, ...]:
    """What an answer says. Raises Unreadable for what an answer must not be."""
    readings: list[Node] = []
    for tree in _trees(text):
        tree = _checked(tree, chains=chains, approximate=approximate)
        _refuse_words(tree)
        readings.append(tree)
    return tuple(readings)


def _trees(text: str) -> list[Node]:
    if not has_comma_groups(text):
        return [parse(tokenize(text))]
    trees: list[Node] = []
    problem: Unreadable | None = None
    for join in (True, False) if not has_zero_groups(text) else (True,):
        try:
            trees.append(parse(tokenize(text, join_commas=join)))
        except Unreadable as error:
            problem = problem or error
    if not trees and problem is not None:
        raise problem
    return trees


def _said(tree: Node) -> Iterator[Node]:
    """The values that a gold gives: each side of a chain that is no label."""
    signs = tree.name.split() if tree.kind in ("rel", "chain") else []
    if "~" in signs or (tree.kind == "chain" and set(signs) <= {"=", "=="}):
        if not set(signs) <= {"=", "==", "~"}:
            raise Unreadable("a mixture of relation signs")
        sides = [side for side in tree.args if not _is_label(side)]
        if tree.kind == "chain" and len(sides) == 1 and len(tree.args) > 2:
            yield tree  # x = y = 3 gives two values
        yield from sides
    else:
        yield tree


def _is_label(side: Node) -> bool:
    return unlabel(Node("rel", (side, Node("num", value=None)), "=")).label != ""


def _checked(tree: Node, *, chains: bool, approximate: bool) -> Node:
    if tree.kind == "list":
        args = tuple(_checked(arg, chains=chains, approximate=approximate) for arg in tree.args)
        return Node("list", args, tree.name)
    if tree.kind not in ("rel", "chain"):
        return tree
    signs = set(tree.name.split())
    if approximate and "~" in signs and signs <= {"=", "~"}:
        tree = Node(tree.kind, tree.args, tree.name.replace("~", "="))
        signs = {"="}
    for sign, what in _HOW.items():
        if sign in signs:
            raise Unreadable(what)
    if tree.kind == "chain" and "=" in signs:
        if signs != {"="}:
            raise Unreadable("a mixture of relation signs")
        unlabelled = [side for side in tree.args if not _is_label(side)]
        if len(unlabelled) > 1:
            if not chains:
                raise Unreadable("a chain of equations")
            return _chain_value(unlabelled)
    if tree.kind == "rel" and tree.name == "=":
        left, right = tree.args
        if not left.variables() and not right.variables() and not _is_label(left):
            if not chains:
                raise Unreadable("an equation between numbers is no answer")
            return _chain_value([left, right])
    return tree


def _chain_value(sides: list[Node]) -> Node:
    """The value of a chain whose sides are all equal. Raises Unreadable when they are not."""
    from grpo_reward_math.numeric import equal

    if not all(equal(sides[-1], side) for side in sides[:-1]):
        raise Unreadable("a chain of equations that does not hold")
    return sides[-1]


def _refuse_words(tree: Node) -> None:
    for part in tree.walk():
        if part.kind == "word":
            raise Unreadable(f"the word {part.name!r}")
