"""Judging: one call to a reward becomes one Score a sample, whatever the reward does.

Used alike in this process (inline rewards) and in a worker. Pure but for the
reward itself. Left out: deadlines, processes, which samples go where (`pool`).
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from grpo_core.rewards import Outcome, Reward, Sample, Score, as_score

Await = Callable[[Awaitable[Any]], Any]
"""Runs an awaitable to its end; which event loop does it is the caller's business."""


class Call(StrEnum):
    """How a reward wants to be called."""

    single = "single"
    """`score(sample)`, one after another."""
    concurrent = "concurrent"
    """`await score(sample)`, many at a time."""
    bulk = "bulk"
    """`score_batch(samples)`, because the class overrides it."""
    group = "group"
    """`score_batch(one whole group)`."""


def call_of(reward: Reward) -> Call:
    """How this reward wants to be called."""
    if reward.scope == "group":
        return Call.group
    if type(reward).score_batch is not Reward.score_batch:
        return Call.bulk
    return Call.concurrent if iscoroutinefunction(reward.score) else Call.single


def judge_one(reward: Reward, sample: Sample, wait: Await) -> Score:
    """`reward.score(sample)`, as a Score. Raises MemoryError alone: what to do
    about that depends on whose memory it is."""
    try:
        return verdict(reward, reward.score(sample), wait, sample)
    except MemoryError:
        raise
    except NOT_OURS:
        raise
    except BaseException as error:
        return failed(error)


def judge_result(reward: Reward, result: Callable[[], Any], sample: Sample) -> Score:
    """The same for a verdict that was awaited: `result()` returns it or raises."""
    try:
        return verdict(reward, result(), _no_more, sample)
    except MemoryError:
        raise
    except NOT_OURS:
        raise
    except BaseException as error:
        return failed(error)


def _no_more(awaitable: Awaitable[Any]) -> Any:
    raise TypeError("an awaited score returned another awaitable")


def judge_together(reward: Reward, samples: Sequence[Sample], wait: Await) -> list[Score]:
    """`reward.score_batch(samples)` for a whole group, which is never taken apart."""
    scores, problem = _batch(reward, samples, wait)
    return scores if problem is None else [problem] * len(samples)


def judge_bulk(
    reward: Reward,
    samples: Sequence[Sample],
    wait: Await,
    start: Callable[[int], None] = lambda i: None,
) -> list[Score]:
    """`reward.score_batch(samples)`; where that fails, each sample again alone.

    Only a sample that fails alone is charged. A wrong count that no sample
    shows alone is a fault of the function, and no verdict of it can be trusted:
    the whole chunk is `invalid`. `start(i)` is called before sample i is judged
    alone.
    """
    scores, problem = _batch(reward, samples, wait)
    if problem is None:
        return scores
    if len(samples) == 1:
        return [problem]
    alone: list[Score] = []
    charged = False
    for i, sample in enumerate(samples):
        start(i)
        scores, fault = _batch(reward, [sample], wait)
        charged = charged or fault is not None
        alone.append(scores[0] if fault is None else fault)
    if problem.outcome is Outcome.invalid and not charged:
        return [problem] * len(samples)
    return alone


def _batch(
    reward: Reward, samples: Sequence[Sample], wait: Await
) -> tuple[list[Score], Score | None]:
    """The scores of one `score_batch` call, or the problem that it was."""
    try:
        raw: Any = reward.score_batch(samples)
        if isawaitable(raw):
            raw = wait(raw)
        if isinstance(raw, (str, bytes, Mapping)) or not hasattr(raw, "__len__"):
            kind = type(raw).__name__
            return [], Score(None, Outcome.invalid, f"returned {kind}, not a list of scores")
        if len(raw) != len(samples):
            return [], Score(
                None, Outcome.invalid, f"returned {len(raw)} scores for {_samples(len(samples))}"
            )
        pairs = zip(raw, samples, strict=True)
        return [verdict(reward, one, wait, sample) for one, sample in pairs], None
    except MemoryError:
        raise
    except NOT_OURS:
        raise
    except BaseException as error:
        return [], failed(error)


NOT_OURS: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
"""Raised in this process by the person at the keyboard, never charged to a reward;
a worker, which no keyboard reaches, empties it."""


def verdict(reward: Reward, raw: Any, wait: Await, sample: Sample) -> Score:
    """What a reward returned, as a Score fit to travel: plain floats and strings."""
    kind = type(raw)
    low, high = reward.range
    if kind is float and low <= raw <= high and math.isfinite(raw):
        return Score(raw)
    if kind is not Score and isawaitable(raw):
        return verdict(reward, wait(raw), wait, sample)
    if (
        kind is Score
        and type(raw.value) is float
        and low <= raw.value <= high
        and math.isfinite(raw.value)
        and raw.steps is None
    ):
        score: Score = raw
    else:
        score = as_score(raw, (low, high), sample)
    if type(score.reason) is not str or len(score.reason) > REASON or score.details:
        return _plain(score)
    return score


def _plain(score: Score) -> Score:
    details: dict[str, float] = {}
    for name, value in score.details.items():
        try:
            details[str(name)] = float(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            return Score(None, Outcome.invalid, f"its detail {name!r} is a {kind}, not a number")
    reason = shorten(str(score.reason), REASON)
    return Score(score.value, score.outcome, reason, details, score.steps)


def failed(error: BaseException) -> Score:
    """An exception as an `error`: its type, message and the line that raised it."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # its own __str__ fails; the type will have to do
        message = ""
    where = ""
    if frames := traceback.extract_tb(error.__traceback__, limit=-1):
        where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return Score(None, Outcome.error, shorten(text) + where)


REASON = 1000
"""Characters of a reason that are kept."""


def shorten(text: str, limit: int = 300) -> str:
    """One line of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"
