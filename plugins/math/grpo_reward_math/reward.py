"""The reward itself: options, gold and answer in, one score out.

It finds the answer (`extract`), reads the gold (`gold`) and asks for a verdict
(`verdict`); everything below this file is pure functions of strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from grpo_core import Reward, Sample, Score
from grpo_reward_math.extract import Rule, find_answer
from grpo_reward_math.gold import gold_text
from grpo_reward_math.verdict import Rules, decide, read_gold


class Math(Reward):
    """1.0 when the answer part's final answer equals the gold answer, else 0.0.

    A gold that is missing or cannot be read abstains, whatever the answer is.
    Never uses a signal or a thread, so it runs anywhere.
    """

    class Options(Reward.Options):
        answer_column: str = "answer"
        """The dataset column that holds the gold: a number, a text, a solution ending
        in `#### 24`, or a text with a box."""
        extract: Rule = "boxed"
        """Where the answer stands: `boxed`, `tag` (all of the answer tags), `hash`
        (`#### 18`), `phrase` ("the answer is 18"), or `any`, the first of these that is there."""
        kind: Literal["auto", "math", "choice", "text"] = "auto"
        """What golds are: `math`, a multiple-`choice` letter, a `text`; `auto` reads it
        off each gold."""
        form: Literal["any", "value", "simplified"] = "any"
        """`any` equivalent expression; `value`: a numeral must stand there where the gold
        is a number; `simplified`: nothing may be left to work out."""
        units: Literal["if_given", "required", "ignore"] = "if_given"
        """Whether a unit that the gold has may be left out (a wrong one is wrong), must be
        there, or is not looked at."""
        percent: Literal["strict", "lenient"] = "strict"
        """`strict`: gold 10% is 0.1 and 1/10, never a bare 10; `lenient`: a bare 10 too."""
        chains: bool = False
        """Accept `1 + 1 = 2` when every side equals the gold."""
        approximate: bool = False
        """Accept an answer that is marked as approximate (≈)."""

    range = (0.0, 1.0)
    isolation = "process"
    examples: ClassVar[Sequence[tuple[Sample, float | None]]] = [
        (Sample("48/2", r"<think>24</think> \boxed{24}", {"answer": "24"}), 1.0),
        (Sample("1/4 + 1/4", r"\boxed{\frac{2}{4}}", {"answer": "0.5"}), 1.0),
        (Sample("Solve x^2 = x + 2.", r"\boxed{-1} and \boxed{2}", {"answer": "2, -1"}), 1.0),
        (Sample("48/2", r"<think>\boxed{24}</think> unsure", {"answer": "24"}), 0.0),
        (Sample("1 + 1", r"\boxed{1 = 2}", {"answer": "2"}), 0.0),
        (Sample("How far?", r"\boxed{5 \text{ m}}", {"answer": "5 km"}), 0.0),
        (Sample("Prove it.", r"\boxed{7}", {"answer": "see the solution"}), None),
    ]
    on_timeout = 0.0  # an answer that nobody can evaluate is not right

    options: Options

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.options.answer_column,)

    def score(self, sample: Sample) -> Score:
        options = self.options
        column = sample.columns.get(options.answer_column)
        text = gold_text(column)
        if text is None:
            return Score(None, reason=f"no gold answer in column {options.answer_column!r}")
        gold = read_gold(text, options.kind)
        if gold.unreadable:
            return Score(
                None, reason=f"the gold {_short(text)} cannot be read: {_line(gold.unreadable)}"
            )
        found = find_answer(sample.answer_text, options.extract, tagged=self._is_tagged(sample))
        if found.text is None:
            return Score(0.0, reason=found.rule)
        verdict = decide(
            gold,
            found.text,
            Rules(
                options.form,
                options.units,
                options.percent == "lenient",
                options.chains,
                options.approximate,
            ),
        )
        relation = "equals" if verdict.equal else "is not"
        return Score(
            float(verdict.equal),
            reason=f"{found.rule}, {_short(found.text)}, {relation} the gold {_short(text)}: "
            f"{_line(verdict.why)}",
        )

    def perfect(self, sample: Sample) -> str | None:
        """The completion that deserves 1.0 for a row; None where its gold cannot be read."""
        text = gold_text(sample.columns.get(self.options.answer_column))
        if text is None or read_gold(text, self.options.kind).unreadable:
            return None
        written = {
            "hash": f"#### {text}",
            "phrase": f"The answer is {text}",
            "tag": f"<{sample.tags.answer}>{text}</{sample.tags.answer}>",
        }
        return written.get(self.options.extract, rf"\boxed{{{text}}}")

    def _is_tagged(self, sample: Sample) -> bool:
        return (
            self.options.extract in ("tag", "any")
            and f"<{sample.tags.answer}>" in sample.completion_text
        )


def _line(why: str, limit: int = 160) -> str:
    """One line of bounded length: a reason may quote what the model wrote."""
    return why if len(why) <= limit and why.isprintable() else f"{why[:limit]!a}…"


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text[: 4 * limit].split())
    if not text.isprintable():
        text = ascii(text)[1:-1]
    return f"`{text[: limit - 1]}…`" if len(text) > limit else f"`{text}`"
