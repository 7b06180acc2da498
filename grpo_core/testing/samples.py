"""What a reward is tried on: an author's examples, rows of a dataset, or made-up samples.

And how a perfect answer is made of a row, where its author does not say. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.rewards import Sample, Text

PROMPTS = ("prompt", "question", "problem", "instruction", "input", "text")
"""Columns that are taken for the prompt of a row that has none by that name."""

GOLDS = ("answer", "solution", "target", "gold", "label", "expected", "canonical_solution", "code")
"""Columns that often hold a ground truth, beside those a reward requires."""

AT_MOST = 12
"""Samples that the checks compare with one another."""


@dataclass(frozen=True)
class Example:
    """A sample; with `known`, the value its author says it gets (None: abstains)."""

    sample: Sample
    known: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Shape:
    """A way to write a ground truth down as a completion."""

    name: str
    template: str
    """With `{gold}`, and `{prompt}` where that belongs to it."""
    last_line: bool = False
    """Only what follows `####` in the gold, as in GSM8K."""

    def write(self, sample: Sample, column: str) -> str | None:
        """The completion for a sample; None where its gold cannot be written so."""
        gold = sample.columns.get(column)
        if isinstance(gold, bool) or not isinstance(gold, (str, int, float)):
            return None
        text = str(gold).strip() if not self.template.count("{prompt}") else str(gold)
        if self.last_line:
            _, mark, text = text.rpartition("####")
            text = text.strip()
            if not mark:
                return None
        return self.template.replace("{prompt}", sample.prompt_text).replace("{gold}", text)


_THINK = "<think>\nLet me think about it.\n</think>\n"

SHAPES = (
    Shape("boxed in answer tags", _THINK + "<answer>\\boxed{{gold}}</answer>"),
    Shape("boxed in answer tags, what follows ####", _THINK + "<answer>\\boxed{{gold}}</answer>", True),
    Shape("in answer tags", _THINK + "<answer>{gold}</answer>"),
    Shape("in answer tags, what follows ####", _THINK + "<answer>{gold}</answer>", True),
    Shape("as it is", "{gold}"),
    Shape("what follows ####", "{gold}", True),
    Shape("after ####", "#### {gold}"),
    Shape("in a sentence", "The answer is {gold}."),
    Shape("as a program", "```python\n{gold}\n```"),
    Shape("as the end of the prompt's program", "```python\n{prompt}{gold}\n```"),
)  # fmt: skip


def with_completion(sample: Sample, completion: Text) -> Sample:
    """The same sample with another completion, and nothing kept of the old one."""
    return dataclasses.replace(sample, completion=completion)


def gold_columns(sample: Sample, required: Iterable[str]) -> list[str]:
    """Columns that may hold the ground truth, the required ones first."""
    return [c for c in dict.fromkeys((*required, *GOLDS)) if c in sample.columns]


def shaped(samples: Sequence[Sample], required: Iterable[str]) -> Iterator[Perfect]:
    """Every way to make a perfect completion that fits these samples."""
    columns = dict.fromkeys(c for s in samples for c in gold_columns(s, required))
    for column in columns:
        for shape in SHAPES:
            if any(shape.write(sample, column) is not None for sample in samples):
                yield Perfect(f"{column!r} {shape.name}", _writer(shape, column))


def _writer(shape: Shape, column: str) -> Callable[[Sample], Text | None]:
    return lambda sample: shape.write(sample, column)


@dataclass(frozen=True)
class Perfect:
    """How a perfect completion is made of a row, in words and as a function."""

    name: str
    write: Callable[[Sample], Text | None]


def row_sample(
    row: Mapping[str, Any], required: Iterable[str] = (), prompt: Text | None = None
) -> Sample:
    """A row of a dataset as a sample; the completion is empty where it has none.

    Without `prompt` a column is taken for it; raises ValueError where none can be.
    """
    if prompt is None:
        prompt = next(
            (row[name] for name in PROMPTS if isinstance(row.get(name), (str, list))), None
        )
    if prompt is None:
        raise ValueError(f"no prompt: none of {', '.join(PROMPTS)} is there")
    completion = row.get("completion")
    if not isinstance(completion, (str, list)):
        completion = ""
    hidden = {"prompt", "completion", "id", "group"}.difference(required)
    columns = {key: value for key, value in row.items() if key not in hidden}
    group = row.get("group")
    return Sample(
        prompt,
        completion,
        columns,
        group if isinstance(group, (str, int)) else 0,
        id=row.get("id"),
    )


def made_up(required: Sequence[str], group: bool) -> list[Sample]:
    """Samples for a reward nobody gave examples of: every required column holds "7"."""
    columns = dict.fromkeys(required, "7")
    prompt = "What is 3 + 4? Think first, then answer."
    return [
        Sample(prompt, text, dict(columns), index=i if group else 0)
        for i, text in enumerate(COMPLETIONS)
    ]


COMPLETIONS = (
    "<think>\nThree and four are seven.\n</think>\n<answer>\\boxed{7}</answer>",
    "<think>\nIt could be eight.\n</think>\n<answer>\\boxed{8}</answer>",
    "The answer is 7.",
    "I do not know the answer to this question, and I will not guess.",
    "```python\ndef answer():\n    return 7\n```",
    "",
    "La réponse est sept, et rien d'autre. 答えは七です。",
    "7",
)
"""Ordinary completions of many kinds, one of them empty."""


def varied(examples: Sequence[Example], perfect: Perfect | None, group: bool) -> list[Example]:
    """The examples, and more samples over their columns: other completions, wrong answers."""
    known = list(examples)
    if group or not known:
        return known
    rows = [example.sample for example in known]
    more: list[Sample] = []
    if perfect is not None:
        for mine, other in zip(rows, rows[1:] + rows[:1], strict=True):
            more += [
                with_completion(mine, text)
                for row in (mine, other)
                if (text := perfect.write(row)) is not None
            ]
    for row, text in zip(rows * len(COMPLETIONS), COMPLETIONS, strict=False):
        more.append(with_completion(row, text))
    room = max(4, AT_MOST - len(known))
    return known + [Example(sample) for sample in more[:room]]
