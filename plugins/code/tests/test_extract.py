"""Finding the program in an answer."""

import time

import pytest

from grpo_reward_code.extract import blocks, complete, defines, program

ANSWER = """First:
```python
a = 1
```
Then run it:
```sh
ls
```
~~~py
b = 2
```
still inside
~~~
"""


def test_blocks_with_their_tags() -> None:
    assert [block.tag for block in blocks(ANSWER)] == ["python", "sh", "py"]


@pytest.mark.parametrize(
    ("which", "tag", "code"),
    [
        ("last", None, "b = 2\n```\nstill inside\n"),
        ("first", None, "a = 1\n"),
        ("last", "sh", "ls\n"),
        ("all", "python", "a = 1\n\nb = 2\n```\nstill inside\n"),
        ("last", "cpp", None),
    ],
)
def test_which_block(which: str, tag: str | None, code: str | None) -> None:
    assert program(ANSWER, which, tag) == code  # type: ignore[arg-type]


def test_a_block_that_is_never_closed_runs_to_the_end() -> None:
    assert program("text\n```python\nx = 1\n") == "x = 1\n"


def test_no_block_is_none() -> None:
    assert program("x = 1") is None and program("") is None


def test_finding_blocks_is_linear_in_the_text() -> None:
    started = time.process_time()
    for hostile in ("```" * 100_000, "```\n" * 100_000, "`" * 10**6, " " * 10**6, "~~~a" * 10**5):
        program(hostile)
    assert time.process_time() - started < 20  # a quadratic one takes hours


@pytest.mark.parametrize(
    ("code", "yes"),
    [
        ("def f(x): pass", True),
        ("async def f(x): pass", True),
        ("class f: pass", True),
        ("f = lambda x: x", True),
        ("f: object = max", True),
        ("    def f(x): pass", False),
        ("class Solution:\n    def f(self): pass", True),
        ("def ff(x): pass", False),
        ("f == 1", False),
        ("x = f(1)", False),
    ],
)
def test_whether_code_defines_a_name(code: str, yes: bool) -> None:
    assert defines(code, "f") is yes


HEAD = 'from math import pi\n\ndef f(x):\n    """Double."""\n'


@pytest.mark.parametrize(
    "code",
    [
        "    return 2 * x\n",
        "return 2 * x",
        "y = 2 * x\nif y:\n    return y\nreturn 0",
        "def f(x):\n    return 2 * x",
        HEAD + "    return 2 * x",
    ],
)
def test_a_body_or_the_whole_function_completes_a_prompt(code: str) -> None:
    names: dict[str, object] = {}
    exec(complete(HEAD, HEAD, code, "f"), names)
    assert names["f"](4) == 8 and "pi" in names  # type: ignore[operator]
