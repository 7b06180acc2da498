"""What an answer must hold, written as plain text with gaps: `\\boxed{*}`, `The answer is *`.

`*` stands for any text that is not blank, `{*}` for a complete pair of braces
around some (braces nest, `\\{` and `\\}` do not count, as in LaTeX), `[*]` for a
star itself. Every pattern is looked for in one pass: no regular expressions,
so none that a completion could make slow.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from grpo_reward_format.parsing import visible

MAX_BRACES = 20_000
"""Braces and backslashes an answer may hold; more are no answer, and are not matched up."""

_TOKEN = re.compile(r"\[\*\]|\{\*\}|\*")
_BRACE = re.compile(r"\\[\s\S]|[{}]")


class Piece(NamedTuple):
    """Literal text, and what must follow it."""

    literal: str
    then: Literal["", "*", "{*}"]


def compile_pattern(pattern: str) -> tuple[Piece, ...]:
    """Split a pattern at its gaps. Raises ValueError for one that asks for nothing."""
    pieces: list[Piece] = []
    literal, at = "", 0
    for match in _TOKEN.finditer(pattern):
        literal += pattern[at : match.start()]
        at = match.end()
        if match.group() == "[*]":
            literal += "*"
        else:
            pieces.append(Piece(literal, "*" if match.group() == "*" else "{*}"))
            literal = ""
    if literal + pattern[at:]:
        pieces.append(Piece(literal + pattern[at:], ""))
    if not any(piece.literal.strip() or piece.then == "{*}" for piece in pieces):
        raise ValueError(f"the pattern {pattern!r} asks for nothing; write some text beside the *")
    return tuple(pieces)


def find(pieces: tuple[Piece, ...], text: str) -> bool:
    """Whether the text holds the pieces in order, each gap filled. Linear in the text.

    Each piece is taken where it ends earliest, which leaves the most room for
    the next, so nothing ever has to be tried twice.
    """
    braces = _matching_braces(text) if any(p.then == "{*}" for p in pieces) else {}
    at = 0
    for piece in pieces:
        if piece.then == "{*}":
            end = _braced(piece.literal, text, at, braces)
        else:
            found = text.find(piece.literal, at)
            end = found + len(piece.literal) if found >= 0 else -1
        if end < 0:
            return False
        if piece.then == "*":
            end = visible(text, end) + 1
            if end == 0:
                return False
        at = end
    return True


def _braced(literal: str, text: str, at: int, braces: dict[int, int]) -> int:
    """Where the first complete `literal{…}` to end ends, or -1."""
    if not braces:
        return -1
    opening, best = literal + "{", -1
    found = text.find(opening, at)
    while found >= 0:
        start = found + len(opening)
        end = braces.get(start - 1, -1)
        if end > start and (best < 0 or end + 1 < best) and 0 <= visible(text, start) < end:
            best = end + 1
        found = text.find(opening, start)
    return best


def _matching_braces(text: str) -> dict[int, int]:
    """The place of the closing brace of every opening brace that has one."""
    if text.count("{") + text.count("}") + text.count("\\") > MAX_BRACES:
        return {}
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            pairs[stack.pop()] = match.start()
    return pairs
