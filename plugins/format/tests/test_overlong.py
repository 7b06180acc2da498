"""`overlong`: equation 13 of DAPO (arXiv 2503.14476), by hand and by what it must obey."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_core import Outcome, Sample, load_plugins
from grpo_core.testing import RewardContract
from grpo_reward_format import Overlong


def judge(tokens, most, buffer):
    ids = None if tokens is None else [7] * tokens
    sample = Sample("p", "c", completion_ids=ids)
    return Overlong(max_tokens=most, buffer_tokens=buffer).score(sample)


def test_is_installed_and_found():
    assert load_plugins().rewards["overlong"].cls is Overlong


@pytest.mark.parametrize(
    ("tokens", "value"),
    [(0, 0.0), (60, 0.0), (61, -0.025), (70, -0.25), (99, -0.975), (100, -1.0), (5000, -1.0)],
)
def test_by_hand(tokens, value):
    assert judge(tokens, 100, 40).value == pytest.approx(value)


def test_the_numbers_of_the_paper():
    """A limit of 20,480 tokens, of which the last 4,096 are the buffer."""
    assert [judge(n, 20480, 4096).value for n in (16384, 18432, 20480)] == [0.0, -0.5, -1.0]


def test_the_reason_says_the_numbers():
    assert judge(60, 100, 40).reason == "60 tokens, 60 are free"
    assert judge(70, 100, 40).reason == "70 tokens, 10 into the buffer from 60 to 100"
    assert judge(130, 100, 40).reason == "130 tokens, the most is 100"


def test_it_abstains_without_token_ids():
    score = judge(None, 100, 40)
    assert (score.outcome, score.value) == (Outcome.abstained, None)
    assert "completion_ids" in score.reason


def test_a_completion_of_no_tokens_has_a_length():
    assert judge(0, 4, 4).value == 0.0
    assert judge(1, 4, 4).value == -0.25


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 10},
        {"buffer_tokens": 10},
        {"max_tokens": 10, "buffer_tokens": 11},
        {"max_tokens": 10, "buffer_tokens": 0},
        {"max_tokens": 0, "buffer_tokens": 0},
        {"max_tokens": 10, "buffer_tokens": 5, "limit": 3},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        Overlong(**options)


@given(st.integers(1, 300), st.data())
def test_a_longer_completion_never_earns_more(most, data):
    buffer = data.draw(st.integers(1, most))
    values = [judge(n, most, buffer).value for n in range(most + 3)]
    assert values == sorted(values, reverse=True)
    assert values[most - buffer] == 0.0 and values[most] == values[-1] == -1.0
    # every token of the buffer costs the same
    inside = values[most - buffer : most + 1]
    costs = [before - after for before, after in pairwise(inside)]
    assert costs == pytest.approx([1 / buffer] * buffer)


class TestContract(RewardContract):
    reward = "overlong"
    options = {"max_tokens": 8, "buffer_tokens": 4}  # noqa: RUF012
    examples = (
        (Sample("p", "short", completion_ids=[1, 2]), 0.0),
        (Sample("p", "in the buffer", completion_ids=list(range(7))), -0.75),
        (Sample("p", "cut off", completion_ids=list(range(8)), truncated=True), -1.0),
        (Sample("p", "nobody counted"), None),
    )
