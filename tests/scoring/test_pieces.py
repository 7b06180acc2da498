"""The pure pieces: framing, batching rows, and verdicts of whatever a reward returns."""

import itertools
import json
import math
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Outcome, Reward, Sample, Score
from grpo_core.scoring import judge
from grpo_core.scoring.stream import in_batches, parse_rows
from grpo_core.scoring.wire import (
    RESTING,
    Heartbeat,
    frame,
    pack_sample,
    pack_score,
    unframe,
    unpack_score,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_frames_survive_being_cut_anywhere(messages, size):
    data = b"".join(map(frame, messages))
    buffer, heard = bytearray(), []
    for at in range(0, len(data), size):
        buffer += data[at : at + size]
        heard += unframe(buffer)
    assert heard == messages
    assert not buffer


def test_a_heartbeat_is_shared_and_a_pause_does_not_count():
    with tempfile.TemporaryFile() as file:
        file.truncate(Heartbeat.SIZE)
        ours, theirs = Heartbeat(file.fileno()), Heartbeat(file.fileno())
    theirs.begin(7, RESTING, 50.0)
    theirs.start(3, 100.0)
    assert ours.read() == (7, 3, 100.0)
    theirs.pause(101.0)
    assert ours.read()[2] > 100.0  # moves with the clock
    theirs.go_on(5.0)
    assert ours.read() == (7, 3, 105.0)
    ours.limit = 4
    assert theirs.limit == 4


@given(anything)
def test_whatever_a_reward_returns_becomes_one_honest_score(raw):
    class Returns(Reward):
        range = (0.0, 1.0)

        def score(self, sample):
            return raw

        def score_batch(self, samples):
            return raw

    one = judge.judge_one(Returns(), Sample("p", "c"), lambda awaitable: None)
    assert (one.outcome is Outcome.scored) == (one.value is not None)
    if one.value is not None:
        assert 0.0 <= one.value <= 1.0 and float(raw) == one.value
    for count in (1, 2, 3):
        scores = judge.judge_bulk(Returns(), [Sample("p", "c")] * count, lambda awaitable: None)
        assert len(scores) == count
        if not (isinstance(raw, list) and len(raw) == count):
            # A list of one is right for one sample alone, and still wrong for several.
            assert {score.outcome for score in scores} == {Outcome.invalid}


@given(
    st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    st.text(),
    st.dictionaries(st.text(), st.floats(allow_nan=False)),
)
def test_scores_travel_unchanged(value, reason, details):
    score = Score(value, None if value is not None else Outcome.error, reason, details)
    assert unpack_score(pack_score(score)) == score


def test_samples_travel_without_what_they_worked_out():
    sample = Sample("p<think>", "a</think>b", {"c": 1}, "g", 3, True, "id", [1], {"t": 2})
    assert sample.answer_text == "b"
    again = Sample(*pack_sample(sample))
    assert again == sample
    assert "_parts" not in vars(again)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())), st.integers(1, 6), st.booleans())
def test_batches_keep_every_row_and_groups_whole(kinds, size, whole_groups):
    lines = [
        json.dumps({"prompt": "p", "completion": "c", "group": group}).encode() if good else b"?"
        for group, good in kinds
    ]
    rows = list(parse_rows(lines))
    batches = list(in_batches(iter(rows), whole_groups, size))
    assert [row for batch in batches for row in batch] == rows
    assert all(batches)
    if not whole_groups:
        assert all(len(batch) == size for batch in batches[:-1])
        return
    placed = [[row.sample.group for row in batch if row.sample] for batch in batches]
    for before, after in itertools.pairwise(placed):
        assert not before or not after or before[-1] != after[0]


def test_rows_know_their_place_in_their_group():
    groups = ["a", "a", "b", "b", "b", None, None]
    lines = [json.dumps({"prompt": "p", "completion": "c", "group": g}).encode() for g in groups]
    rows = list(parse_rows(lines))
    assert [row.sample.index for row in rows[:5]] == [0, 1, 0, 1, 2]
    assert rows[0].sample.columns == {}


def test_id_is_a_column_only_for_rewards_that_require_it():
    line = json.dumps({"prompt": "p", "completion": "c", "id": 5, "answer": 7, "group": 1}).encode()
    (row,) = parse_rows([line])
    assert row.sample.columns == {"answer": 7} and row.id == 5
    (row,) = parse_rows([line], columns={"id", "answer"})
    assert row.sample.columns == {"answer": 7, "id": 5}


def test_a_score_of_nan_in_disguise_is_found():
    class Disguised(Reward):
        def score(self, sample):
            return Score(math.nan)

    one = judge.judge_one(Disguised(), Sample("p", "c"), lambda awaitable: None)
    assert (one.outcome, one.reason) == (Outcome.invalid, "returned nan")
