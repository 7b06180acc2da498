"""Golds with sums, products, integrals, limits, derivatives: read by math-verify.

Only golds come here, which are trusted; an answer in such notation is not worked
out. sympy evaluates what math-verify read, and the result becomes a tree like any
other, so answers are compared with it by the same rules. Loads sympy on first use.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from grpo_reward_math.tree import Node, Unreadable, number

_MAX_LENGTH = 200
_MAX_OPERATIONS = 24
_LONG_NUMBER = re.compile(r"[0-9]{5,}|\^\s*\{?\s*[0-9]{3,}|\^[^a-z]*\^")
"""What could make sympy write out a million terms."""

_FUNCTIONS = {
    "Abs": "abs",
    "log": "ln",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "acot": "arccot",
    "ceiling": "ceil",
    "binomial": "binom",
    **{
        name: name
        for name in (
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
            "sinh",
            "cosh",
            "tanh",
            "exp",
            "floor",
        )
    },
}


def read_with_sympy(text: str) -> Node:
    """The value of a gold that the grammar does not read. Raises Unreadable."""
    if len(text) > _MAX_LENGTH or _LONG_NUMBER.search(text):
        raise Unreadable("it is too long for sympy to work out")
    from math_verify import LatexExtractionConfig, parse

    # it warns that no timeout is set; a timeout would be a signal, which only the
    # main thread can take, so the length is bounded instead
    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
    formula = text.strip().strip("$").strip()
    try:
        parsed = parse(
            f"${formula}$",
            extraction_config=[LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    except Exception as error:  # a parser that is not ours may raise anything
        raise Unreadable(f"math-verify cannot read it ({type(error).__name__})") from error
    if not parsed or isinstance(parsed[0], str):
        raise Unreadable("neither the grammar nor math-verify reads it")
    try:
        if parsed[0].count_ops() > _MAX_OPERATIONS:
            raise Unreadable("it is too long for sympy to work out")
        return _tree(parsed[0].doit())
    except Unreadable:
        raise
    except Exception as error:  # sympy too; the row then abstains, and says why
        raise Unreadable(f"sympy cannot work it out ({type(error).__name__})") from error


def _tree(expression: Any) -> Node:
    """A sympy expression as our tree. Raises Unreadable for what has no counterpart."""
    import sympy

    if expression.is_Integer:
        return number(int(expression))
    if expression.is_Rational:
        return Node("div", (number(int(expression.p)), number(int(expression.q))))
    if expression.is_Symbol:
        return Node("var", name=str(expression))
    constants = {sympy.pi: "pi", sympy.E: "e", sympy.I: "I", sympy.oo: "inf"}
    if expression in constants:
        return Node("const", name=constants[expression])
    args = tuple(_tree(arg) for arg in expression.args)
    if not args:
        raise Unreadable(f"sympy gives {str(expression)[:40]}")
    if expression.is_Add:
        return Node("add", args)
    if expression.is_Mul:
        return Node("mul", args)
    if expression.is_Pow:
        return Node("pow", args)
    name = type(expression).__name__
    if name == "factorial":
        return Node("fact", args)
    if name in _FUNCTIONS:
        return Node("fn", args, _FUNCTIONS[name])
    raise Unreadable(f"sympy leaves {name} as it is")
