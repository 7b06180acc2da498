"""The reward `overlong`: soft punishment of completions that come near the limit of length.

DAPO (arXiv 2503.14476), equation 13. Lengths are in tokens, from
`sample.completion_ids`; nothing here reads the text.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from grpo_core import Reward, Sample, Score


class Overlong(Reward):
    """0 up to `max_tokens - buffer_tokens`, from there falling evenly to -1 at `max_tokens`.

    Abstains where the sample has no token ids.
    """

    class Options(Reward.Options):
        max_tokens: int = Field(
            gt=0,
            description="Tokens from which on a completion earns -1; mostly the limit of generation",
        )
        buffer_tokens: int = Field(
            gt=0, description="Tokens before that over which the punishment grows"
        )

        @model_validator(mode="after")
        def _fits(self) -> Overlong.Options:
            if self.buffer_tokens > self.max_tokens:
                raise ValueError(
                    f"buffer_tokens is {self.buffer_tokens}, more than max_tokens, {self.max_tokens}"
                )
            return self

    range = (-1.0, 0.0)
    isolation = "inline"  # a subtraction
    options: Options

    def score(self, sample: Sample) -> Score:
        if sample.completion_ids is None:
            return Score(None, reason="the sample has no completion_ids to count the tokens of")
        length, most = len(sample.completion_ids), self.options.max_tokens
        free = most - self.options.buffer_tokens
        if length <= free:
            return Score(0.0, reason=f"{length} tokens, {free} are free")
        if length >= most:
            return Score(-1.0, reason=f"{length} tokens, the most is {most}")
        over = length - free
        return Score(
            -over / self.options.buffer_tokens,
            reason=f"{length} tokens, {over} into the buffer from {free} to {most}",
        )
