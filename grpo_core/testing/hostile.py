"""Completions that break judges: what a policy in training will sooner or later write.

Each is a name and a completion. Many are there twice: bare, and where an answer
is looked for, so that they get past the search for it. Code in them is harmless:
at most it sets an environment variable, which tells who ran it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from grpo_core.rewards import Text
from grpo_core.testing.child import CANARY


class Hostile(NamedTuple):
    name: str
    completion: Text


MEGABYTE = 10**6

_RUN_ME = f"__import__('os').environ.__setitem__('{CANARY}', '1')"

_PLAIN = {
    "nothing at all": "",
    "white space only": " \n\t\u00a0\u2003",
    "a null character": "\x00",
    "control characters": "".join(map(chr, range(32))) + "7\x7f\x1b[31m",
    "right-to-left override": "\u202e7 si rewsna eht\u202c",
    "Arabic and Hebrew": "الجواب هو ٧ והתשובה היא 7",
    "a lone surrogate": "the answer is \ud83d7",
    "the other half of a surrogate": "\udc00\\boxed{7}",
    "combining marks, 10,000 on one letter": "e" + "\u0301" * 10_000,
    "joined emoji": "👩\u200d👩\u200d👧\u200d👦" * 500,
    "zero-width characters": "\u200b\u200c\u200d\ufeff" * 2_000,
    "digits of other scripts": "\\boxed{٣７②Ⅷ}",
    "1 MB of one letter": "a" * MEGABYTE,
    "1 MB of digits": "9" * MEGABYTE,
    "1 MB of spaces": " " * MEGABYTE,
    "1 MB of lines": "x\n" * (MEGABYTE // 2),
    "1 MB of words": "the answer is " * (MEGABYTE // 14),
    "100,000 opening thinking tags": "<think>" * 100_000,
    "100,000 opening and closing tags": "<think></think><answer>" * 40_000 + "</answer>",
    "tags that are almost right": "<think" * 50_000 + ">",
    "100,000 boxes": "\\boxed{" * 100_000,
    "100,000 empty boxes": "\\boxed{}" * 100_000,
    "100,000 fences": "```\n" * 100_000,
    "100,000 opening braces": "{" * 100_000,
    "100,000 closing braces": "}" * 100_000,
    "long bait for (a+)+$": "a" * 50_000 + "!",
    "bait for (a|a?)+b": "aaaa" * 10_000 + "c",
    "bait for \\s*$": "x" + " \n" * 50_000 + "x",
    "bait for .*.*=": "=" * 2_000 + "x" * 50_000,
    "bait for (\\d+,?)+": "1,1" * 30_000 + "x",
    "bait for <think>.*?</think>": "<think>a" * 30_000 + "</thin>",
}
"""Judged as they are."""

_IN_ANSWERS = {
    "bait for (a+)+$": "a" * 64 + "!",
    "100,000 digits": "7" * 100_000,
    "a number with 100,000 decimals": "0." + "3" * 100_000,
    "a power tower": "9^{9^{9^{9^{9}}}}",
    "a power tower in Python": "9**9**9**9",
    "a large base and exponent": "(3^{99999999})^{99}",
    "a factorial": "10000000!",
    "factorials of factorials": "((((9!)!)!)!)!",
    "a sum of 10 million terms": "\\sum_{k=1}^{10000000} \\frac{1}{k^{k}}",
    "a product to expand": "(x+y+z+1)^{5000}",
    "a huge exponent": "1e999999999",
    "10,000 terms": "+".join(["1"] * 10_000),
    "10,000 parentheses": "(" * 10_000 + "1" + ")" * 10_000,
    "2,000 nested fractions": "\\frac{1}{" * 2_000 + "1" + "}" * 2_000,
    "1,000 nested roots": "\\sqrt{" * 1_000 + "2" + "}" * 1_000,
    "nested lists": "[" * 20_000 + "]" * 20_000,
    "nested objects": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "a string times a billion": "'x' * 10**10",
    "not a number": "nan",
    "infinity": "\\infty",
    "division by zero": "\\frac{1}{0}",
    "null": "null",
    "None": "None",
    "a format string": "%s%n{0.__class__}{__globals__}",
    "a closing brace too many": "7}}}}",
    "a backslash at the end": "7\\",
    "code to run": _RUN_ME,
    "code behind an attribute": f"().__class__.__base__.__subclasses__() or {_RUN_ME}",
}
"""Judged as they are, and in a box in answer tags."""

_PROGRAMS = {
    "a program that runs on": "while True:\n    pass",
    "a program that eats memory": "x = []\nwhile True:\n    x.append(bytearray(10**7))",
    "a program that prints without end": "while True:\n    print('x' * 10**6)",
    "a program that exits": "import os, sys\nsys.stdout.flush()\nos._exit(0)",
    "a program that is no program": "def f(:\n\x00",
    "a program that touches its judge": f"import os\nos.environ['{CANARY}'] = '1'\n{_RUN_ME}",
}
"""Judged in a Python fence."""

_MESSAGES: dict[str, Text] = {
    "no messages": [],
    "a message without content": [{"role": "assistant"}],
    "a message whose content is null": [{"role": "assistant", "content": None}],
    "no assistant message": [{"role": "user", "content": "7"}],
    "an image alone": [
        {"role": "assistant", "content": [{"type": "image", "url": "data:,"}]},
    ],
    "a tool call alone": [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
    ],
    "a tool's reply last": [
        {"role": "assistant", "content": "\\boxed{7}"},
        {"role": "tool", "content": "7"},
    ],
    "null for reasoning": [
        {"role": "assistant", "content": "\\boxed{7}", "reasoning_content": None},
    ],
}


def boxed(text: str) -> str:
    return f"<think>\nSo.\n</think>\n<answer>\\boxed{{{text}}}</answer>"


def fenced(text: str) -> str:
    return f"<think>\nSo.\n</think>\n```python\n{text}\n```"


def completions() -> Iterator[Hostile]:
    """Every hostile completion that is a string."""
    for name, text in _PLAIN.items():
        yield Hostile(name, text)
    for name, text in _IN_ANSWERS.items():
        yield Hostile(name, text)
        yield Hostile(f"{name}, as the answer", boxed(text))
    for name, text in _PROGRAMS.items():
        yield Hostile(name, fenced(text))


def messages() -> Iterator[Hostile]:
    """Completions that are lists of messages, each odd in one way."""
    for name, completion in _MESSAGES.items():
        yield Hostile(name, completion)


def golds() -> Iterator[tuple[str, str]]:
    """Texts in the place of a ground truth: a dataset has typing errors, too."""
    for name in ("a null character", "a lone surrogate", "1 MB of digits"):
        yield name, _PLAIN[name]
    for name in (
        "bait for (a+)+$",
        "a power tower",
        "a factorial",
        "10,000 parentheses",
        "code to run",
    ):
        yield name, _IN_ANSWERS[name]
