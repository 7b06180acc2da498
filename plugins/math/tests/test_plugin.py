"""The plugin as its host sees it: found, cheap to import, honest about its range."""

import subprocess
import sys

import pytest

import grpo_core
from grpo_core import Outcome, Sample
from grpo_reward_math import Math


def test_it_is_installed_and_found() -> None:
    host = grpo_core.load_plugins()
    entry = host.rewards["math"]
    assert entry.cls is Math
    reward = entry(answer_column="gold")
    assert reward.score(Sample("1+1", r"\boxed{2}", {"gold": 2})).value == 1.0


def test_the_gold_as_a_perfect_completion_scores_one() -> None:
    golds = [
        "24",
        0.2,
        r"\frac{1}{2}",
        "5 km",
        "#### 1,024",
        r"so $\boxed{x^2+1}$",
        "(1,2)",
        "[0,1)",
    ]
    for gold in golds:
        text = str(gold).replace("#### ", "")
        completion = text if "boxed" in text else rf"\boxed{{{text}}}"
        assert Math().score(Sample("Q", completion, {"answer": gold})).value == 1.0, gold


@pytest.mark.parametrize("extract", ["boxed", "tag", "hash", "phrase", "any"])
def test_perfect_completions_deserve_the_maximum(extract: str) -> None:
    reward = Math(extract=extract)
    for gold in ("24", 0.2, r"\frac{1}{2}", "5 km", "(1, 2)", "odd"):
        row = Sample("Q", "", {"answer": gold})
        completion = reward.perfect(row)
        assert completion is not None
        assert reward.score(Sample("Q", completion, row.columns)).value == 1.0, gold
    assert reward.perfect(Sample("Q", "", {"answer": "???"})) is None


def test_its_examples_are_true() -> None:
    for sample, value in Math.examples:
        assert Math().score(sample).value == value


def test_importing_and_judging_numbers_loads_neither_sympy_nor_mpmath() -> None:
    script = r"""
import sys
from grpo_core import Sample
from grpo_reward_math import Math
reward = Math(form="value")
assert reward.score(Sample("48/2", r"\boxed{24}", {"answer": 24.0})).value == 1.0
assert reward.score(Sample("1/3", r"\boxed{0.33333}", {"answer": "0.33333"})).value == 1.0
heavy = {"sympy", "mpmath", "math_verify", "numpy", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_says_what_a_host_must_know() -> None:
    assert Math.range == (0.0, 1.0)
    assert Math.on_timeout == 0.0
    assert Math.deterministic
    assert Math().requires == ("answer",)


def test_chat_completions_are_read_too() -> None:
    completion = [
        {"role": "assistant", "reasoning_content": r"\boxed{8}", "content": r"So \boxed{7}."}
    ]
    prompt = [{"role": "user", "content": "3 + 4?"}]
    score = Math().score(Sample(prompt, completion, {"answer": "7"}))
    assert score.value == 1.0
    assert score.outcome is Outcome.scored


def test_a_batch_gives_one_score_a_sample_in_order() -> None:
    samples = [Sample("Q", rf"\boxed{{{n}}}", {"answer": "2"}) for n in range(4)]
    assert [score.value for score in Math().score_batch(samples)] == [0.0, 0.0, 1.0, 0.0]
