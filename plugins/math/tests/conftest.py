"""Shared by the tests in this folder: judge one answer against one gold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpo_core import Sample, Score
from grpo_reward_math import Math

Judge = Callable[..., Score]


@pytest.fixture
def judge() -> Judge:
    """`judge(gold, answer, **options)`: the score of `answer`, put in a box."""

    def score(gold: object, answer: str, **options: object) -> Score:
        sample = Sample("Q", f"The answer is \\boxed{{{answer}}}.", {"answer": gold})
        return Math(**options).score(sample)

    return score
