"""What the options change."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from grpo_core import Score
from grpo_reward_math import Math

Judge = Callable[..., Score]


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("24", "24", 1.0),
        ("24", "x = 24", 1.0),
        ("24", r"24 \text{ clips}", 1.0),
        ("24", "(24)", 1.0),
        ("24", "48/2", 0.0),
        ("24", "20+4", 0.0),
        ("24", r"2\cdot 12", 0.0),
        ("24", "4!", 0.0),
        ("24", r"\sqrt{576}", 0.0),
        ("24", "48/2 = 24", 0.0),
        ("12.5", "25/2", 0.0),
        ("12.5", "12.50", 1.0),
        (r"\frac{1}{3}", r"\frac{1}{3}", 1.0),
        (r"\frac{1}{3}", r"\frac{2}{6}", 0.0),
        ("1,234", "1234", 1.0),
    ],
)
def test_form_value(judge: Judge, gold: str, answer: str, value: float) -> None:
    assert judge(gold, answer, form="value").value == value


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        (r"2\sqrt{2}", r"2\sqrt{2}", 1.0),
        (r"2\sqrt{2}", r"\sqrt{8}", 0.0),
        (r"\frac{1}{2}", r"\frac{2}{4}", 0.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        ("5", "2+3", 0.0),
        ("1024", "2^{10}", 0.0),
        ("3x", "x+2x", 0.0),
        ("6x", r"2\cdot 3x", 0.0),
        (r"\frac{x}{2}", r"\frac{2x}{4}", 0.0),
        ("x^2+1", "1+x^2", 1.0),
        ("1, 2", "2, 2-1", 0.0),
        ("(1, 2)", "(1, 4/2)", 0.0),
        ("[0, 1)", r"0 \le x < 1", 1.0),
    ],
)
def test_form_simplified(judge: Judge, gold: str, answer: str, value: float) -> None:
    assert judge(gold, answer, form="simplified").value == value


def test_an_equal_answer_in_the_wrong_form_says_so(judge: Judge) -> None:
    reason = judge("24", "20+4", form="value").reason
    assert reason.endswith("equal, but an expression stands there, not its value")


def test_units(judge: Judge) -> None:
    assert judge("5 km", "5").value == 1.0
    assert judge("5 km", "5", units="required").value == 0.0
    assert judge("5 km", "5 m").value == 0.0
    assert judge("5 km", "5 m", units="ignore").value == 1.0


def test_chains(judge: Judge) -> None:
    assert judge("2", "1 + 1 = 2").value == 0.0
    assert judge("2", "1 + 1 = 2", chains=True).value == 1.0
    assert judge("2", "1 = 2", chains=True).value == 0.0
    assert judge("2", "3 = 1 = 2", chains=True).value == 0.0


def test_approximate(judge: Judge) -> None:
    for answer in (r"\approx 3.14", r"x \approx 3.14"):
        assert judge("3.14", answer).value == 0.0
        assert judge("3.14", answer, approximate=True).value == 1.0
    assert judge("2", r"2 \approx 3", approximate=True).value == 0.0


def test_kind_choice(judge: Judge) -> None:
    for answer in ("C", "(C)", "C) 12", r"\text{(C) } 12", r"\textbf{C}"):
        assert judge("C", answer, kind="choice").value == 1.0, answer
    for answer in ("A or C", "A, B, C", "B", "12", "C or D", "not C"):
        assert judge("C", answer, kind="choice").value == 0.0, answer
    assert judge("12", "C", kind="choice").value is None


def test_kind_text(judge: Judge) -> None:
    assert judge("the red one, below", "Red one below", kind="text").value == 1.0
    assert judge("the red one, below", "the blue one", kind="text").value == 0.0


def test_kind_math_reads_no_words(judge: Judge) -> None:
    assert judge("Evelyn", "Evelyn", kind="math").value is None


@pytest.mark.parametrize("options", [{"form": "nice"}, {"unknown": 1}, {"extract": "regex"}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Math(**options)
