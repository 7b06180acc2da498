r"""Dots: `1, 2, …, 10` as a list, `a_1 a_2 \cdots a_n` as a product of n factors.

A list of integers in steps is written out. In a formula the pattern before and after
the dots is found, and the formula is tried with 3 to 7 terms (`instances`).
Dots that fit no pattern stay a name of their own, equal only to other dots.
"""

from __future__ import annotations

from dataclasses import replace

from grpo_reward_math.tree import Node, number

DOTS = "…"
_DOTS = Node("var", name=DOTS)
_MAX_ITEMS = 64


def progression(items: list[Node]) -> list[Node]:
    """`1, 2, …, 10` written out; any other list as it is."""
    if items.count(_DOTS) != 1 or items[-1] == _DOTS or len(items) < 4:
        return items
    at = items.index(_DOTS)
    known = [_integer(item) for item in (*items[:at], *items[at + 1 :])]
    whole = [value for value in known if value is not None]
    if len(whole) != len(known) or at < 2 or at + 2 != len(items):
        return items
    step = whole[1] - whole[0]
    steady = all(whole[n + 1] - whole[n] == step for n in range(at - 1))
    if not steady or not step or (whole[-1] - whole[0]) % step:
        return items
    count = (whole[-1] - whole[0]) // step + 1
    if not at < count <= _MAX_ITEMS:
        return items
    return [_signed(whole[0] + n * step) for n in range(count)]


def _integer(node: Node) -> int | None:
    if node.kind == "neg":
        value = _integer(node.args[0])
        return None if value is None else -value
    if node.kind == "num" and node.value is not None and node.value.denominator == 1:
        return int(node.value)
    return None


def _signed(value: int) -> Node:
    return number(value) if value >= 0 else Node("neg", (number(-value),))


def instances(gold: Node, answer: Node) -> list[tuple[Node, Node]]:
    """Both formulas with 3 to 7 terms; empty when there are no dots to write out."""
    if not any(part == _DOTS for node in (gold, answer) for part in node.walk()):
        return []
    pairs = []
    for count in range(3, 8):
        pair = tuple(_written_out(node, count) for node in (gold, answer))
        if any(part == _DOTS for node in pair for part in node.walk()):
            return []
        pairs.append((pair[0], pair[1]))
    return pairs


def _written_out(node: Node, count: int) -> Node:
    """The formula for n = count: dots written out, `a_n` read as `a_3`, `n` as 3."""

    def change(part: Node) -> Node | None:
        if part.kind in ("add", "mul") and _DOTS in part.args:
            terms = _terms(part, count)
            if terms is not None:
                return replace(part, args=tuple(_written_out(term, count) for term in terms))
        if part.kind == "var" and part.name == "n":
            return number(count)
        if part.kind == "var" and part.name.endswith("_n"):
            return Node("var", name=f"{part.name[:-1]}{count}")
        return None

    return node.map(change)


def _terms(node: Node, count: int) -> list[Node] | None:
    """The terms that the dots stand between, `t_1 t_2 … t_n`, all written out."""
    at = node.args.index(_DOTS)
    before, after = node.args[:at], node.args[at + 1 :]
    if len(before) < 2 or not after:
        return None
    for start in range(len(before) - 1):
        first, shown = before[start], before[start:]
        if all(term == _at(first, n) for n, term in enumerate(shown, start=1)) and (
            after[0] == _at(first, "n")
        ):
            terms = [_at(first, n) for n in range(1, count + 1)]
            return [*before[:start], *terms, *after[1:]]
    return None


def _at(first: Node, index: int | str) -> Node:
    """The first term for another index: `a_1` becomes `a_2`, a plain 1 becomes 2."""
    if first == number(1):
        return number(index) if isinstance(index, int) else Node("var", name=index)
    names = {name: f"{name[:-1]}{index}" for name in first.variables() if name.endswith("_1")}
    return first.renamed(names)
