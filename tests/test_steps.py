"""Process supervision: scores of steps, from the reward to table, files and tokens."""

import json
import math
import random

import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Outcome, Reward, Rubric, Sample, Score, Scorer
from grpo_core.metrics import RunFolder, sample_rows
from grpo_core.offsets import token_offsets
from grpo_core.rewards import as_score
from grpo_core.rubric import Term
from grpo_core.scoring.stream import Judged, Row, Summary
from grpo_core.scoring.wire import pack_score, unpack_score
from grpo_core.testing.lab import same, shown


class Lines(Reward):
    """A step a line, worth whether it holds an `x`."""

    range = (0.0, 1.0)
    isolation = "inline"

    def score(self, sample):
        steps, end = [], 0
        for line in sample.completion_text.splitlines(keepends=True):
            end += len(line)
            steps.append((end, float("x" in line)))
        return Score(0.5, reason="lines", steps=steps)


class LinesElsewhere(Lines):
    isolation = "process"


class LinesLater(Lines):
    isolation = "async"

    async def score(self, sample):
        return Lines.score(self, sample)


class LinesInBulk(LinesElsewhere):
    def score_batch(self, samples):
        return [self.score(sample) for sample in samples]


class Wrong(LinesElsewhere):
    """Ends a step behind the end of the text `abc`, and of no other."""

    def score(self, sample):
        return Score(1.0, steps=[(4, 1.0)])


class Length(Reward):
    isolation = "inline"

    def score(self, sample):
        return float(len(sample.completion_text))


TEXT = Sample("p", "abc")


class TestScore:
    def test_steps_become_plain_numbers(self):
        score = as_score(Score(1, steps=iter([[1, True], (3, 0)])), (0.0, 1.0), TEXT)
        assert score.steps == ((1, 1.0), (3, 0.0))
        assert [type(x) for pair in score.steps for x in pair] == [int, float, int, float]

    def test_steps_need_a_value(self):
        with pytest.raises(ValueError, match="steps go with a value"):
            Score(None, steps=[(1, 1.0)])

    def test_no_step_is_not_no_process_supervision(self):
        assert as_score(Score(1.0, steps=[])).steps == ()
        assert as_score(Score(1.0)).steps is None

    @pytest.mark.parametrize(
        ("steps", "reason"),
        [
            ([(0, 1.0)], "ends at character 0"),
            ([(-1, 1.0)], "ends at character -1"),
            ([(4, 1.0)], "ends at character 4 of a text of 3"),
            ([(2, 1.0), (2, 1.0)], "ends at character 2, after one that ends at 2"),
            ([(2, 1.0), (1, 1.0)], "ends at character 1, after one that ends at 2"),
            ([(1, 2.0)], "value 2, outside its range 0 to 1"),
            ([(1, math.nan)], "value nan"),
            ([(1, math.inf)], "value inf"),
            ([(1, "1")], "value is a str"),
            ([(1, None)], "value is a NoneType"),
            ([(1.0, 1.0)], "offset is a float"),
            ([(True, 1.0), (1, 1.0)], "after one that ends at 1"),
            ([(1, 1.0, 1.0)], "a step that is a tuple"),
            ([3], "a step that is a int"),
            (["ab"], "a step that is a str"),
            ("ab", "a step that is a str"),
            ({1: 1.0}, "a step that is a int"),
        ],
    )
    def test_steps_that_make_no_sense_are_invalid(self, steps, reason):
        score = as_score(Score(1.0, steps=steps), (0.0, 1.0), TEXT)
        assert (score.value, score.outcome, score.steps) == (None, Outcome.invalid, None)
        assert reason in score.reason

    def test_they_travel(self):
        for score in (
            Score(1.0, steps=((1, 0.5), (9, 1.0))),
            Score(1.0, steps=()),
            Score(1.0, reason="r", details={"a": 1.0}, steps=((1, 0.5),)),
            Score(1.0),
            Score(None, Outcome.error, "r"),
        ):
            assert unpack_score(pack_score(score)) == score

    def test_the_kit_compares_them(self):
        one, other = Score(1.0, steps=((3, 0.5),)), Score(1.0, steps=((3, 0.25),))
        assert same(one, Score(1.0, steps=((3, 0.5 + 1e-9),)))
        assert not same(one, other)
        assert not same(one, Score(1.0))
        assert not same(one, Score(1.0, steps=((4, 0.5),)))
        assert shown(one) == "1 [3: 0.5]" and shown(other) == "1 [3: 0.25]"


