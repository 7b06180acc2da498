"""What becomes of what a reward returns; who is judged, and who is not."""

import time
from functools import partial
from queue import SimpleQueue

import pytest

from grpo_core import Outcome, Reward, Rubric, Sample, Score, Scorer, Tags, load_plugins, score
from grpo_core.plugins import PluginError
from grpo_core.rubric import ScoringError, Term

ODD = {
    "fine": (Outcome.scored, ""),
    "nan": (Outcome.invalid, "returned nan"),
    "inf": (Outcome.invalid, "returned inf"),
    "text": (Outcome.invalid, "returned str, not a float, Score or None"),
    "beyond": (Outcome.invalid, "returned 1.5, outside its range 0 to 1"),
    "nothing": (Outcome.abstained, ""),
    "own timeout": (Outcome.timeout, "the compiler took too long"),
    "details": (Outcome.invalid, "its detail 'x' is a list, not a number"),
}


def test_a_verdict_is_never_invented(unruly, samples):
    scores = score(samples(*ODD), unruly("Odd")).scores["Odd"]
    assert {c: (s.outcome, s.reason) for c, s in zip(ODD, scores, strict=True)} == ODD


@pytest.mark.parametrize("count", [2, 40])
def test_one_number_for_a_whole_batch_is_invalid(unruly, samples, count):
    table = score(samples(*(str(i) for i in range(count))), unruly("broadcast"), workers=1)
    assert {one.outcome for one in table.scores["broadcast"]} == {Outcome.invalid}
    assert "returned 1 scores for" in table.scores["broadcast"][0].reason
    assert table.totals == [None] * count


def test_a_function_that_forgets_a_sample_is_charged_for_that_one(unruly, samples):
    scores = score(samples("a", "", "b"), unruly("forgetful"), workers=1).scores["forgetful"]
    assert [one.outcome for one in scores] == [Outcome.scored, Outcome.invalid, Outcome.scored]
    assert scores[1].reason == "returned 0 scores for 1 sample"


def test_sync_and_async_list_functions(unruly, samples):
    table = score(samples("a", "bb", "ccc"), unruly("lengths", "async_lengths"))
    assert table.totals == [2.0, 4.0, 6.0]


def test_a_missing_column_is_an_error_that_names_it(unruly, samples):
    chosen = [Sample("p", "7", {"answer": "7"}), Sample("p", "7", {"anwser": "7"})]
    table = score(chosen, unruly("Needs"))
    assert table.scores["Needs"][0].value == 1.0
    assert table.scores["Needs"][1] == Score(None, Outcome.error, "the row has no column 'answer'")
    assert table.totals == [1.0, None]


def test_rows_are_routed_and_the_others_abstain(unruly):
    rubric = unruly("Length", Length={"when": {"task": "long"}})
    table = score([Sample("p", "abc", {"task": "long"}), Sample("p", "abc", {})], rubric)
    assert table.scores["Length"][0].value == 3.0
    assert table.scores["Length"][1].outcome is Outcome.abstained
    assert table.scores["Length"][1].reason == "does not apply: only where task = 'long'"


def test_equal_samples_are_judged_once(unruly):
    same = [Sample("p", "c", {"answer": 1}, index=i) for i in range(50)]
    with Scorer(unruly("Pid"), workers=1) as scorer:
        for station in scorer._plant.stations:
            station.term.reward.deterministic = True
        scores = scorer.score(same).scores["Pid"]
        assert {one.details["calls"] for one in scores} == {1.0}
        scores = scorer.score([*same, Sample("p", "c", {"answer": True})]).scores["Pid"]
        assert scores[0].details != scores[50].details  # 1 == True, but they are not the same row


def test_a_reward_that_is_not_deterministic_is_asked_every_time(unruly):
    same = [Sample("p", "c") for _ in range(5)]
    scores = score(same, unruly("Pid"), workers=1).scores["Pid"]
    assert [one.details["calls"] for one in scores] == [1, 2, 3, 4, 5]


def test_tags_of_the_rubric_reach_the_rewards():
    class Answer(Reward):
        isolation = "inline"

        def score(self, sample):
            return float(sample.reasoning_text == "hm")

    rubric = Rubric((Term("answer", Answer()),), tags=Tags("scratch", "final"))
    assert score([Sample("p", "<scratch>hm</scratch>7")], rubric).totals == [1.0]


def test_policies_reach_the_table(unruly, samples):
    rubric = unruly("Length", Length={"on_error": "raise"})
    with Scorer(rubric) as scorer:
        with pytest.raises(ScoringError, match="'Length' ended in error on sample 0/1: ValueError"):
            scorer.score(samples("a", "raise"))
        with pytest.raises(ScoringError):
            scorer.submit(samples("raise")[0]).result()
        assert scorer.score(samples("a")).totals == [1.0]


# --- batches, futures ---------------------------------------------------------


