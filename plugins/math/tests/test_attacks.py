"""Hacks are refused and their honest twins are not; bombs are answered, wherever they run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core import Sample
from grpo_reward_math import Math
from grpo_reward_math.attacks import Case, bombs, floods, hack_matrix

CASES = list(hack_matrix())
KINDS = sorted({case.kind for case in CASES})
MATH = Math()


def value(gold: str, completion: str) -> float | None:
    return MATH.score(Sample("Q", completion, {"answer": gold})).value


def test_the_matrix_is_large_and_every_attack_meets_several_kinds_of_gold() -> None:
    assert len(CASES) >= 400
    assert min(Counter(case.kind for case in CASES).values()) >= 20
    assert len({case.attack for case in CASES}) >= 20


@pytest.mark.parametrize("kind", KINDS)
def test_no_hack_is_accepted(kind: str) -> None:
    fooled: list[Case] = [c for c in CASES if c.kind == kind and value(c.gold, c.hack) != 0.0]
    assert not fooled


@pytest.mark.parametrize("kind", KINDS)
def test_every_honest_twin_is_accepted(kind: str) -> None:
    refused = [c for c in CASES if c.kind == kind and value(c.gold, c.honest) != 1.0]
    assert not refused


GOLDS = ["7", r"\sqrt{2}", "x^2+1", r"\{1, 2\}", "(1, 2)", "[0, 1)", "5 km", "y = 2x", "n!"]


def answer_bombs() -> list[float | None]:
    return [value(gold, rf"\boxed{{{bomb}}}") for gold in GOLDS for bomb in bombs()]


def test_bombs_are_answered_in_the_main_thread() -> None:
    assert len(bombs()) >= 50
    assert set(answer_bombs()) == {0.0}


def test_bombs_are_answered_in_a_worker_thread() -> None:
    values: list[float | None] = []
    thread = threading.Thread(target=lambda: values.extend(answer_bombs()))
    thread.start()
    thread.join()
    assert set(values) == {0.0}


def test_bombs_are_answered_in_an_event_loop() -> None:
    async def one(gold: str, bomb: str) -> float | None:
        await asyncio.sleep(0)
        return value(gold, rf"\boxed{{{bomb}}}")

    async def together() -> list[float | None]:
        return await asyncio.gather(*(one("7", bomb) for bomb in bombs()))

    assert set(asyncio.run(together())) == {0.0}


def test_threads_do_not_disturb_each_other() -> None:
    pairs = [(r"\sqrt{8}", r"2\sqrt{2}", 1.0), (r"\sqrt{2}", r"\sqrt{2}+10^{-300}", 0.0)] * 20
    results: list[bool] = []

    def run(shift: int) -> None:
        for gold, answer, expected in pairs[shift:] + pairs[:shift]:
            results.append(value(gold, rf"\boxed{{{answer}}}") == expected)

    threads = [threading.Thread(target=run, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 * len(pairs)
    assert all(results)


@pytest.mark.parametrize("extract", ["boxed", "any"])
def test_floods_of_text_are_read(extract: str) -> None:
    reward = Math(extract=extract)
    for flood in floods():
        assert reward.score(Sample("Q", flood, {"answer": "8"})).value == 0.0


def test_reasons_stay_one_short_line() -> None:
    for bomb in ("a" * 1500, "\\" + "b" * 1500, "9" * 1500, "x\n" * 300, "\u202e" * 500):
        reason = MATH.score(Sample("Q", rf"\boxed{{{bomb}}}", {"answer": "7"})).reason
        assert len(reason) < 400
        assert "\n" not in reason


def test_a_gold_that_is_a_bomb_still_has_a_verdict() -> None:
    assert value("9^{9^{9^{9}}}", r"\boxed{7}") == 0.0
    assert value("9^{9^{9^{9}}}", r"\boxed{9^{9^{9^{9}}}}") == 1.0


@given(digits=st.integers(1, 250), numerator=st.integers(1, 999))
@settings(max_examples=40, deadline=None)
def test_no_small_difference_is_lost(digits: int, numerator: int) -> None:
    hack = rf"\sqrt{{2}} + \frac{{{numerator}}}{{10^{{{digits}}}}}"
    assert value(r"\sqrt{2}", rf"\boxed{{{hack}}}") == 0.0


@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500))
@settings(max_examples=60, deadline=None)
def test_sums_and_products_of_fractions_are_exact(left: Fraction, right: Fraction) -> None:
    def tex(x: Fraction) -> str:
        return rf"\left(\frac{{{x.numerator}}}{{{x.denominator}}}\right)"

    total = left + right
    assert value(f"{total}", rf"\boxed{{{tex(left)}+{tex(right)}}}") == 1.0
    assert value(f"{left * right}", rf"\boxed{{{tex(left)}\cdot{tex(right)}}}") == 1.0
    assert value(f"{total + Fraction(1, 10**9)}", rf"\boxed{{{tex(left)}+{tex(right)}}}") == 0.0


@given(st.text(alphabet="0123456789+-*/^_{}()[]|\\,.=<>! $%xnfe\t", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gets_a_verdict(text: str) -> None:
    for gold in ("7", "x^2", "(1, 2)", "[0, 1)"):
        assert value(gold, rf"\boxed{{{text}}}") in (0.0, 1.0)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_gold_is_read_or_abstained_from(gold: str) -> None:
    assert value(gold, r"\boxed{7}") in (0.0, 1.0, None)
