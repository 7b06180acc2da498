"""Finding the program in an answer. Pure text work: nothing here parses Python.

Left out: which tests it is run against (`tests_of`).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Which = Literal["last", "first", "all"]

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)


class Block(NamedTuple):
    tag: str
    code: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text. One that is never closed runs to the end."""
    found: list[Block] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[1].startswith(opening[1]) and not fence[2]:
            found.append(Block(opening[2].lower(), text[opening.end() + 1 : fence.start()]))
            opening = None
    if opening is not None:
        found.append(Block(opening[2].lower(), text[opening.end() + 1 :]))
    return found


def program(text: str, which: Which = "last", tag: str | None = None) -> str | None:
    """The code of an answer: of its last, first or all fenced blocks, or of those with
    this tag (`python` also means `py` and `python3`). None when there is no such block.
    """
    tags = {"python", "py", "python3"} if tag == "python" else {tag}
    codes = [block.code for block in blocks(text) if tag is None or block.tag in tags]
    if not codes:
        return None
    return {"last": codes[-1], "first": codes[0], "all": "\n".join(codes)}[which]


def defines(code: str, name: str) -> bool:
    """Whether the code defines `name`, at the top or as a method of `class Solution`."""
    word = re.escape(name)
    function = rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b"
    variable = rf"^{word}[ \t]*(?::[^=\n]*)?=(?!=)"
    if re.search(f"{function}|{variable}", code, re.MULTILINE):
        return True
    method = rf"^[ \t]+(?:async[ \t]+)?def[ \t]+{word}\b"
    return bool(
        re.search(r"^class[ \t]+Solution\b", code, re.MULTILINE)
        and re.search(method, code, re.MULTILINE)
    )


def complete(prompt: str, whole_prompt: str, code: str, name: str) -> str:
    """A program from a prompt that ends in a function's head and what followed: only the
    function's body, or the whole of it, which `whole_prompt` may precede."""
    if defines(code, name):
        return f"{whole_prompt}\n\n{code}"
    first = next((line for line in code.splitlines() if line.strip()), "")
    if not first[:1].isspace():  # a body without its indentation
        code = "\n".join("    " + line if line.strip() else line for line in code.splitlines())
    return f"{prompt.rstrip()}\n{code}" if prompt.strip() else code