def rubric(*terms):
    return Rubric(terms)


@pytest.mark.parametrize("reward", [Lines, LinesElsewhere, LinesInBulk, LinesLater])
def test_steps_arrive_from_wherever_the_reward_runs(reward):
    texts = ["ax\nb", "", "é日x\n\n", "ax\nb"]  # the last is judged with the first
    samples = [Sample("p", text, index=n) for n, text in enumerate(texts)]
    with Scorer(rubric(Term("lines", reward())), workers=1) as scorer:
        table = scorer.score(samples)
    first = ((3, 1.0), (4, 0.0))
    assert table.steps == {"lines": [first, (), ((4, 1.0), (5, 0.0)), first]}
    assert table.totals == [0.5] * 4


def test_a_step_behind_the_end_costs_only_its_sample():
    samples = [Sample("p", "abc"), Sample("p", "abcd", index=1)]
    with Scorer(rubric(Term("wrong", Wrong())), workers=1) as scorer:
        table = scorer.score(samples)
    assert [s.outcome for s in table.scores["wrong"]] == [Outcome.invalid, Outcome.scored]
    assert table.steps == {"wrong": [None, ((4, 1.0),)]}
    assert table.totals == [None, 1.0]


class TestTable:
    def make(self, lines, others=None, **lines_is):
        terms = [Term("other", Length(), 2.0), Term("lines", Lines(), 0.5, **lines_is)]
        samples = [Sample("p", "c", {"kind": n}, index=n) for n in range(len(lines))]
        others = [Score(1.0)] * len(lines) if others is None else others
        return rubric(*terms).table(samples, {"other": others, "lines": lines})

    def test_totals_weigh_the_value_and_learning_has_it_once(self):
        table = self.make([Score(1.0, steps=((1, 0.25),)), Score(1.0)])
        assert table.totals == [2.5, 2.5]
        assert table.values == [[1.0, 1.0], [1.0, 1.0]]
        assert table.steps == {"other": [None, None], "lines": [((1, 0.25),), None]}
        first, second = table.outcome_values
        assert first[0] == 1.0 and math.isnan(first[1])
        assert second == [1.0, 1.0]

    def test_a_sample_without_a_step_has_no_outcome_either(self):
        table = self.make([Score(0.0, steps=())])
        assert table.steps["lines"] == [()]
        assert math.isnan(table.outcome_values[0][1])

    def test_an_excluded_sample_has_no_steps(self):
        others = [Score(None, Outcome.error, "it broke"), Score(1.0)]
        table = self.make([Score(1.0, steps=((1, 1.0),))] * 2, others)
        assert table.steps["lines"] == [None, ((1, 1.0),)]

    def test_behind_a_shut_gate_and_off_the_route_there_are_no_steps(self):
        lines = [Score(1.0, steps=((1, 1.0),))] * 2
        assert self.make(lines, [Score(0.0), Score(1.0)], only_if={"other": 1.0}).steps[
            "lines"
        ] == [None, ((1, 1.0),)]
        assert self.make(lines, when={"kind": 1}).steps["lines"] == [None, ((1, 1.0),)]

    def test_clip_holds_for_steps(self):
        table = self.make([Score(1.0, steps=((1, 0.0), (2, 1.0)))], clip=(0.25, 0.75))
        assert table.steps["lines"] == [((1, 0.25), (2, 0.75))]
        assert table.totals == [2.375]


