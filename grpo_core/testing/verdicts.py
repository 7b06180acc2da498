"""The checks of what a reward says: the right number of scores, for the right samples, every
time the same, and none where there is no truth to compare with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.testing.bench import Judged
from grpo_core.testing.check import Skip, check
from grpo_core.testing.lab import Lab, excerpt, same, shown
from grpo_core.testing.samples import with_completion

EMPTY: tuple[Any, ...] = (None, "", " \n", math.nan, [])
"""What stands in a column that has no ground truth, depending on who wrote the file."""

# --- that it can be had ---------------------------------------------------------------


@check(
    did="rebuilt it from source, name and options in a process of its own, and gave it an unknown option",
    why="workers are killed and replaced all the time; a reward that comes back different judges one "
    "group by two standards, and an option with a typing error that is accepted silently is not the "
    "experiment you meant",
)
def rebuildable(lab: Lab) -> Iterator[str]:
    if lab.recipe.source is None:
        yield "no module or file holds the class, so only its code can be sent to workers; " + (
            "put it at the top level of a module"
        )
    reward = lab.reward
    for what, here, there in (
        ("options", repr(reward.options), lab.base.facts["options"]),
        ("requires", tuple(reward.requires), lab.base.facts["requires"]),
        ("range", tuple(reward.range), lab.base.facts["range"]),
    ):
        if here != there:
            yield f"{what} here are {here}, rebuilt {there}"
    try:
        type(reward)(**{**lab.recipe.options, "no_such_option": 1})
    except Exception:
        return
    yield "no_such_option=1 was accepted: subclass Reward.Options, which refuses extra keys"


@check(
    did="imported it in a fresh process and looked at what came along",
    why="every command of the host imports every plugin, if only to list it; heavy libraries belong "
    "into the first score",
)
def light(lab: Lab) -> Iterator[str]:
    if lab.base.facts["heavy"]:
        yield f"importing it loads {', '.join(lab.base.facts['heavy'])}"
    if lab.base.facts["seconds"] > 2.0:
        yield f"importing and making it took {lab.base.facts['seconds']:.1f} s"


# --- that it judges -------------------------------------------------------------------


@check(
    did="judged ordinary samples, and those with a stated value",
    why="a verdict that is wrong teaches the wrong thing; one that ends in error or timeout takes "
    "the sample out of training",
)
def examples(lab: Lab) -> Iterator[str]:
    scores = _scores(lab.alone)
    by_sample = dict(zip(map(id, (s for unit in lab.units for s in unit)), scores, strict=True))
    for example in lab.examples:
        score = by_sample[id(example.sample)]
        if score.outcome in (Outcome.error, Outcome.timeout):
            yield f"{excerpt(example.sample)}: {shown(score)}"
        elif example.known and not same(score, Score(example.value)):
            wanted = "abstained" if example.value is None else f"{example.value:g}"
            yield f"{excerpt(example.sample)}: {shown(score)}, stated is {wanted}"


@check(
    did="judged 2, 3 and all samples in one call and counted the scores",
    why="a list that is one short shifts or repeats scores, and every completion after it is paid "
    "for another's work",
)
def count(lab: Lab) -> Iterator[str]:
    if not lab.takes_lists:
        raise Skip("it judges one sample a call")
    calls = lab.units if lab.grouped else [lab.samples[:2], lab.samples[:3], lab.samples]
    for judged in lab.run_fresh(calls):
        invalid = [score for score in judged.scores if score.outcome is Outcome.invalid]
        if invalid and "samples" in invalid[0].reason:
            yield f"{len(judged.samples)} samples: it {invalid[0].reason}"


@check(
    did="judged the same samples in another order and looked whether each score went along",
    why="a score that lands on another completion of the group pays the wrong one",
)
def order(lab: Lab) -> Iterator[str]:
    for expected, judged in _together(lab):
        if _moved(expected, judged.scores):
            yield f"{_list(judged.scores)} for samples that get {_list(expected)}"


@check(
    did="judged each sample alone, in a batch with others, in another order, and under another "
    "group and index",
    why="batches are cut by load, so a score that depends on its neighbours or its place is noise "
    "that no completion caused, and it cannot be reproduced",
)
def independent(lab: Lab) -> Iterator[str]:
    for expected, judged in _together(lab):
        if _moved(expected, judged.scores):
            continue  # that is for `order` to tell
        for sample, want, got in zip(judged.samples, expected, judged.scores, strict=True):
            if not same(want, got):
                yield (
                    f"{excerpt(sample)}: {shown(want)} by itself, {shown(got)} among "
                    f"{len(judged.samples)}"
                )
    places = [
        [dataclasses.replace(s, group="other", index=i + 5) for i, s in enumerate(unit)]
        for unit in lab.units
    ]
    for before, judged in zip(lab.alone, lab.run_fresh(places), strict=True):
        for sample, a, b in zip(judged.samples, before.scores, judged.scores, strict=True):
            if not same(a, b):
                yield f"{excerpt(sample)}: {shown(a)}, and {shown(b)} in another group and place"


@check(
    did="judged the same samples in two fresh processes with different hash seeds",
    why="equal completions with unequal scores get an advantage that nothing they did has earned; "
    "and equal samples are judged only once when a reward says it is deterministic",
)
def deterministic(lab: Lab) -> Iterator[str]:
    if not lab.reward.deterministic and not lab.is_function:
        raise Skip("it declares deterministic = False")
    for one, two in zip(lab.alone, lab.elsewhere, strict=True):
        for sample, a, b in zip(one.samples, one.scores, two.scores, strict=True):
            if not same(a, b):
                yield f"{excerpt(sample)}: {shown(a)}, then {shown(b)}"


@check(
    did="judged all samples twice in one process, and in reverse in another",
    why="workers are killed and replaced, so what a reward remembers is gone at a random moment, and "
    "scores drift over a run for no reason that anybody can see",
)
def stateless(lab: Lab) -> Iterator[str]:
    needs_steady(lab)
    first = lab.alone
    for name, other in (
        ("the second time", lab.base.again),
        ("after the others", lab.run_fresh(lab.units[::-1])[::-1]),
    ):
        for one, two in zip(first, other, strict=True):
            for sample, a, b in zip(one.samples, one.scores, two.scores, strict=True):
                if not same(a, b):
                    yield f"{excerpt(sample)}: {shown(a)} the first time, {shown(b)} {name}"


@check(
    did="compared every value it gave, for ordinary and hostile samples, with its declared range",
    why="weights are chosen by the range; a value outside is refused as invalid, and the sample with it",
)
def in_range(lab: Lab) -> Iterator[str]:
    low, high = lab.reward.range
    if math.isnan(low) or math.isnan(high) or low >= high:
        yield f"range is {lab.reward.range}; the least comes first"
    for judged in (*lab.alone, *(judged for _, judged in lab.hostile)):
        for sample, score in zip(judged.samples, judged.scores, strict=True):
            if score.outcome is Outcome.invalid and "samples" not in score.reason:
                yield f"{excerpt(sample)}: it {score.reason}"


@check(
    did="judged samples of which only the declared columns were left",
    why="columns in `requires` are checked before a run starts; one that is read but not declared "
    "is an error on every sample, hours later",
)
def columns(lab: Lab) -> Iterator[str]:
    bare = [
        [dataclasses.replace(s, columns=_only(s.columns, lab.requires)) for s in unit]
        for unit in lab.units
    ]
    for judged, with_all in zip(lab.run_fresh(bare), lab.alone, strict=True):
        for sample, score, before in zip(
            judged.samples, judged.scores, with_all.scores, strict=True
        ):
            if score.outcome is Outcome.error and before.outcome is not Outcome.error:
                yield f"{excerpt(sample)} with columns {[*sample.columns]}: {shown(score)}"


# --- that it knows what it does not know ------------------------------------------------


@check(
    did='judged samples whose ground truth is null, empty, blank, nan or an empty list (each required '
    "column, one at a time)",
    why="a guess about a row without a truth is noise with a sign; 0.0 punishes every completion, "
    "1.0 pays for anything. Abstaining leaves the row out",
)  # fmt: skip
def abstains(lab: Lab) -> Iterator[str]:
    if lab.grouped:
        raise Skip("it compares the samples of a group")
    columns = lab.gold_columns
    if not columns:
        raise Skip("it requires no column and reads none that looks like a ground truth")
    required = bool(lab.requires)
    cases: list[tuple[str, Sample, Score]] = []
    for judged in lab.alone:
        (sample,), (before,) = judged.samples, judged.scores
        if before.outcome is Outcome.error:
            continue  # that is for `examples` to tell
        for gone in columns if required else [None]:
            for empty in EMPTY:
                # Without `requires` nobody knows which column is the truth: all of them go.
                row = {k: empty if gone in (None, k) else v for k, v in sample.columns.items()}
                name = f"{gone} = {empty!r}" if required else f"every column {empty!r}"
                cases.append((name, dataclasses.replace(sample, columns=row), before))
    answers = lab.run_fresh([[sample] for _, sample, _ in cases])
    for (name, sample, before), answer in zip(cases, answers, strict=True):
        score = answer.scores[0]
        if score.outcome is not Outcome.abstained and (required or not same(score, before)):
            yield f"{name}, completion {excerpt(sample)}: {shown(score)}, expected abstained"


@check(
    did="wrote each row's ground truth down as a perfect answer and judged that",
    why="a row whose own gold is not accepted can only ever punish: the policy learns to avoid the "
    "right answer, and the accuracy you measure has a ceiling",
)
def perfect(lab: Lab) -> Iterator[str]:
    if lab.maximum is None:
        raise Skip("its range has no upper end")
    if lab.grouped:
        raise Skip("it compares the samples of a group")
    if lab.is_made_up:
        raise Skip("there are only made-up samples; give examples, or --data with real rows")
    needs_no_state(lab)
    if lab.perfect is None:
        if not lab.requires:
            raise Skip("it requires no ground truth, and no `perfect` says how to please it")
        yield (
            "none of the usual ways to write the ground truth down gets the maximum on most rows; "
            "define perfect(sample), which returns the completion that deserves it"
        )
        return
    # A row that its author says abstains has no truth; of others, the audit of rows tells.
    rows = [e for e in lab.stated if not (e.known and e.value is None)]
    written = [(row, lab.perfect.write(row.sample)) for row in rows]
    pairs = [(row, with_completion(row.sample, text)) for row, text in written if text is not None]
    answers = lab.run_fresh([[sample] for _, sample in pairs])
    for (row, _), judged in zip(pairs, answers, strict=True):
        score = judged.scores[0]
        if score.outcome is Outcome.abstained and not row.known:
            continue
        if score.value is None or not math.isclose(score.value, lab.maximum):
            (sample,) = judged.samples
            truth = {c: sample.columns.get(c) for c in lab.gold_columns}
            yield (
                f"{excerpt(sample)} ({lab.perfect.name}), {truth}: {shown(score)}"
                f"{f' ({score.reason})' if score.reason and score.value is not None else ''}, "
                f"the maximum is {lab.maximum:g}"
            )


# --- shared ---------------------------------------------------------------------------


def _scores(run: Sequence[Judged]) -> list[Score]:
    return [score for judged in run for score in judged.scores]


def needs_steady(lab: Lab) -> None:
    if not lab.steady:
        raise Skip("its scores differ from process to process, so they cannot be compared")


def needs_no_state(lab: Lab) -> None:
    if lab.stateful:
        raise Skip("its scores differ from call to call, so they cannot be compared")


def _together(lab: Lab) -> Iterator[tuple[list[Score], Judged]]:
    """Runs of several samples in one call, each with the scores they had alone."""
    needs_steady(lab)
    needs_no_state(lab)
    alone: dict[int, Score] = {}
    for judged in lab.alone:
        alone.update(zip(map(id, judged.samples), judged.scores, strict=True))
    for judged in lab.together:
        if not all(s.outcome is Outcome.invalid and "samples" in s.reason for s in judged.scores):
            yield [alone[id(sample)] for sample in judged.samples], judged
        # else a wrong count; that is for `count` to tell


def _moved(expected: Sequence[Score], got: Sequence[Score]) -> bool:
    """Whether these are the expected scores, but not in the expected order."""
    if all(map(same, expected, got)):
        return False
    return all(map(same, sorted(expected, key=_key), sorted(got, key=_key)))


def _key(score: Score) -> tuple[str, float]:
    return (score.outcome.value, score.value or 0.0)


def _list(scores: Sequence[Score]) -> str:
    return "[" + ", ".join(s.outcome.value if s.value is None else shown(s) for s in scores) + "]"


def _only(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name in names}
