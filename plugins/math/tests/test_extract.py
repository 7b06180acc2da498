"""Where the answer stands."""

import pytest

from grpo_core import Sample
from grpo_reward_math import Math
from grpo_reward_math.extract import find_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{12}.", "12"),
        (r"\fbox{12}", "12"),
        (r"\boxed 5 apples", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a } \{1, 2\}}", r"\text{a } \{1, 2\}"),
        (r"\boxed{13}, wait, no: \boxed{12}", "12"),
        (r"\boxed{13} \boxed{12}", "12"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"$x = \boxed{1}$, $y = \boxed{2}$ or \boxed{3}", "1, 2, 3"),
        (r"\boxed{12} and then \boxed{1", "12"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"} \boxed{7} {", "7"),
        (r"\\boxed{7}", "7"),
        (r"\\ \boxed{7}", "7"),
        (r"\boxed{\{7\}}", r"\{7\}"),
    ],
)
def test_the_last_complete_box_is_the_answer(text: str, answer: str) -> None:
    assert find_answer(text).text == answer


@pytest.mark.parametrize("text", ["12", r"\boxed{12", r"\boxed", "#### 12", "The answer is 12"])
def test_without_a_complete_box_there_is_no_answer(text: str) -> None:
    found = find_answer(text)
    assert found.text is None
    assert "box" in found.rule


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("hash", "I add.\n#### 18", "18"),
        ("phrase", "So the answer is 18. I am sure.", "18"),
        ("phrase", "**Final Answer:** 18.5", "18.5"),
        ("phrase", "First 3.\nA: 18", "18"),
        ("any", "So the answer is 18.\n#### 19", "19"),
        ("any", r"The answer is 18, that is \boxed{20}", "20"),
    ],
)
def test_other_rules_are_options(rule: str, text: str, answer: str) -> None:
    assert find_answer(text, rule).text == answer  # type: ignore[arg-type]


def score(completion: str, **options: object) -> float | None:
    return Math(**options).score(Sample("Q", completion, {"answer": "7"})).value


def test_answer_tags_are_an_answer_only_when_asked_for() -> None:
    completion = "<think>3 + 4</think><answer>7</answer>"
    assert score(completion) == 0.0
    assert score(completion, extract="tag") == 1.0
    assert score(completion, extract="any") == 1.0
    assert score("<think>3 + 4</think> 7", extract="tag") == 0.0


def test_a_box_in_the_thinking_is_never_the_answer() -> None:
    assert score(r"<think>\boxed{7}</think><answer>unsure</answer>") == 0.0
    assert score(r"<think>\boxed{7}") == 0.0
    assert score(r"<think>\boxed{8}</think>\boxed{7}") == 1.0
    assert score(r"\boxed{7}</think> unsure") == 0.0


def test_the_reason_names_the_rule_that_found_the_answer() -> None:
    reason = Math().score(Sample("Q", r"\boxed{8}, no: \boxed{7}", {"answer": "7"})).reason
    assert reason == "the last box, `7`, equals the gold `7`: the same number"
