"""Is this text one thinking part and one answer part, and if not, what is wrong first?

Pure functions over strings, linear in the text: they walk from tag to tag with
`str.find`; no regular expression that could backtrack ever sees model text.
Left out: what an answer must hold (`patterns`), samples and scores (`__init__`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U000e0000-\U000e0fff]"
)
"""One character a reader can see: a single class, so searching it is one pass."""


class Layout(NamedTuple):
    """What a completion should look like.

    `think` and `answer` are tag names; an empty `answer` means that all that
    follows the thinking is the answer. `prefilled`: the prompt already opened
    the thinking. `thinking`: the thinking arrived apart from the text, as a
    message's `reasoning_content`.
    """

    think: str = "think"
    answer: str = "answer"
    prefilled: bool = False
    thinking: str | None = None

    def tags(self) -> tuple[str, ...]:
        """Every tag this layout knows, in order; each may stand at most once."""
        names = (self.think, self.answer) if self.answer else (self.think,)
        return tuple(tag for name in names for tag in (f"<{name}>", f"</{name}>"))

    def expected(self) -> tuple[str, ...]:
        """The tags the text itself must hold, in order."""
        skipped = 2 if self.thinking is not None else 1 if self.prefilled else 0
        return self.tags()[skipped:]


class Parsed(NamedTuple):
    """`fault` is None when the text is well formed, else the first thing wrong and where.

    `thinking` and `answer` are complete only without a fault; `answer_at` is
    where the answer begins in the text. `in_place` counts the expected tags that
    stand exactly once and in order.
    """

    fault: str | None
    thinking: str = ""
    answer: str = ""
    answer_at: int = 0
    in_place: int = 0


def parse(text: str, layout: Layout) -> Parsed:
    """Split a completion into its two parts, or say what is wrong with it first."""
    thinking, answer, answer_at, fault = _walk(text, layout)
    expected = layout.expected()
    in_place = len(expected) if fault is None else tags_in_place(text, expected)
    return Parsed(fault, thinking, answer, answer_at, in_place)


def tags_in_place(text: str, expected: tuple[str, ...]) -> int:
    """How many of the expected tags stand exactly once, each after the one counted before it."""
    count, at = 0, 0
    for tag in expected:
        found = text.find(tag)
        if found >= at and text.find(tag, found + 1) < 0:
            count, at = count + 1, found + len(tag)
    return count


def visible(text: str, start: int = 0) -> int:
    """The index of the first character a reader can see at or after `start`, or -1.

    White space, control characters and invisible ones (zero-width spaces, fillers,
    direction marks) do not count: a part that holds only those is empty.
    """
    match = _VISIBLE.search(text, start)
    return match.start() if match else -1


def where(text: str, at: int) -> str:
    """A position as people count: `line 2, character 7`."""
    line_start = text.rfind("\n", 0, at) + 1
    return f"line {text.count(chr(10), 0, at) + 1}, character {at - line_start + 1}"


def excerpt(text: str, start: int = 0, length: int = 24) -> str:
    """The beginning of some text in quotes, on one line, without what cannot be printed."""
    shown = " ".join(text[start : start + length].split())
    shown = "".join(c if c.isprintable() else "\ufffd" for c in shown)
    return f'"{shown}…"' if len(text) > start + length else f'"{shown}"'


def _walk(text: str, layout: Layout) -> tuple[str, str, int, str | None]:
    """(thinking, answer, where the answer begins, fault), up to the first fault."""
    thinking, answer, answer_at = layout.thinking or "", "", 0

    def stop(fault: str) -> tuple[str, str, int, str]:
        return thinking, answer, answer_at, fault

    known = layout.tags()
    if layout.thinking is not None:
        if visible(layout.thinking) < 0:
            return stop("the thinking (reasoning_content) is empty")
        _, tag, at = _next_tag(layout.thinking, known, 0)
        if tag:
            return stop(
                f"{tag} inside the thinking (reasoning_content), {where(layout.thinking, at)}"
            )
    if visible(text) < 0:
        return stop("the completion is empty")

    at = 0
    before = known[0] + " in the prompt" if layout.prefilled else ""
    for tag in layout.expected():
        part, found, position = _next_tag(text, known, at)
        closing = tag.startswith("</")
        if tag == known[0] and found == known[1]:
            return stop(
                f"{found} at {where(text, position)} closes what nothing opened; "
                f"if the prompt's template opens {tag}, set prefilled: true"
            )
        if not closing and (stray := part.strip()):
            first = text.index(stray[0], at)
            place = f"between {before} and {tag}" if before else f"before {tag}"
            if not found:
                place += f", which is missing; it stands at {where(text, first)}"
            else:
                place += f", at {where(text, first)}"
            return stop(f"text {place}: {excerpt(stray)}")
        if not found:
            return stop(f"{before} is never closed" if closing else f"{tag} is missing")
        if found != tag:
            return stop(f"{found} at {where(text, position)}, where {tag} should come next")
        if closing:
            name = "thinking" if tag == known[1] else "answer"
            if visible(part) < 0:
                return stop(f"the {name} is empty, at {where(text, at)}")
            if name == "thinking":
                thinking = part
            else:
                answer, answer_at = part, at
        at = position + len(tag)
        before = tag if closing else f"{tag} at {where(text, position)}"

    rest, found, position = _next_tag(text, known, at)
    if not layout.answer:
        if found:
            return stop(f"a second {found} at {where(text, position)}")
        if visible(rest) < 0:
            return stop(f"the answer is empty, at {where(text, at)}")
        return thinking, rest, at, None
    if stray := rest.strip():
        first = text.index(stray[0], at)
        return stop(f"text after {known[-1]}, at {where(text, first)}: {excerpt(stray)}")
    if found:
        return stop(f"{found} at {where(text, position)}, after the end of the answer")
    return thinking, answer, answer_at, None


def _next_tag(text: str, known: tuple[str, ...], at: int) -> tuple[str, str, int]:
    """(the text up to the next known tag, that tag, its place); ("…", "", -1) at the end."""
    found, position = "", len(text)
    for tag in known:
        here = text.find(tag, at, min(len(text), position + len(tag)))
        if 0 <= here < position:
            found, position = tag, here
    return text[at:position], found, position if found else -1
