"""Comparing outputs and values: no shorter output passes, nor trailing junk."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_reward_code.compare import same_text, same_value


@pytest.mark.parametrize(
    ("got", "expected", "mode", "tolerance", "same"),
    [
        ("7\n", "7", "lines", None, True),
        ("7  \r\n8\n\n\n", "7\n8", "lines", None, True),
        ("7", "7\n8", "lines", None, False),
        ("7\n8\n9", "7\n8", "lines", None, False),
        ("7\n\n8", "7\n8", "lines", None, False),
        (" 7", "7", "lines", None, False),
        ("", "7", "lines", None, False),
        ("", "", "lines", None, True),
        ("7\n", "7", "exact", None, False),
        ("7\n", "7\n", "exact", None, True),
        (" 7   8\n9", "7 8 9", "tokens", None, True),
        ("7 8", "7 8 9", "tokens", None, False),
        ("b\na", "a\nb", "unordered", None, True),
        ("a\na", "a\nb", "unordered", None, False),
        ("0.3333", "0.33333", "lines", 1e-3, True),
        ("0.3333", "0.33333", "lines", 1e-6, False),
        ("x 1.0", "x 1", "lines", 0.0, True),
        ("nan", "1", "lines", 10.0, False),
        ("inf", "1", "lines", 10.0, False),
        ("1e999", "1", "tokens", 10.0, False),
        ("nan", "nan", "lines", 1.0, True),
        ("1_000", "1000", "lines", None, False),
    ],
)
def test_texts(got: str, expected: str, mode: Any, tolerance: float | None, same: bool) -> None:
    assert same_text(got, expected, mode, tolerance) is same


@pytest.mark.parametrize(
    ("got", "expected", "mode", "tolerance", "same"),
    [
        ((1, [2]), [1, [2]], "lines", None, True),
        ([1], [1, 2], "lines", None, False),
        (True, 1, "lines", None, False),
        (1, True, "lines", None, False),
        (1, 1.0, "lines", None, True),
        ("1", 1, "lines", None, False),
        (None, 0, "lines", None, False),
        ({1: 2}, {"1": 2}, "lines", None, True),
        ({"a": 1}, {"a": 1, "b": 2}, "lines", None, False),
        ([3, 1], [1, 3], "unordered", None, True),
        ([3, 3], [1, 3], "unordered", None, False),
        ([[1], 2], [2, [1]], "unordered", None, True),
        (0.1 + 0.2, 0.3, "lines", None, False),
        (0.1 + 0.2, 0.3, "lines", 1e-9, True),
        ([0.1 + 0.2, 1], [1, 0.3], "unordered", 1e-9, True),
        (float("nan"), 1.0, "lines", 5.0, False),
        (10**400, 1.5, "lines", 1.0, False),
        ({1, 2}, [1, 2], "lines", None, False),
    ],
)
def test_values(got: Any, expected: Any, mode: Any, tolerance: float | None, same: bool) -> None:
    assert same_value(got, expected, mode, tolerance) is same


@given(st.lists(st.text("ab\n ", max_size=5), max_size=5).map("\n".join), st.text("ab \n"))
def test_whatever_is_added_but_white_space_at_the_end_is_seen(text: str, more: str) -> None:
    assert same_text(text + "\n" + more, text, "lines", None) is not bool(more.strip())
