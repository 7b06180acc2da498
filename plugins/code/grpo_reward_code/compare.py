"""Comparing what a program gave with what was expected. Trusted, pure, and total:
a shorter output does not pass, nor does trailing junk.

Left out: custom checkers, which are code and run in the sandbox (`reward`).
"""

from __future__ import annotations

import math
from typing import Any, Literal

Mode = Literal["exact", "lines", "tokens", "unordered"]


def same_text(got: str, expected: str, mode: Mode, tolerance: float | None) -> bool:
    """`exact`: to the byte. `lines`: but for spaces at line ends and empty lines at the
    end. `tokens`: but for any white space. `unordered`: lines in any order.

    With `tolerance`, numbers may differ by it, absolutely or relative to the expected.
    """
    if mode == "exact":
        return got == expected
    if mode == "tokens":
        return _same_tokens(got.split(), expected.split(), tolerance)
    ours, theirs = _lines(got), _lines(expected)
    if mode == "unordered":
        ours, theirs = sorted(ours), sorted(theirs)
    if tolerance is None:
        return ours == theirs
    return len(ours) == len(theirs) and all(
        _same_tokens(a.split(), b.split(), tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_tokens(got: list[str], expected: list[str], tolerance: float | None) -> bool:
    return len(got) == len(expected) and all(
        a == b or (tolerance is not None and _close(_number(a), _number(b), tolerance))
        for a, b in zip(got, expected, strict=True)
    )


def _number(token: str) -> float | None:
    if len(token) > 400:
        return None
    try:
        return float(token)
    except ValueError:
        return None


def _close(got: float | None, expected: float | None, tolerance: float) -> bool:
    if got is None or expected is None or not math.isfinite(got):
        return False
    return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)


def same_value(got: Any, expected: Any, mode: Mode, tolerance: float | None) -> bool:
    """Whether a returned value equals one that was written as JSON: tuples are lists
    there, and keys strings. A bool is no number. `unordered`: lists in any order."""
    got = as_json(got)
    if mode == "unordered" and isinstance(got, list) and isinstance(expected, list):
        got, expected = _sorted(got), _sorted(expected)
    return _equal(got, expected, tolerance)


def _sorted(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # of several types
        return sorted(values, key=shown)


def shown(value: Any) -> str:
    """`repr`, for any plain value: Python refuses to write out a very long integer."""
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} too long to write"


def as_json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else shown(key): as_json(v) for key, v in value.items()}
    return value


def _equal(got: Any, expected: Any, tolerance: float | None) -> bool:
    if isinstance(got, bool) or isinstance(expected, bool):
        return type(got) is type(expected) and bool(got == expected)
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        if got == expected:
            return True
        try:
            return tolerance is not None and _close(float(got), float(expected), tolerance)
        except OverflowError:
            return False
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(
            _equal(a, b, tolerance) for a, b in zip(got, expected, strict=True)
        )
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(
            _equal(value, expected[key], tolerance) for key, value in got.items()
        )
    return type(got) is type(expected) and bool(got == expected)
