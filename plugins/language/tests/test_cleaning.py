"""What is in no language leaves; what is stays."""

import pytest

from grpo_reward_language.cleaning import clean, without_quotations


def words(text: str) -> list[str]:
    return [w.strip(".,:;") for w in clean(text).split() if any(map(str.isalpha, w))]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Also $x^2 = \\sin y$ ist", ["Also", "ist"]),
        ("It costs $5 and then $7 more.", ["It", "costs", "and", "then", "more"]),
        ("So \\(a + b\\) is \\[ \\frac{cost}{day} \\] done", ["So", "is", "done"]),
        ("so $$ total $$ is", ["so", "is"]),
        ("\\begin{align} cost &= 5 \\end{align} done", ["done"]),
        ("The answer is \\boxed{apples}.", ["The", "answer", "is"]),
        ("a \\cdot area \\times width", ["a", "area", "width"]),
        ("First\n```python\nfor item in items:\n    print(item)\n```\nthen", ["First", "then"]),
        ("First\n```python\nnever closed", ["First"]),
        ("the value `count_all(items)` grows", ["the", "value", "grows"]),
        ("see https://example.com/some/path?q=word here", ["see", "here"]),
        ("write to anna.smith@example.com today", ["write", "to", "today"]),
        ("call my_function(value) and x2 now", ["call", "and", "now"]),
        ("with numpy.linalg we solve", ["with", "we", "solve"]),
        ("<think>so</think> <answer>it</answer>", ["so", "it"]),
        ("def area(width):\n    half = width / 2\n    if half > 3:\n        return half\n    return width\nprint(area(2))\nNow we know.", ["Now", "we", "know"]),
        ("total = 48 / 2\nThat is it.", ["That", "is", "it"]),
        ("for each friend (Tom and Ann) we count.", ["for", "each", "friend", "Tom", "and", "Ann", "we", "count"]),
        ("if it rains and/or snows we wait", ["if", "it", "rains", "and/or", "snows", "we", "wait"]),
        ("let me think: 48/2=24", ["let", "me", "think"]),
        ("let total = 48/2", []),
        ("48个苹果 and x=3", ["个苹果", "and", "x"]),
    ],
)  # fmt: skip
def test_what_is_left_of(text, left):
    got = [w.strip("()=") for w in words(text)]
    assert got == left


def test_copies_of_the_problem_leave():
    prompt = "Natalia sold clips to 48 of her friends in April. How many did she sell?"
    text = "Das Problem: natalia sold clips to 48 of her friends. Dann die Hälfte."
    assert without_quotations(text, prompt).split() == ["Das", "Problem:", "Dann", "die", "Hälfte."]
    assert without_quotations("She sold clips in May.", prompt) == "She sold clips in May."
    assert without_quotations(prompt, prompt).strip() == ""


def test_copies_leave_where_no_spaces_stand_between_words():
    prompt = "四月份玛丽亚卖给朋友们48个夹子。她一共卖了多少？"
    left = without_quotations("题目说四月份玛丽亚卖给朋友们48个夹子。So she sold some.", prompt)
    assert "玛丽亚卖给朋友" not in left
    assert left.endswith("So she sold some.")


@pytest.mark.parametrize(
    "unit",
    ["\\[", "\\(", "$$", "`", "$a", "<a ", "a_", "a.b.", "x = 1\n", "\\begin{align}", "f(", "a@"],
)
def test_a_long_text_of_openings_comes_through(unit):
    assert isinstance(clean(unit * 20_000), str)
