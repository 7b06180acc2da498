"""Nothing a reward does may hang a batch, end it, or change another sample's score."""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from grpo_core import Outcome, Scorer, score

MANY = [f"completion {i}" for i in range(60)]


def outcomes(scores):
    return Counter(one.outcome for one in scores)


def children():
    """Live processes whose parent is this one, or that run a worker."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_samples_that_hang_time_out_and_all_others_get_their_score(unruly, samples):
    hanging = ["spin", "sleep", "hold-the-lock", "deaf", "swallow"]
    completions = [*MANY[:20], *hanging, *MANY[20:]]
    table = score(samples(*completions), unruly("Length"))
    for completion, one in zip(completions, table.scores["Length"], strict=True):
        if completion in hanging:
            assert (one.outcome, one.value) == (Outcome.timeout, None), completion
            assert one.reason == "no verdict within 0.3 s"
        else:
            assert one.value == len(completion)
    assert children() == []


KILLERS = {
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "exit 7": "exited with status 7",
    "sys.exit": "SystemExit: 0",
    "raise the roof": "ValueError: the roof (unruly.py:",
    "raise-unprintable": "Unprintable (unruly.py:",
    "interrupt": "KeyboardInterrupt",
    "cancel": "CancelledError",
}


def test_samples_that_kill_their_worker_or_raise_are_errors_and_no_others_are(unruly, samples):
    completions = [*MANY[:30], *KILLERS, *MANY[30:]]
    rubric = unruly("Length", Length={"deadline_s": 5})
    scores = score(samples(*completions), rubric).scores["Length"]
    for completion, one in zip(completions, scores, strict=True):
        if completion in KILLERS:
            assert one.outcome is Outcome.error
            assert KILLERS[completion] in one.reason
        else:
            assert one.value == len(completion)


@pytest.mark.slow
def test_memory_has_a_limit_and_who_exceeds_it_is_told(unruly, samples):
    rubric = unruly("Length", Length={"deadline_s": 30})
    with Scorer(rubric, workers=1, memory_mb=300) as scorer:
        scores = scorer.score(samples(*MANY, "eat", "after")).scores["Length"]
    assert outcomes(scores) == {Outcome.error: 1, Outcome.scored: 61}
    assert scores[60].reason == "out of memory (a worker may have 300 MB)"
    assert scores[61].value == len("after")


@pytest.mark.slow
def test_an_alarm_left_behind_is_not_charged_to_the_next_sample(unruly, samples):
    rubric = unruly("Length", Length={"deadline_s": 5})
    scores = score(samples("alarm", "sleep 1.2", "sleep 0"), rubric, workers=1).scores["Length"]
    assert [one.value for one in scores] == [5.0, 9.0, 7.0]


def test_a_worker_that_loses_its_socket_is_replaced(unruly, samples):
    scores = score(samples(*MANY, "close", "after"), unruly("Length")).scores["Length"]
    assert scores[60].outcome is Outcome.error
    assert scores[61].value == 5.0


def test_death_is_noticed_even_where_a_grandchild_holds_the_socket(unruly, samples):
    completions = ["fork and die", *MANY]
    scores = score(samples(*completions), unruly("forked", forked={"deadline_s": 20})).scores
    assert outcomes(scores["forked"]) == {Outcome.error: 1, Outcome.scored: 60}
    assert scores["forked"][0].reason == "its worker exited with status 1"


def test_what_a_killed_reward_had_started_is_killed_too(unruly, samples):
    before = set(sleepers())
    scores = score(samples("child"), unruly("Length")).scores["Length"]
    assert scores[0].outcome is Outcome.timeout
    waited = 0.0
    while set(sleepers()) - before and waited < 5:
        time.sleep(0.05)
        waited += 0.05
    assert set(sleepers()) - before == set()


def sleepers():
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command.read_bytes() == b"sleep\x001000\x00":
                yield command.parent.name
        except OSError:
            continue


def test_what_a_reward_prints_stays_out_of_the_protocol_and_of_stdout(unruly, samples, capfd):
    scores = score(samples("print", "print "), unruly("Length")).scores["Length"]
    assert [one.value for one in scores] == [5.0, 6.0]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "louder" in captured.err


def test_every_sample_hangs(unruly, samples):
    rubric = unruly("Length", Length={"deadline_s": 0.2})
    scores = score(samples(*(f"spin {i}" for i in range(6))), rubric).scores["Length"]
    assert outcomes(scores) == {Outcome.timeout: 6}


@pytest.mark.parametrize("where", ["thread", "event loop"])
def test_deadlines_hold_wherever_scoring_is_called_from(unruly, samples, where):
    chosen = samples(*MANY, "spin", "exit")
    found = []

    async def in_a_loop():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticker = asyncio.create_task(tick())
        with Scorer(unruly("Length")) as scorer:
            table = await scorer.score_async(chosen)
        ticker.cancel()
        assert ticks > 10  # the loop was never blocked
        return table

    if where == "thread":
        thread = threading.Thread(target=lambda: found.append(score(chosen, unruly("Length"))))
        thread.start()
        thread.join()
    else:
        found.append(asyncio.run(in_a_loop()))
    assert outcomes(found[0].scores["Length"]) == {
        Outcome.scored: 60,
        Outcome.timeout: 1,
        Outcome.error: 1,
    }


def test_scoring_blocks_but_works_inside_a_running_loop(unruly, samples):
    async def main():
        return score(samples("abc", "spin"), unruly("Length", "AsyncLength"))

    table = asyncio.run(main())
    assert table.scores["Length"][0].value == table.scores["AsyncLength"][0].value == 3.0


@pytest.mark.slow
def test_many_threads_share_one_scorer(unruly, samples):
    tables = {}
    with Scorer(unruly("Length", "lengths")) as scorer:

        def work(number):
            completions = [f"{'x' * number} {i}" for i in range(30)]
            tables[number] = completions, scorer.score(samples(*completions, "exit"))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for completions, table in tables.values():
        assert [one.value for one in table.scores["Length"][:30]] == [len(c) for c in completions]
        assert table.scores["Length"][30].outcome is Outcome.error


def test_an_async_reward_waits_for_many_samples_at_once(unruly, samples):
    chosen = samples(*(f"wait 0.2 {i}" for i in range(40)))
    started = time.monotonic()
    scores = score(chosen, unruly("AsyncLength")).scores["AsyncLength"]
    assert outcomes(scores) == {Outcome.scored: 40}
    assert (
        time.monotonic() - started < 40 * 0.2 / 2
    )  # what one at a time would take, in two workers


def test_async_rewards_cannot_hang_a_batch_either(unruly, samples):
    hanging = ["wait 1000", "stubborn", "spin", "hold-the-lock"]
    scores = score(samples(*MANY, *hanging), unruly("AsyncLength")).scores["AsyncLength"]
    assert [one.value for one in scores[:60]] == [len(completion) for completion in MANY]
    assert {one.outcome for one in scores[60:]} == {Outcome.timeout}


@pytest.mark.parametrize(
    ("name", "how"),
    [("fragile", "spin"), ("fragile", "exit"), ("fragile", "raise x"), ("BulkLength", "exit")],
)
def test_a_failing_chunk_is_judged_again_one_by_one(unruly, samples, name, how):
    completions = [*MANY[:5], how, *MANY[5:]]
    scores = score(samples(*completions), unruly(name)).scores[name]
    expected = Outcome.timeout if how == "spin" else Outcome.error
    assert scores[5].outcome is expected
    assert outcomes(scores) == {expected: 1, Outcome.scored: 60}


@pytest.mark.slow
def test_samples_that_are_slow_but_in_time_are_not_charged_for_their_chunk(unruly, samples):
    """A list function that needs 0.2 s a sample, a deadline of 0.5 s, six at once."""
    chosen = samples(*(f"sleep 0.2{i}" for i in range(6)))
    rubric = unruly("fragile", fragile={"deadline_s": 0.5})
    scores = score(chosen, rubric, workers=1).scores["fragile"]
    assert outcomes(scores) == {Outcome.scored: 6}


def test_a_group_is_judged_whole_and_charged_whole(unruly):
    from grpo_core import Sample

    chosen = [
        Sample("p", "spin" if (group, i) == (1, 2) else "x" * i, {}, group=group, index=i)
        for i in range(4)
        for group in range(3)  # groups need not stand together
    ]
    scores = score(chosen, unruly("Place")).scores["Place"]
    for sample, one in zip(chosen, scores, strict=True):
        if sample.group == 1:
            assert one.outcome is Outcome.timeout
        else:
            assert one.value == sample.index


@pytest.mark.slow
def test_workers_killed_at_random_from_outside_cost_next_to_nothing(unruly, samples):
    names = ("Length", "fragile", "AsyncLength")
    rubric = unruly(*names, **{name: {"deadline_s": 5} for name in names})
    over = threading.Event()

    def kill_now_and_then():
        dice = random.Random(0)
        while not over.wait(dice.uniform(0.2, 0.6)):
            if pids := children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(pids), signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    with Scorer(rubric, workers=2) as scorer:
        started, judged, lost = time.monotonic(), 0, 0
        while time.monotonic() - started < 10:
            chosen = samples(*(f"sleep 0.001{judged + i:06}" for i in range(300)))
            for column in scorer.score(chosen).scores.values():
                judged += len(column)
                lost += sum(one.value is None for one in column)
                assert {one.value for one in column} <= {None, 17.0}
    over.set()
    killer.join()
    assert lost <= judged / 1000
    assert children() == []
