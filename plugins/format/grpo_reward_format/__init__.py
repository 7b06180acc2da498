"""The reward `format`: exactly one thinking part and one answer part, in order, nothing else.

Samples and options in, scores out. How a text is taken apart is in `parsing`,
what an answer must hold in `patterns`; the reward `overlong` is in `overlong`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grpo_core import Reward, Sample, Score, hookimpl
from grpo_reward_format.overlong import Overlong
from grpo_reward_format.parsing import Layout, Parsed, excerpt, parse, where
from grpo_reward_format.patterns import compile_pattern, find

__all__ = ["Format", "Layout", "Overlong", "Parsed", "parse"]

grpo_core_api = 1


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Format(Reward):
    """1 for a well-formed completion, else 0 (or part of `partial`), with the first fault named.

    Well formed: `<think>…</think>` then `<answer>…</answer>`, each tag exactly
    once, nothing outside but white space, neither part empty.
    """

    class Options(Reward.Options):
        think: str | None = Field(None, description="Name of the thinking tag; default: tags.think")
        answer: str | None = Field(
            None,
            description="Name of the answer tag; default: tags.answer. Empty: no tag, all that "
            "follows the thinking is the answer",
        )
        prefilled: Literal["auto"] | bool = Field(
            "auto",
            description="Whether the prompt already opened the thinking tag; auto: as the sample says",
        )
        partial: float = Field(
            0.0,
            ge=0.0,
            lt=1.0,
            description="What a malformed completion with every tag in place earns; each tag gives "
            "an equal part of it",
        )
        answer_contains: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
            (),
            description=r"Patterns the answer must hold, such as '\boxed{*}' or 'The answer is *'",
        )

        @field_validator("think", "answer")
        @classmethod
        def _tag_name(cls, name: str | None) -> str | None:
            if name is not None and any(c in "<>/" or c.isspace() for c in name):
                raise ValueError(f"{name!r} is no tag name: write it without brackets and spaces")
            return name

        @field_validator("answer_contains")
        @classmethod
        def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
            for pattern in patterns:
                compile_pattern(pattern)
            return patterns

        @model_validator(mode="after")
        def _names(self) -> Format.Options:
            if self.think == "":
                raise ValueError("think: a thinking tag needs a name")
            if self.think is not None and self.think == self.answer:
                raise ValueError(f"think and answer are both {self.think!r}; they need two names")
            return self

    range = (0.0, 1.0)
    isolation = "inline"  # linear and small: cheaper than the way to a worker
    examples: ClassVar = (
        (Sample("48/2=", "<think>Half of 48.</think>\n<answer>24</answer>"), 1.0),
        (Sample("48/2=", "<think>Half of 48.</think> It is <answer>24</answer>"), 0.0),
        (Sample("48/2= <think>", "Half of 48.</think><answer>24</answer>"), 1.0),
        (Sample("48/2=", "24"), 0.0),
    )

    def score(self, sample: Sample) -> Score:
        text, layout = sample.completion_text, self._layout(sample)
        parsed = parse(text, layout)
        fault = parsed.fault or self._missing(parsed, text)
        expected = layout.expected()
        in_place = parsed.in_place / len(expected) if expected else 1.0
        details = {"tags_in_place": in_place}
        if fault is None:
            reason = (
                f"well formed: thinking of {len(parsed.thinking.strip())} characters, "
                f"answer of {len(parsed.answer.strip())}"
            )
            return Score(1.0, reason=reason, details=details)
        if sample.truncated:
            fault += " (the completion was cut off)"
        if self.options.partial:
            fault += f"; {parsed.in_place} of {len(expected)} tags in place"
        return Score(self.options.partial * in_place, reason=fault, details=details)

    options: Options

    def _layout(self, sample: Sample) -> Layout:
        options = self.options
        prefilled = options.prefilled
        return Layout(
            sample.tags.think if options.think is None else options.think,
            sample.tags.answer if options.answer is None else options.answer,
            sample.opens_inside_thinking if prefilled == "auto" else prefilled,
            _separate_thinking(sample),
        )

    def _missing(self, parsed: Parsed, text: str) -> str | None:
        for pattern in self.options.answer_contains:
            if not find(compile_pattern(pattern), parsed.answer):
                return (
                    f"the answer at {where(text, parsed.answer_at)} has no {pattern}: "
                    f"{excerpt(parsed.answer.strip())}"
                )
        return None


def _separate_thinking(sample: Sample) -> str | None:
    """The `reasoning_content` of the message judged, where a server split it off.

    A blank one is what servers send that split nothing off: then the thinking
    must stand in the text.
    """
    if isinstance(sample.completion, str):
        return None
    for message in reversed(sample.completion):
        if message.get("role", "assistant") == "assistant":
            thinking = message.get("reasoning_content")
            return thinking if isinstance(thinking, str) and thinking.strip() else None
    return None


@hookimpl
def register_rewards(register: Any) -> None:
    register("format", Format)
    register("overlong", Overlong)
