"""Where the answer stands: in a box, in answer tags, after `####`, after a phrase.

Only the answer part of a completion comes here, never the thinking. Every rule
is linear in the text. Left out: what the answer means (`verdict`).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Rule = Literal["boxed", "tag", "hash", "phrase", "any"]

MAX_TEXT = 50_000
"""Only this many last characters of an answer part are searched: the rest cannot
hold the last box of anything a person would read."""


class Found(NamedTuple):
    """An answer and the rule that found it, in words; `text` is None when there is none."""

    text: str | None
    rule: str


class _Box(NamedTuple):
    start: int
    end: int
    content: str


_MARKS = re.compile(
    r"\\(?:boxed|fbox)\s*(?P<open>\{)"
    r"|\\(?:boxed|fbox)[\s$]*(?P<bare>[-+]?[0-9][0-9.,]*(?<=[0-9])|[A-Za-z0-9](?![A-Za-z]))"
    r"|\\\\(?!boxed|fbox)|\\[{}]"
    r"|[{}]"
)
_INNER_BOX = re.compile(r"\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*", re.DOTALL)
_JOINER = re.compile(
    r"[\s$.]*(?:\\\)|\\\])?[\s$]*(?:,|;|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b)"
    r"(?:[\s$]|\band\b|\bor\b|\\quad|\\qquad|\\[,; (\[]|[A-Za-z](?:_[0-9])?\s*=)*",
    re.IGNORECASE,
)
_MAX_GAP = 60
_PHRASE = re.compile(
    r"(?:final\s+answer|answer)\s*(?:is|:|=)+[:\s]*|(?:^|\n)[ \t]*A:", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"\.\s|\.$|\n")


def find_answer(text: str, rule: Rule = "boxed", *, tagged: bool = False) -> Found:
    """The answer that `rule` finds in an answer part.

    `tagged` says that `text` is what stood inside answer tags. `any` tries the
    box, the tags, `####` and the phrase, in this order.
    """
    if len(text) > MAX_TEXT:
        text = text[-MAX_TEXT:]
    if rule in ("boxed", "any", "tag"):
        found = _boxed(text)
        if found.text is not None and (rule != "tag" or tagged):
            return found
        if rule == "boxed":
            return found
    if rule in ("tag", "any") and tagged and text.strip():
        return Found(text.strip(), "the answer tags")
    if rule in ("hash", "any") and (at := text.rfind("####")) >= 0:
        line = text[at + 4 :].strip().partition("\n")[0].strip()
        if line:
            return Found(line, "what follows ####")
    if rule in ("phrase", "any") and (phrase := _phrased(text)):
        return Found(phrase, "the last answer phrase")
    missing = {
        "tag": "no answer tags",
        "hash": "no #### line",
        "phrase": "no phrase such as 'the answer is'",
        "any": "no box, tags, #### or answer phrase",
    }
    return Found(None, f"{missing[rule]} in the answer part")


def _boxed(text: str) -> Found:
    if "\\boxed" not in text and "\\fbox" not in text:
        return Found(None, "no box in the answer part")
    boxes = _boxes(text)
    if not boxes:
        return Found(None, "no complete box in the answer part")
    first = len(boxes) - 1
    while first and _joined(text, boxes[first - 1].end, boxes[first].start):
        first -= 1
    joined = boxes[first:]
    if len(joined) == 1:
        return Found(joined[0].content, "the last box")
    return Found(", ".join(box.content for box in joined), f"the last {len(joined)} boxes, joined")


def _joined(text: str, start: int, end: int) -> bool:
    """Whether nothing but a comma, "and" or "or" (and a label) stands between two boxes."""
    return end - start <= _MAX_GAP and _JOINER.fullmatch(text, start, end) is not None


def _boxes(text: str) -> list[_Box]:
    """Every complete outermost box, in order of its end. One pass with a stack."""
    boxes: list[_Box] = []
    stack: list[tuple[int, int] | None] = []  # (start of the command, start of the content)
    for mark in _MARKS.finditer(text):
        if mark["open"]:
            stack.append((mark.start(), mark.end()))
        elif mark["bare"]:
            _push(boxes, _Box(mark.start(), mark.end(), mark["bare"]))
        elif mark[0] == "{":
            stack.append(None)
        elif mark[0] == "}" and stack and (opened := stack.pop()) is not None:
            start, content = opened
            _push(boxes, _Box(start, mark.end(), _unwrapped(text[content : mark.start()])))
    return boxes


def _push(boxes: list[_Box], box: _Box) -> None:
    while boxes and boxes[-1].start > box.start:  # it stood inside this one
        boxes.pop()
    boxes.append(box)


def _unwrapped(content: str) -> str:
    """A box inside a box is the same box; one level is enough to read, more is a game."""
    inner = _INNER_BOX.fullmatch(content)
    return (inner[1] if inner else content).strip()


def _phrased(text: str) -> str | None:
    ends = [match.end() for match in _PHRASE.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] :]
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip().strip("*").strip() or None
