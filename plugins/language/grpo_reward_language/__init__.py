"""The reward `language`: the share of the reasoning that is in the expected language.

Samples and options in, scores out. Counting is in `share`; no model is loaded
and no library imported before the first score.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from grpo_core import Reward, Sample, Score, hookimpl
from grpo_reward_language.languages import find, name, nearest
from grpo_reward_language.share import Letters, count

__all__ = ["Language", "Letters", "count"]

grpo_core_api = 1

_COLUMN = "column:"


class Language(Reward):
    """The share (0 to 1) of target-language letters in the thinking.

    Maths, code, links, numbers, names in a foreign script and copies of the
    problem are not counted; nothing left to judge abstains.
    """

    class Options(Reward.Options):
        expect: str = Field(
            "prompt",
            description="The target: a language (en, pt-BR, German), `prompt` (the prompt's "
            "language) or `column:NAME` (a dataset column that holds a language)",
        )
        part: Literal["reasoning", "completion"] = Field(
            "reasoning", description="What is judged: the thinking, or the whole completion"
        )
        threshold: float | None = Field(
            None,
            gt=0.0,
            le=1.0,
            description="1 when the share reaches it, else 0; without it the share is the score",
        )

        @field_validator("expect")
        @classmethod
        def _known(cls, expect: str) -> str:
            if expect == "prompt" or (
                expect.startswith(_COLUMN) and expect[len(_COLUMN) :].strip()
            ):
                return expect
            if (code := find(expect)) is None:
                hint = f"; did you mean {near!r}?" if (near := nearest(expect)) else ""
                raise ValueError(
                    f"{expect!r} is no language known here{hint} Expected a language such as en or "
                    "German, `prompt`, or `column:NAME`"
                )
            return code

    range = (0.0, 1.0)
    examples: ClassVar = (
        (Sample("What is half of 48?", "<think>We divide 48 by 2.</think>24"), 1.0),
        (Sample("What is half of 48?", "<think>Wir teilen 48 durch 2.</think>24"), 0.0),
        (Sample("Was ist die Hälfte von 48?", "<think>Wir teilen 48 durch 2.</think>24"), 1.0),
        (Sample("48/2=", "<think>We divide 48 by 2.</think>24"), None),
    )
    options: Options

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        column = self._column
        return () if column is None else (column,)

    @property
    def _column(self) -> str | None:
        expect = self.options.expect
        return expect[len(_COLUMN) :].strip() if expect.startswith(_COLUMN) else None

    def score(self, sample: Sample) -> Score:
        target, why_not = self._target(sample)
        if target is None:
            return Score(None, reason=why_not)
        part = self.options.part
        text = sample.reasoning_text if part == "reasoning" else sample.completion_text
        found = count(text, target, prompt=sample.prompt_text)
        if not found.total:
            why = "has no words to judge" if text.strip() else "is empty"
            return Score(None, reason=f"the {part} {why}; expected {name(target)}")
        share = found.share(target)
        reason = f"expected {name(target)}; of {found.total} letters: {found.described()}"
        threshold = self.options.threshold
        if threshold is None:
            return Score(share, reason=reason, details={"share": share})
        reached = share >= threshold
        reason += f" ({'at least' if reached else 'less than'} {threshold:.0%})"
        return Score(float(reached), reason=reason, details={"share": share})

    def _target(self, sample: Sample) -> tuple[str | None, str]:
        """The expected language's code, or None and why there is none."""
        if (column := self._column) is not None:
            value = sample.columns.get(column)
            if isinstance(value, str) and (code := find(value)) is not None:
                return code, ""
            return None, f"the column {column!r} holds {value!r}, which is no language known here"
        if self.options.expect == "prompt":
            code = _language_of(_asked(sample))
            return code, "" if code else "the prompt's language cannot be told"
        return self.options.expect, ""


def _asked(sample: Sample) -> str:
    """What the user said: of chat messages theirs alone, a system prompt is often English."""
    if isinstance(sample.prompt, str):
        return sample.prompt_text
    users = [message for message in sample.prompt if message.get("role") == "user"]
    return Sample(users or sample.prompt, "").prompt_text


def _language_of(text: str) -> str | None:
    """The language of most of a text, or None when none has more than half."""
    found = count(text)
    if not found.total:
        return None
    code = max(found.by_language, key=found.by_language.__getitem__)
    return code if found.by_language[code] > found.total / 2 and find(code) else None


@hookimpl
def register_rewards(register: Any) -> None:
    register("language", Language)
