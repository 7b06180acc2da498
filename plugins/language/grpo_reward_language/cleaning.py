r"""Leaving out what is in no language: maths, code, links, quotations of the problem.

Every step reads the text once: a pattern is bounded in length or cannot give
back what it took, and a step whose first character does not occur is skipped.
Left out: single letters and acronyms, which are skipped where letters are
counted (`scripts`).
"""

from __future__ import annotations

import re

_OPENS = re.compile(
    r"```|~~~|\$\$|\\\[|\\\(|\\begin\{(?:equation|align|gather|array|[pbvBV]?matrix|cases|verbatim)\*?\}"
)
_CLOSES = {"\\[": "\\]", "\\(": "\\)"}
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_DOLLARS = re.compile(r"\$(?=[^\s$])[^$\n]{0,400}(?<=[^\s\\])\$(?![\d$])")
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|mathrm|mathbf|operatorname)\{[^{}\n]{0,400}\}|\\[A-Za-z]+"
)
_TAG = re.compile(r"</?[A-Za-z][\w:-]{0,40}(?:\s[^<>\n]{0,200})?/?>")
_LINK = re.compile(r"(?:https?://|ftp://|www\.)[^\s<>\u2e80-\u9fff\uac00-\ud7af]+")
_MAIL = re.compile(r"(?<![A-Za-z0-9.+_-])[A-Za-z0-9.+_-]{1,64}@[A-Za-z0-9.-]+")
_IDENTIFIER = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z]*+[0-9_][A-Za-z0-9_]*(?:\([^()\n]{0,80}\))?")
_DOTTED = re.compile(r"(?<![A-Za-z.])[A-Za-z]{1,40}+(?:[./\\][A-Za-z]{1,40}+){1,20}+(?:\(\))?")
_CODE_SIGN = re.compile(r"^.*[=(){};#>].*$", re.MULTILINE)
_INDENTED = re.compile(
    r"^[ \t]++(?:return|yield|raise|break|continue|pass|else:|try:|finally:).*$", re.MULTILINE
)
_FIRST_WORD = re.compile(r"\s*([A-Za-z_][\w.]*+)(.?)")
_ASSIGNED = re.compile(r"(?:\w+\s*)?[\w.]+\s*=")
_BLOCK = frozenset(["def", "class", "for", "while", "if", "elif", "else", "try", "except", "with"])
_STATEMENT = frozenset(
    [
        "return",
        "import",
        "from",
        "print",
        "assert",
        "const",
        "let",
        "var",
        "function",
        "public",
        "int",
        "float",
        "double",
        "void",
        "raise",
    ]
)


def clean(text: str) -> str:
    """The text without maths, code, tags, links and identifiers.

    What stood inside a sentence leaves a space, what stood alone a line break.
    """
    if "`" in text or "~" in text or "$" in text or "\\" in text:
        text = _without_blocks(text)
    if "`" in text:
        text = _CODE_SPAN.sub(" ", text)
    if "$" in text:
        text = _DOLLARS.sub(" ", text)
    if "\\" in text:
        text = _COMMAND.sub(" ", text)
    if "<" in text:
        text = _TAG.sub("\n", text)
    if "://" in text or "www." in text:
        text = _LINK.sub(" ", text)
    if "@" in text:
        text = _MAIL.sub(" ", text)
    text = _CODE_SIGN.sub(_unless_code, text)
    text = _INDENTED.sub("\n", text)
    text = _DOTTED.sub(_unless_words, text)
    return _IDENTIFIER.sub(" ", text)


def without_quotations(text: str, prompt: str, *, words: int = 5, characters: int = 12) -> str:
    """The text without what it copies from the prompt.

    A copy is a run of at least `words` words in a row of the prompt's, or, where
    nothing stands between words (Chinese, Thai), of `characters` characters.
    """
    text = _without_runs(text, prompt, re.compile(r"\S+"), words)
    if _UNSPACED.search(prompt):
        text = _without_runs(text, prompt, _UNSPACED, characters)
    return text


_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def _without_runs(text: str, prompt: str, unit: re.Pattern[str], length: int) -> str:
    """Leave out every run of `length` units that also stands in the prompt."""
    asked = [u.strip(_PUNCTUATION) for u in unit.findall(prompt.lower())]
    runs = set(zip(*(asked[i:] for i in range(length)), strict=False))
    if not runs:
        return text
    said = [u.strip(_PUNCTUATION) for u in unit.findall(text.lower())]
    if runs.isdisjoint(zip(*(said[i:] for i in range(length)), strict=False)):
        return text
    places = [match.span() for match in unit.finditer(text)]
    if len(places) != len(said):  # lower-casing changed what a unit is: leave it alone
        return text
    kept, at, end = [], 0, 0
    for i, run in enumerate(zip(*(said[i:] for i in range(length)), strict=False)):
        if run in runs:
            start = places[i][0]
            if start > end:
                kept.append(text[at:start])
            at = end = places[i + length - 1][1]
    return "\n".join([*kept, text[at:]])


_PUNCTUATION = ".,;:!?\"'()[]«»“”„‘’…*_"


def _without_blocks(text: str) -> str:
    """Leave out fenced code and displayed maths; one that is never closed runs to the end."""
    kept: list[str] = []
    at, never_closed = 0, set[str]()
    for opening in _OPENS.finditer(text):
        mark = opening.group()
        if opening.start() < at or mark in never_closed:
            continue
        closing = _CLOSES.get(mark, mark.replace("\\begin", "\\end"))
        end = text.find(closing, opening.end())
        if end < 0 and mark not in ("```", "~~~"):
            never_closed.add(mark)
            continue
        kept += text[at : opening.start()], " " if mark == "\\(" else "\n"
        at = end + len(closing) if end >= 0 else len(text)
    return "".join([*kept, text[at:]])


def _unless_code(line: re.Match[str]) -> str:
    return "\n" if _is_code(line.group()) else line.group()


def _is_code(line: str) -> bool:
    """Whether a line outside a fence is a statement of a program, or a bare equation."""
    stripped = line.strip()
    if stripped.startswith((">>>", "#include", "//", "}")) or stripped.endswith(("{", ");", "};")):
        return True
    first = _FIRST_WORD.match(line)
    if first is None or stripped.endswith((".", "!", "?")):
        return False
    word, rest = first.group(1), stripped[len(first.group(1)) :].lstrip()
    if rest.startswith(("=", "+=", "-=", "*=", "/=")):
        return True  # total = 48 / 2
    if first.group(2) == "(" and stripped.endswith(")"):
        return True  # main(48)
    if word in _BLOCK:
        return stripped.endswith(":") and any(sign in rest for sign in "()=[]<>")
    if word not in _STATEMENT:
        return False
    return any(sign in rest for sign in "({[;") or _ASSIGNED.match(rest) is not None


def _unless_words(match: re.Match[str]) -> str:
    """`numpy.linalg` and `src/main` are no words; `and/or` and `end.Next` are."""
    found = match.group()
    if found.endswith("()") or "\\" in found or found.count("/") > 1:
        return " "
    if "." in found and found.islower():
        return " "
    return found