def test_samples_are_judged_while_more_are_added(unruly, samples):
    chosen = samples("a", "bb", "ccc")
    with Scorer(unruly("Length", "InlineLength")) as scorer:
        batch = scorer.batch()
        batch.add(chosen[0])
        while batch.pending:
            time.sleep(0.01)
        assert not batch.done.done()
        batch.add(chosen[1:])
        assert batch.result().totals == [2.0, 4.0, 6.0]
        with pytest.raises(RuntimeError, match="finished"):
            batch.add(chosen)


def test_groups_are_judged_when_they_are_closed(unruly):
    with Scorer(unruly("Place")) as scorer:
        batch = scorer.batch()
        for i in range(4):
            batch.add([Sample("p", "x" * i, group=group, index=i) for group in "ab"])
        batch.close_group("a")
        while batch.pending:
            time.sleep(0.01)
        assert [one.value for one in batch.result().scores["Place"]] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_future_is_the_table_of_one_sample(unruly, samples):
    with Scorer(unruly("Length")) as scorer:
        futures = [scorer.submit(sample) for sample in samples("a", "bb", "spin")]
        tables = [future.result() for future in futures]
    assert [table.totals for table in tables] == [[1.0], [2.0], [None]]
    assert tables[2].scores["Length"][0].outcome is Outcome.timeout


def test_a_future_may_be_cancelled_and_a_callback_may_score(unruly, samples):
    with Scorer(unruly("Length"), workers=1) as scorer:
        slow = scorer.submit(samples("sleep 0.2")[0])
        assert slow.cancel()
        seen = SimpleQueue()
        future = scorer.submit(samples("abc")[0])
        future.add_done_callback(lambda _: seen.put(scorer.score(samples("abcd")).totals))
        assert future.result().totals == [3.0]
        assert seen.get(timeout=10) == [4.0]


def test_a_group_reward_needs_more_than_one_sample(unruly, samples):
    with Scorer(unruly("Place")) as scorer:
        with pytest.raises(ValueError, match="'Place' judges whole groups"):
            scorer.submit(samples("a")[0])
        assert scorer.submit(samples("a", "b", "cc", "ddd")).result().totals == [0, 0, 2, 3]


def test_an_empty_batch(unruly):
    assert score([], unruly("Length", "lengths", "Place", "InlineLength")).totals == []


def test_closing_ends_what_is_under_way(unruly, samples):
    scorer = Scorer(unruly("Length", Length={"deadline_s": 60}))
    future = scorer.submit(samples("spin")[0])
    while not scorer.running():
        time.sleep(0.01)
    scorer.close()
    assert future.result().scores["Length"][0].reason == "the scorer was closed"
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score(samples("a"))
    scorer.close()  # twice is fine


# --- watching -----------------------------------------------------------------


def test_the_slowest_are_named(unruly, samples):
    with Scorer(unruly("Length", "lengths")) as scorer:
        scorer.score(samples("a", "sleep 0.21", "b"))
        timings = scorer.last_timings
    slowest = timings.slowest[0]
    assert (slowest.reward, slowest.sample.completion) == ("Length", "sleep 0.21")
    assert slowest.seconds >= 0.2
    assert str(slowest).startswith("Length on sample 0/1: 0.2")
    assert timings.total_s["Length"] >= 0.2 > timings.total_s["lengths"]


def test_what_is_being_waited_for_can_be_asked(unruly, samples):
    with Scorer(unruly("Length", Length={"deadline_s": 30})) as scorer:
        batch = scorer.batch()
        batch.add(samples("a", "sleep 0.5", "b"))
        while not (running := [r for r in scorer.running() if r.seconds > 0.2]):
            time.sleep(0.01)
        assert (running[0].reward, running[0].sample.completion) == ("Length", "sleep 0.5")
        batch.result()
        assert scorer.running() == []


# --- workers ------------------------------------------------------------------


def test_workers_load_no_training_stack_and_nobodys_main(unruly, samples):
    (one,) = score(samples("a"), unruly("Modules")).scores["Modules"]
    assert one.value == 1.0, one.reason


def test_workers_use_one_thread_each(unruly, samples):
    assert score(samples("a"), unruly("Threads")).totals == [1.0]


@pytest.mark.parametrize("name", ["SlowImport", "WarmsUp"])
def test_imports_and_warming_up_are_not_held_against_the_first_sample(unruly, samples, name):
    assert score(samples("a", "b", "c"), unruly(name)).totals == [1.0] * 3


def test_a_worker_lives_on_from_batch_to_batch(unruly, samples):
    with Scorer(unruly("Pid"), workers=1, spares=0) as scorer:
        first = scorer.score(samples("a")).totals
        assert scorer.score(samples("b")).totals == first


@pytest.mark.parametrize(
    ("how", "why"),
    [("raise no licence", "ValueError: no licence"), ("exit 5", "exited with status 5")],
)
def test_a_reward_that_workers_cannot_make_is_an_error_and_others_go_on(
    unruly, samples, monkeypatch, how, why
):
    rubric = unruly("Unbuildable", "Length")
    monkeypatch.setenv("UNRULY_BUILD", how)
    table = score(samples("a", "b"), rubric)
    assert [one.value for one in table.scores["Length"]] == [1.0, 1.0]
    for one in table.scores["Unbuildable"]:
        assert one.outcome is Outcome.error
        assert one.reason.startswith("a worker cannot make this reward: ") and why in one.reason


