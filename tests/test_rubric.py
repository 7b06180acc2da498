"""The rubric: what a table of scores is worth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Outcome, Reward, Rubric, Sample, Score
from grpo_core.errors import ConfigError
from grpo_core.rubric import ScoringError, Term


class Any(Reward):
    pass


class Strict(Reward):
    on_timeout = 0.0


def rubric(*terms, **kwargs):
    return Rubric(tuple(terms), **kwargs)


def table(rubric, *rows, columns=(), step=0):
    """`rows` hold one score or number a reward."""
    samples = [Sample("p", "c", dict(columns), index=n) for n in range(len(rows))]
    scores = {
        name: [row[r] if isinstance(row[r], Score) else Score(row[r]) for row in rows]
        for r, name in enumerate(rubric.names)
    }
    return rubric.table(samples, scores, step)


def failed(outcome):
    return Score(None, Outcome(outcome), "it broke")


class TestTotals:
    def test_weighted_sum(self):
        made = table(rubric(Term("a", Any(), 1.0), Term("b", Any(), -0.5)), (1.0, 1.0), (0.0, 1.0))
        assert made.totals == [0.5, -0.5]
        assert made.values == [[1.0, 1.0], [0.0, 1.0]]

    def test_an_abstention_drops_out_of_the_sum(self):
        made = table(rubric(Term("a", Any()), Term("b", Any())), (1.0, None))
        assert made.totals == [1.0]
        assert math.isnan(made.values[0][1])

    def test_no_score_at_all_is_no_total(self):
        assert table(rubric(Term("a", Any())), (None,)).totals == [None]

    @pytest.mark.parametrize("outcome", ["timeout", "error", "invalid"])
    def test_a_failed_verdict_excludes_the_sample_by_default(self, outcome):
        made = table(rubric(Term("a", Any()), Term("b", Any())), (failed(outcome), 1.0), (1.0, 1.0))
        assert made.totals == [None, 2.0]
        assert all(map(math.isnan, made.values[0]))

    def test_a_reward_declares_its_own_default_and_the_config_has_the_last_word(self):
        declared = rubric(Term("a", Strict()))
        assert table(declared, (failed("timeout"),)).totals == [0.0]
        configured = rubric(Term("a", Strict(), policies={Outcome.timeout: 0.25}))
        assert table(configured, (failed("timeout"),)).totals == [0.25]

    def test_abstain_as_a_policy(self):
        one = rubric(Term("a", Any(), policies={Outcome.error: "abstain"}), Term("b", Any()))
        assert table(one, (failed("error"), 1.0)).totals == [1.0]

    def test_raise_names_reward_sample_and_reason(self):
        strict = rubric(Term("a", Any(), policies={Outcome.error: "raise"}))
        with pytest.raises(ScoringError, match=r"'a' ended in error on sample 0/0: it broke"):
            table(strict, (failed("error"),))

    def test_clip(self):
        assert table(rubric(Term("a", Any(), clip=(0.0, 1.0))), (3.0,)).totals == [1.0]


class TestGates:
    def test_a_gate_opens_at_its_value(self):
        gated = rubric(Term("format", Any(), 0.1), Term("code", Any(), only_if={"format": 1.0}))
        made = table(gated, (1.0, 1.0), (0.5, 1.0), (None, 1.0))
        assert made.totals == [1.1, 0.05, None]

    def test_behind_a_shut_gate_a_failure_does_not_count(self):
        gated = rubric(Term("format", Any()), Term("code", Any(), only_if={"format": 1.0}))
        assert table(gated, (0.0, failed("timeout"))).totals == [0.0]

    def test_order_does_not_matter(self):
        gated = rubric(Term("code", Any(), only_if={"format": 1.0}), Term("format", Any()))
        assert table(gated, (1.0, 0.0)).totals == [0.0]


class TestRouting:
    def test_a_reward_applies_to_the_rows_it_names(self):
        routed = rubric(Term("math", Any(), when={"kind": "math"}))
        assert table(routed, (1.0,), columns={"kind": "math"}).totals == [1.0]
        assert table(routed, (1.0,), columns={"kind": "code"}).totals == [None]
        assert table(routed, (1.0,)).totals == [None]


class TestSchedule:
    def test_linear_between_points(self):
        term = Term("a", Any(), weight={0: 0.2, 500: 0.0})
        assert [term.weight_at(s) for s in (0, 250, 500, 900)] == pytest.approx([0.2, 0.1, 0, 0])

    @given(st.integers(-10, 1000), st.floats(-5, 5), st.floats(-5, 5))
    def test_never_leaves_its_points(self, step, first, last):
        weight = Term("a", Any(), weight={10: first, 90: last}).weight_at(step)
        slack = 1e-9
        assert min(first, last) - slack <= weight <= max(first, last) + slack


class TestConfig:
    """From a mapping; rewards come from a file beside it."""

    @pytest.fixture
    def base(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "def length(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
            "def exact(completions, answer):\n    return [1.0 for _ in completions]\n"
        )
        return tmp_path

    def make(self, base, *entries, **top):
        return Rubric.from_config({"rewards": list(entries), **top}, base_dir=base)

    def test_whole(self, base):
        made = self.make(
            base,
            {"use": "mine.py:length", "weight": 0.5, "on_error": "abstain", "deadline_s": 2},
            {"use": "mine.py:length", "name": "again", "only_if": {"length": 3}},
            combine="gdpo",
            tags={"think": "reason"},
        )
        assert made.names == ("length", "again")
        assert made.terms[0].deadline_s == 2.0
        assert (made.combine, made.tags.think) == ("gdpo", "reason")

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (
                {"use": "mine.py:lenght"},
                "rewards.0.use: .* has no 'lenght'; did you mean 'length'?",
            ),
            ({"use": "none.py:length"}, "rewards.0.use: there is no file .*none.py"),
            (
                {"use": "mine.py:length", "wieght": 1},
                "rewards.0.wieght: unknown key; did you mean 'weight'?",
            ),
            (
                {"use": "mine.py:length", "weight": "heavy"},
                "rewards.0.weight: expected a number or a schedule.*'heavy'",
            ),
            ({"use": "mine.py:length", "weight": True}, "rewards.0.weight: expected a number"),
            ({"use": "mine.py:length", "weight": math.nan}, "rewards.0.weight: expected a number"),
            ({"use": "mine.py:length", "on_error": "skip"}, "rewards.0.on_error: expected exclude"),
            (
                {"use": "mine.py:length", "options": {"limit": 1}},
                "rewards.0.options.limit: unknown key",
            ),
            (
                {"use": "mine.py:length", "only_if": {"format": 1}},
                "rewards.0.only_if: no reward here is called 'format'",
            ),
            (
                {"use": "mine.py:length", "only_if": {"length": 1}},
                "rewards.0.only_if: gates go round",
            ),
            ({"use": "mine.py:length", "deadline_s": 0}, "rewards.0.deadline_s: .*greater than 0"),
            ({}, "rewards.0.use: is required"),
        ],
    )
    def test_mistakes_name_key_and_remedy(self, base, entry, message):
        with pytest.raises(ConfigError, match=message):
            self.make(base, entry)

    def test_one_name_twice(self, base):
        with pytest.raises(ConfigError, match=r"rewards\.1\.name: a second reward called 'length'"):
            self.make(base, {"use": "mine.py:length"}, {"use": "mine.py:length"})

    def test_unknown_reward(self, base):
        with pytest.raises(
            ConfigError, match=r"rewards\.0\.use: no plugin registers a reward 'maht'"
        ):
            self.make(base, {"use": "maht"})

    def test_columns_are_checked_before_anything_runs(self, base):
        made = self.make(base, {"use": "mine.py:exact"})
        made.check_columns(["question", "answer"])
        with pytest.raises(ConfigError, match="needs the column 'answer'.*did you mean 'answers'?"):
            made.check_columns(["question", "answers"])
