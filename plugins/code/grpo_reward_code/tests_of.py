"""Recognising a sample's tests in the columns of the field's common datasets.

| columns | dataset | tests |
| --- | --- | --- |
| `test`, `entry_point` (and `prompt`) | HumanEval, HumanEval+ | asserts in `check(candidate)` |
| `test_list` (and `test_imports`, `test_setup_code`) | MBPP, MBPP+ | asserts, one a line |
| `inputs`, `outputs`, or both in `input_output` | APPS, TACO, code contests | programs on stdin, or calls of `fn_name` |

Everything here is dataset, so it is trusted. Left out: running (`reward`).
"""

from __future__ import annotations

import ast
import builtins
import collections
import functools
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_reward_code.extract import blocks


class NoTests(Exception):
    """The sample has no tests of a known kind, or they cannot be read; the message says why."""


@dataclass(frozen=True)
class Asserts:
    """Asserts that call the candidate: each string is one test."""

    tests: tuple[str, ...]
    names: tuple[str, ...]
    setup: str
    head: str = ""
    """Code that the answer goes on from: a prompt that ends in a function's head."""
    whole_head: str = ""
    """The same as code that stands for itself, for an answer that starts anew."""


@dataclass(frozen=True)
class Programs:
    """A program a test reads `inputs[i]` and must print `outputs[i]`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    checker: str = ""


@dataclass(frozen=True)
class Calls:
    """`name(*inputs[i])` must return `outputs[i]`; both as JSON, so that they hash."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Tests = Asserts | Programs | Calls


def tests_of(columns: Mapping[str, Any], prompt_text: str) -> Tests:
    """The tests of a sample. Raises NoTests."""
    test, entry_point = columns.get("test"), columns.get("entry_point")
    if isinstance(test, str) and test.strip() and isinstance(entry_point, str):
        return _humaneval(columns, test, entry_point, prompt_text)
    if (tests := _strings(columns.get("test_list"), "test_list")) is not None:
        return _mbpp(columns, tests)
    if (pairs := _pairs(columns)) is not None:
        return pairs
    raise NoTests(
        "no tests: expected the columns test + entry_point, test_list, inputs + outputs, "
        "or input_output"
    )


def _humaneval(columns: Mapping[str, Any], test: str, entry: str, prompt_text: str) -> Asserts:
    given = columns.get("prompt")
    head = _code_of(given if isinstance(given, str) else prompt_text)
    whole = head if _parses(head) else head.rstrip() + _NO_BODY
    setup = [whole, *(_strings(columns.get("test_imports"), "test_imports") or ())]
    if isinstance(code := columns.get("test_setup_code"), str):
        setup.append(code)
    return Asserts((test,), (entry,), "\n".join(setup), head, whole)


_NO_BODY = "\n    pass\n"


def _code_of(prompt: str) -> str:
    """The Python in a prompt: all of it, its last fenced block, or none. It may end in a
    function's head."""
    for code in (prompt, *(block.code for block in reversed(blocks(prompt)))):
        python = _parses(code) or _parses(code.rstrip() + _NO_BODY)
        if python and re.search(r"^(?:def|class|import|from)\b", code, re.MULTILINE):
            return code
    return ""


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _mbpp(columns: Mapping[str, Any], tests: Sequence[str]) -> Asserts:
    imports = _strings(columns.get("test_imports"), "test_imports") or ()
    code = columns.get("test_setup_code")
    setup = "\n".join([*imports, code if isinstance(code, str) else ""])
    reference = columns.get("code")
    names = _called(tests, setup, reference if isinstance(reference, str) else "")
    if not names:
        raise NoTests("test_list calls no function that the answer could define")
    return Asserts(tuple(tests), tuple(names), setup)


_COMMON = {
    name for module in (builtins, math, collections, itertools, functools) for name in dir(module)
}


def _called(tests: Sequence[str], setup: str, reference: str) -> list[str]:
    """The functions that the answer has to bring: those that the tests call by name and
    that neither Python nor the set-up defines; of these, those in the reference."""
    known = _defined(setup)
    called: dict[str, None] = {}
    for test in tests:
        try:
            tree = ast.parse(test)
        except (SyntaxError, ValueError) as error:
            raise NoTests(f"a test is no Python: {error}") from None
        known |= _defined(test)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called[node.func.id] = None
    names = [name for name in called if name not in known and not hasattr(builtins, name)]
    wanted = _defined(reference) if _parses(reference) else set()
    if wanted & set(names):
        return [name for name in names if name in wanted]
    uncommon = [name for name in names if name not in _COMMON]
    return uncommon or names


def _defined(code: str) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(code).body if _parses(code) else ():
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def _pairs(columns: Mapping[str, Any]) -> Programs | Calls | None:
    source: Any = columns
    if "input_output" in columns and columns["input_output"] is not None:
        source = _json(columns["input_output"], "input_output")
        if not isinstance(source, Mapping):
            raise NoTests("input_output is no JSON object")
    if source.get("inputs") is None or source.get("outputs") is None:
        return None
    inputs, outputs = _json(source["inputs"], "inputs"), _json(source["outputs"], "outputs")
    if not _is_list(inputs) or not _is_list(outputs):
        raise NoTests("inputs and outputs must be lists")
    if not len(inputs) or len(inputs) != len(outputs):
        raise NoTests(f"{len(inputs)} inputs but {len(outputs)} outputs")
    name = source.get("fn_name") or columns.get("fn_name") or columns.get("entry_point")
    if isinstance(name, str) and name:
        return Calls(
            name,
            tuple(json.dumps(_arguments(item)) for item in inputs),
            tuple(json.dumps(_plain(item)) for item in outputs),
        )
    checker = columns.get("checker")
    return Programs(
        tuple(map(_lines, inputs)),
        tuple(map(_lines, outputs)),
        checker if isinstance(checker, str) else "",
    )


def _arguments(item: Any) -> list[Any]:
    """A call's arguments: a list, or text with one JSON value a line."""
    if isinstance(item, str):
        try:
            return [json.loads(line) for line in item.splitlines() if line.strip()]
        except ValueError:
            return [item]
    return list(_plain(item)) if _is_list(item) else [item]


def _lines(item: Any) -> str:
    """Text on stdin or stdout; some datasets have a list of lines."""
    if isinstance(item, str):
        return item
    if _is_list(item):
        return "\n".join(map(str, item)) + "\n"
    raise NoTests(f"an input or output is a {type(item).__name__}, not text")


def _plain(item: Any) -> Any:
    """Lists where Parquet has arrays and Python tuples."""
    if hasattr(item, "tolist"):
        item = item.tolist()
    if isinstance(item, (list, tuple)):
        return [_plain(part) for part in item]
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    return item


def _json(value: Any, column: str) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            raise NoTests(f"{column} is no JSON") from None
    return value


def _is_list(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, str)) or hasattr(value, "tolist")


def _strings(value: Any, column: str) -> list[str] | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, column)
    if isinstance(value, str):
        return [value]
    if not _is_list(value) or not all(isinstance(item, str) for item in value):
        raise NoTests(f"{column} must be a list of strings")
    return list(value) or None