@pytest.mark.parametrize("how", ["raise no licence", "exit 5"])
def test_a_reward_that_workers_could_not_make_is_tried_again_later(
    unruly, samples, monkeypatch, how
):
    rubric = unruly("Unbuildable", "Length")
    monkeypatch.setenv("UNRULY_BUILD", how)
    with Scorer(rubric, workers=1) as scorer:
        assert scorer.score(samples("a")).scores["Unbuildable"][0].outcome is Outcome.error
        monkeypatch.setenv("UNRULY_BUILD", "all is well")
        assert scorer.score(samples("b")).scores["Unbuildable"][0].outcome is Outcome.error
        monkeypatch.setattr("grpo_core.scoring.pool.MEND_S", 0.0)
        values, tries = [], 0
        while values != [[1.0, 1.0]] and tries < 50:  # until no worker of before is left
            values = scorer.score(samples("c")).values
            tries += 1
            time.sleep(0.1)
    assert values == [[1.0, 1.0]]


@pytest.mark.parametrize("workers", [1, 2])  # one alone gets all three rows at a time
def test_a_row_that_cannot_travel_is_an_error_of_its_own(unruly, samples, workers):
    chosen = [Sample("p", "abc", {"f": f}) for f in (1, lambda: None, partial(print))]
    scores = score(chosen, unruly("Length"), workers).scores["Length"]
    assert [one.outcome for one in scores] == [Outcome.scored, Outcome.error, Outcome.scored]
    assert "its row cannot be sent to a worker" in scores[1].reason


class Here(Reward):
    """At the top level of a test module, which workers import from its file."""

    def score(self, sample):
        return 1.0


def test_a_class_needs_no_plugin_to_be_used(samples):
    bonus = 2.0

    class Local(Reward):
        class Options(Reward.Options):
            more: float = 0.0

        def score(self, sample):
            return bonus + self.options.more

    pytest.importorskip("cloudpickle")
    rubric = Rubric((Term("here", Here()), Term("local", Local(more=0.5))))
    table = score(samples("a"), rubric)
    assert table.values == [[1.0, 2.5]], table.scores


def test_a_class_that_cannot_travel_says_what_to_do(samples):
    lock = __import__("threading").Lock()

    class Locked(Reward):
        def score(self, sample):
            with lock:
                return 1.0

    with pytest.raises(PluginError, match=r"reward 'locked'.*top level of a module.*inline"):
        Scorer(Rubric((Term("locked", Locked()),)))


def test_the_host_reward_by_file_name_is_what_the_tests_use(unruly):
    source = unruly("Length").terms[0].reward.source
    assert source.module.endswith("unruly.py")
    assert load_plugins().reward(f"{source.module}:Length").cls.__name__ == "Length"


# --- inline -------------------------------------------------------------------


class Inline(Reward):
    isolation = "inline"

    def score(self, sample):
        if sample.completion_text == "raise":
            raise ValueError("no")
        return float(len(sample.completion_text))


class InlineAsync(Inline):
    async def score(self, sample):
        return super().score(sample)


class InlineBulk(Inline):
    def score_batch(self, samples):
        return [super(InlineBulk, self).score(sample) for sample in samples]


@pytest.mark.parametrize("cls", [Inline, InlineAsync, InlineBulk])
def test_inline_rewards_start_no_process_and_are_charged_alike(samples, cls):
    with Scorer(Rubric((Term("inline", cls()),))) as scorer:
        table = scorer.score(samples("a", "raise", "bb"))
        assert scorer._plant.pool._thread is None
    assert table.values[0] == [1.0] and table.values[2] == [2.0]
    assert table.scores["inline"][1].reason.startswith("ValueError: no (test_verdicts.py:")


async def test_inline_coroutines_work_inside_a_running_loop(samples):
    scorer = Scorer(Rubric((Term("inline", InlineAsync()),)))
    assert scorer.score(samples("abc")).totals == [3.0]
    assert (await scorer.score_async(samples("abc"))).totals == [3.0]


def test_a_keyboard_interrupt_in_an_inline_reward_is_the_users(samples):
    class Interrupted(Reward):
        isolation = "inline"

        def score(self, sample):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(samples("a"), Rubric((Term("interrupted", Interrupted()),)))


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_a_batch_that_waits_says_for_what(unruly, samples, caplog, isolation):
    name = "Length" if isolation == "process" else "InlineLength"
    with Scorer(unruly(name, **{name: {"deadline_s": 10}})) as scorer:
        scorer._plant.watch._patience_s = 0.3
        scorer.score(samples("a", "sleep 1.2", "bb"))
    assert f"waiting for {name} on sample 0/1 (" in caplog.text
    assert "verdicts to come" in caplog.text
