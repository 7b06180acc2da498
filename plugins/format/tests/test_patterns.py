"""What an answer must hold: text with gaps, found in one pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_reward_format.patterns import MAX_BRACES, compile_pattern, find


def holds(pattern: str, text: str) -> bool:
    return find(compile_pattern(pattern), text)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{24}",
        r"so \boxed{\frac{1}{2}}.",
        r"\boxed{ \boxed{1}",
        r"\boxed{} or \boxed{1}",
        r"\boxed{\{1\}}",
    ],
)
def test_a_complete_box(text):
    assert holds(r"\boxed{*}", text)


@pytest.mark.parametrize(
    "text",
    [
        "24",
        r"\boxed{24",
        r"\boxed{}",
        "\\boxed{ \u200b}",
        r"\boxed 24",
        r"boxed{24}",
        r"\boxed {24}",
        r"\boxed{24\}",
    ],
)
def test_no_complete_box(text):
    assert not holds(r"\boxed{*}", text)


def test_text_before_and_after_a_gap():
    assert holds("The answer is *", "Well. The answer is 24")
    assert not holds("The answer is *", "The answer is \n")
    assert holds("```python*```", "```python\nprint(1)\n```")
    assert not holds("```python*```", "```python\n```")
    assert not holds("```python*```", "```\nprint(1)```python")
    assert holds("<a>*</a>*<b>", "<a>1</a> and <b>")
    assert holds("* km", "5 km")
    assert not holds("* km", " km")


def test_a_star_itself():
    assert holds("2[*]3", "2*3")
    assert not holds("2[*]3", "2x3")


def test_a_nested_box_leaves_room_for_what_follows():
    assert holds(r"\boxed{*} km", r"\boxed{ \boxed{1} km }")


@pytest.mark.parametrize("pattern", ["", "*", " * ", "**"])
def test_a_pattern_that_asks_for_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match="asks for nothing"):
        compile_pattern(pattern)


@given(st.text(alphabet="\\boxed{} 1", max_size=24))
def test_boxes_agree_with_counting_braces_from_every_start(text):
    assert holds(r"\boxed{*}", text) == any(
        _closed_and_filled(text, start)
        for start in range(len(text))
        if text.startswith(r"\boxed{", start)
    )


def _closed_and_filled(text: str, start: int) -> bool:
    at, depth = start + len(r"\boxed"), 0
    begin = at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return bool(text[begin:at].strip())
        at += 1
    return False


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 200_000, "{" * 1_000_000, "\\" * 1_000_000, "}{" * 500_000]
)
def test_a_flood_of_braces_is_not_matched_up(text):
    assert text.count("{") + text.count("\\") > MAX_BRACES
    assert not holds(r"\boxed{*}", text + r"\boxed{1}")
