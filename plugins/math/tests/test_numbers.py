"""Exact numbers and how they are compared."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Score
from grpo_reward_math.numbers import read_number

Judge = Callable[..., Score]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24", 24),
        ("-24", -24),
        ("+24", 24),
        ("007", 7),
        ("1,234,567", 1234567),
        (r"1{,}000", 1000),
        ("12.50", Fraction(25, 2)),
        (".5", Fraction(1, 2)),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        ("10%", Fraction(1, 10)),
        (r"12.5\%", Fraction(1, 8)),
        ("2e-3", Fraction(1, 500)),
        (r"2 \times 10^{-3}", Fraction(1, 500)),
        ("1.5 × 10^(4)".replace("×", r"\times"), 15000),
    ],
)
def test_numerals(text: str, value: Fraction | int) -> None:
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "1/0",
        "1,00",
        "1e99999",
        "9" * 2000,
        "１２",
        "٣",
        "1 2",
        "12x",
        "1_000",
        "0x10",
    ],
)
def test_not_numerals(text: str) -> None:
    assert read_number(text) is None


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_reads_back(value: Fraction) -> None:
    number = read_number(f"{value.numerator}/{value.denominator}".replace("/", "/"))
    assert number is not None
    assert number.value == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_reads_back(value: object) -> None:
    number = read_number(f"{value:f}")
    assert number is not None
    assert number.value == Fraction(f"{value:f}")


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("24", "24.0", True),
        ("1000", "1,000", True),
        ("0.5", "1/2", True),
        ("0.33333", r"\frac{1}{3}", True),  # an exact answer that rounds to a decimal gold
        ("30.52", r"\frac{1587}{52}", True),
        ("0.33333", "0.3333", False),  # but no other decimal
        ("1/3", "0.33333", False),  # and an exact gold accepts no rounded decimal
        ("1/3", "0." + "3" * 200, False),
        ("10%", "0.1", True),
        ("10%", "1/10", True),
        ("10%", "10", False),
        ("10", "10%", False),
        ("6.67%", "1/15", True),
        (24, "24", True),
        (24.0, "24", True),
        (0.2, "0.2", True),
        ("12 + 12 = <<12+12=24>>24\n#### 24", "24", True),
        ("#### 1,024", "1024", True),
        (r"It is $\boxed{24}$.", "24", True),
    ],
)
def test_numbers_are_compared_exactly(judge: Judge, gold: object, answer: str, equal: bool) -> None:
    assert judge(gold, answer).value == float(equal)


@pytest.mark.parametrize("gold", [None, "", "  ", "####", float("nan"), {"a": 1}, [1, 2], "N/A"])
def test_without_a_gold_the_reward_abstains(judge: Judge, gold: object) -> None:
    score = judge(gold, "24")
    assert score.value is None
    assert score.outcome == "abstained"
    assert "answer" in score.reason


def test_the_column_is_an_option_and_required() -> None:
    from grpo_reward_math import Math

    assert list(Math().requires) == ["answer"]
    assert list(Math(answer_column="solution").requires) == ["solution"]


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("24", "48/2", False),
        ("24", r"\frac{48}{2}", False),
        ("24", "24", True),
        (0.2, "0.20", True),
        (0.2, "1/5", False),
        (r"\frac{1}{2}", r"\frac{1}{2}", True),
        (r"\frac{1}{2}", r"\frac{2}{4}", False),
        (r"\frac{1}{2}", "0.5", True),
    ],
)
def test_form_value_wants_the_number_itself(
    judge: Judge, gold: object, answer: str, equal: bool
) -> None:
    assert judge(gold, answer, form="value").value == float(equal)


def test_lenient_percent_is_an_option(judge: Judge) -> None:
    assert judge("10%", "10", percent="lenient").value == 1.0
    assert judge("10%", "0.1", percent="lenient").value == 1.0
    assert judge("10", "10%", percent="lenient").value == 0.0
