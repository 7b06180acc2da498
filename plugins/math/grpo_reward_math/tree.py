"""The tree that a piece of mathematics is read into, and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction


class Unreadable(Exception):
    """The text is no mathematics that we know; the message says what is in the way."""


class NeedsAlgebra(Unreadable):
    """It has a sum, an integral or the like, which only sympy works out."""


class TooCostly(Exception):
    """Working it out would cost too much; the message names the part."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a formula.

    kind   expressions: num var const add mul div pow neg pm fn call fact percent deg
           structures: tuple set builder union inter minus matrix rel chain list
           quantity ratio based quant word
    name   the variable, constant, function, relation, brackets or unit
    value  a `num`'s exact value; `decimals` the digits written after its point
    """

    kind: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None
    decimals: int | None = None

    def walk(self) -> Iterator[Node]:
        """This node and everything below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.args)

    def depth(self) -> int:
        """Levels of nodes, this one included. Does not recurse."""
        deepest, stack = 0, [(self, 1)]
        while stack:
            node, level = stack.pop()
            deepest = max(deepest, level)
            stack.extend((arg, level + 1) for arg in node.args)
        return deepest

    def variables(self) -> frozenset[str]:
        """Names of the variables in it; a call `f(x)` counts f."""
        return frozenset(n.name for n in self.walk() if n.kind in ("var", "call"))

    def has(self, *kinds: str) -> bool:
        return any(node.kind in kinds for node in self.walk())

    def map(self, change: Callable[[Node], Node | None]) -> Node:
        """A copy in which `change` replaced what it returns a node for, top first."""
        changed = change(self)
        if changed is not None:
            return changed
        if not self.args:
            return self
        return replace(self, args=tuple(arg.map(change) for arg in self.args))

    def renamed(self, names: dict[str, str]) -> Node:
        """A copy with variables renamed."""
        if not names:
            return self

        def change(node: Node) -> Node | None:
            if node.kind == "var" and node.name in names:
                return replace(node, name=names[node.name])
            return None

        return self.map(change)


_words = str.split
STRUCTURES = frozenset(
    _words(
        "tuple set builder union inter minus matrix rel chain list quantity ratio based quant word"
    )
)


def number(value: int | Fraction, decimals: int | None = None) -> Node:
    return Node("num", value=Fraction(value), decimals=decimals)


def is_expression(node: Node) -> bool:
    """Whether it is one number-valued formula, with no tuple, relation or word in it."""
    return not any(part.kind in STRUCTURES for part in node.walk())