class TestFiles:
    def test_samples_have_a_column_of_steps_where_there_are_any(self, tmp_path):
        samples = [Sample("p", text, index=n) for n, text in enumerate(["ax\nb", ""])]
        table = rubric(Term("lines", Lines()), Term("length", Length())).table(
            samples,
            {"lines": [Lines().score(s) for s in samples], "length": [Score(4.0), Score(None)]},
        )
        seconds = {"lines": [0.0, 0.0], "length": [0.0, 0.0]}
        folder = RunFolder(tmp_path / "run")
        folder.start()
        folder.add_samples("step", sample_rows(samples, table, seconds, ["p", "p"], {}))
        rows = parquet.read_table(folder.samples_path / "step.parquet").to_pylist()
        assert rows[0]["lines/steps"] == [{"offset": 3, "value": 1.0}, {"offset": 4, "value": 0.0}]
        assert rows[1]["lines/steps"] == []
        assert "length/steps" not in rows[0]

    def test_rows_of_grpo_score_have_them_where_there_are_any(self):
        samples = [Sample("p", "ax\nb")]
        with Scorer(rubric(Term("lines", Lines()), Term("length", Length())), workers=1) as scorer:
            batch = scorer.batch()
            batch.add(samples)
            batch.finish()
            rows = [Row(1, samples[0])]
            (line,) = Judged(rows, rows, batch).lines(Summary())
        scores = json.loads(line)["scores"]
        assert scores["lines"]["steps"] == [[3, 1.0], [4, 0.0]]
        assert set(scores["length"]) == {"value", "outcome", "reason"}


class Bytes:
    """A tokenizer whose tokens are pieces of UTF-8, cut anywhere; counts its decodings."""

    def __init__(self, text, cuts):
        data = text.encode()
        ends = sorted({cut for cut in cuts if 0 < cut < len(data)} | {len(data)} - {0})
        self.pieces = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        self.ids = list(range(len(self.pieces)))
        self.decodings = 0

    def decode(self, ids):
        self.decodings += 1
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


class TestTokenOffsets:
    def test_by_hand(self):
        words = ["1 + 1", " = 2", "\n", "so ", "2", ""]  # the last is a special token
        decode = lambda ids: "".join(words[i] for i in ids)  # noqa: E731
        ids = range(len(words))
        assert token_offsets(ids, decode, [0, 1, 5, 6, 9, 10, 14]) == [0, 1, 1, 2, 2, 3, 5]
        assert token_offsets(ids, decode, []) == []
        assert token_offsets([], decode, [0]) == [0]

    def test_a_character_of_several_tokens_is_there_with_its_last(self):
        tokens = Bytes("a日b", [1, 2, 3, 4])
        assert tokens.decode(tokens.ids[:2]) == "a�"  # as long as "a日", but not it
        assert token_offsets(tokens.ids, tokens.decode, [1, 2, 3]) == [1, 4, 5]

    @pytest.mark.parametrize("offsets", [[4], [-1], [2, 1]])
    def test_offsets_that_are_nowhere(self, offsets):
        with pytest.raises(ValueError, match="offset"):
            token_offsets([0], lambda ids: "abc" if ids else "", offsets)

    @given(st.text(max_size=40), st.lists(st.integers(1, 150)), st.data())
    def test_it_is_what_reading_token_by_token_finds(self, text, cuts, data):
        text = text.encode(errors="replace").decode()
        tokens = Bytes(text, cuts)
        offsets = sorted(data.draw(st.lists(st.integers(0, len(text)))))
        for offset, count in zip(
            offsets, token_offsets(tokens.ids, tokens.decode, offsets), strict=True
        ):

            def written(k, offset=offset):
                return tokens.decode(tokens.ids[:k])[:offset] == text[:offset]

            assert count == next(k for k in range(len(tokens.ids) + 1) if written(k))

    def test_it_decodes_seldom(self):
        rng = random.Random(0)
        text = "".join(rng.choice("abc 日é") for _ in range(20_000))
        for cuts in (
            rng.sample(range(30_000), 4000),  # even
            range(4000),  # all at the start: the worst for a guess in proportion
        ):
            tokens = Bytes(text, cuts)
            offsets = sorted(rng.sample(range(1, 20_001), 10))
            token_offsets(tokens.ids, tokens.decode, offsets)
            assert tokens.decodings <= 10 * 2 * 12 + 1
