"""Sample, Score, Outcome, Reward: the words every plugin speaks.

Also here: how a plain function with the field's common signature becomes a
reward, and how whatever a reward returned becomes a Score. Left out: running
rewards under deadlines (`scoring`), weighing them (`rubric`), finding them
(`plugins`).
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Message = Mapping[str, Any]
Text = str | Sequence[Message]
"""A prompt or completion: a string, or chat messages `{"role", "content"}` whose
content is a string or a list of parts (`{"type": "text", "text": …}`)."""

Policy = Literal["exclude", "abstain", "raise"] | float
"""What an outcome without a verdict does to its sample; see `Reward.on_error`."""


Steps = tuple[tuple[int, float], ...]
"""Scores of a completion's steps: for each, the character of `completion_text` at which
it ends (so `text[:offset]` ends with it) and its value."""


class Outcome(StrEnum):
    """How one judgement ended."""

    scored = "scored"
    abstained = "abstained"
    """The reward does not apply to this sample."""
    timeout = "timeout"
    """Judging overran its deadline and was killed."""
    error = "error"
    """Judging raised, or its process died."""
    invalid = "invalid"
    """The verdict was nan, infinite, of a wrong type, out of range, or miscounted."""


@dataclass(frozen=True, init=False)
class Score:
    """One verdict.

    `value` is a float, or None when there is no verdict; `reason` is one line a
    person can read; `details` are named floats to log. `Score(None)` abstains.

    `steps` judges the parts of the completion as well (process supervision): pairs
    (offset, value) in order, each offset the end of a step, 1 to the number of
    characters of `sample.completion_text`, each value within the reward's range. The
    policy then learns from the steps, and `value` is what tables and pass@1 show.
    Whatever breaks these rules is `invalid` when it is judged. `steps=()` is a
    completion in which there is no step: nothing to learn from it; None, the
    default, is no process supervision.

    Raises ValueError when value, outcome and steps contradict each other.
    """

    value: float | None
    outcome: Outcome
    reason: str
    details: Mapping[str, float]
    steps: Steps | None

    def __init__(
        self,
        value: float | None,
        outcome: Outcome | None = None,
        reason: str = "",
        details: Mapping[str, float] | None = None,
        steps: Iterable[tuple[int, float]] | None = None,
    ) -> None:
        # By hand, because there is one for every judgement: half the time of a generated one.
        default = Outcome.abstained if value is None else Outcome.scored
        outcome = default if outcome is None else Outcome(outcome)
        if (outcome is Outcome.scored) != (value is not None):
            raise ValueError(
                f"Score(value={value!r}, outcome={outcome.value!r}): a value and the "
                "outcome 'scored' go together; every other outcome has value None"
            )
        if steps is not None:
            if value is None:
                raise ValueError("Score(None, steps=…): steps go with a value, that of the whole")
            steps = tuple(steps)
        details = {} if details is None else details
        self.__dict__.update(
            value=value, outcome=outcome, reason=reason, details=details, steps=steps
        )


class Tags(NamedTuple):
    """Names of the tags around the thinking and the answer, without brackets."""

    think: str = "think"
    answer: str = "answer"


DEFAULT_TAGS = Tags()


@dataclass(frozen=True)
class Sample:
    """One completion to be judged.

    `columns` holds the row's dataset columns; `group` and `index` say which
    group it belongs to and its place there; `truncated` whether generation was
    cut off; `completion_ids` the token ids, `trajectory` whatever an environment
    recorded. `prefilled` says that the prompt's template already opened the
    thinking tag; a string prompt that ends with that tag says so by itself.
    """

    prompt: Text
    completion: Text
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: int | str = 0
    index: int = 0
    truncated: bool = False
    id: str | int | None = None
    completion_ids: Sequence[int] | None = None
    trajectory: Mapping[str, Any] | None = None
    tags: Tags = DEFAULT_TAGS
    prefilled: bool = False

    @cached_property
    def prompt_text(self) -> str:
        """The prompt as text: the string, or the contents of its messages, a line each."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(_content_text(message) for message in self.prompt)

    @cached_property
    def completion_text(self) -> str:
        """The completion as text: the string, or that of the last assistant message."""
        if isinstance(self.completion, str):
            return self.completion
        message = self._last_assistant_message
        return _content_text(message) if message is not None else ""

    @property
    def reasoning_text(self) -> str:
        """The thinking, without its tags; empty when there is none."""
        return self._parts[0]

    @property
    def answer_text(self) -> str:
        """What follows the thinking; inside answer tags when the completion has them."""
        return self._parts[1]

    @cached_property
    def opens_inside_thinking(self) -> bool:
        """Whether the prompt's template prefilled the opening thinking tag."""
        return self.prefilled or (
            isinstance(self.prompt, str) and self.prompt.rstrip().endswith(f"<{self.tags.think}>")
        )

    @property
    def _last_assistant_message(self) -> Message | None:
        assert not isinstance(self.completion, str)
        for message in reversed(self.completion):
            if message.get("role", "assistant") == "assistant":
                return message
        return None

    @cached_property
    def _parts(self) -> tuple[str, str]:
        if not isinstance(self.completion, str):
            message = self._last_assistant_message
            reasoning = message.get("reasoning_content") if message is not None else None
            if isinstance(reasoning, str):
                return reasoning, _inside_answer(self.completion_text, self.tags)
        return split_reasoning(
            self.completion_text, self.tags, opens_inside_thinking=self.opens_inside_thinking
        )


def split_reasoning(
    text: str, tags: Tags = DEFAULT_TAGS, *, opens_inside_thinking: bool = False
) -> tuple[str, str]:
    """Split a completion into (reasoning, answer), both without their tags.

    The reasoning is every `<think>…</think>` block. A closing tag with no
    opening one before it closes a block that the template prefilled; a block
    that is never closed runs to the end and leaves no answer. The answer is the
    last complete `<answer>…</answer>` of the rest, else what follows an unclosed
    `<answer>`, else all of the rest. Linear in the text.
    """
    opening, closing = f"<{tags.think}>", f"</{tags.think}>"
    first_open, first_close = text.find(opening), text.find(closing)
    inside = opens_inside_thinking or (
        first_close >= 0 and (first_open < 0 or first_close < first_open)
    )
    reasoning: list[str] = []
    rest: list[str] = []
    at = 0
    if inside and text.lstrip().startswith(opening):
        inside = False  # the completion opened the tag itself after all
    while True:
        end = text.find(closing if inside else opening, at)
        (reasoning if inside else rest).append(text[at:] if end < 0 else text[at:end])
        if end < 0:
            break
        at = end + len(closing if inside else opening)
        inside = not inside
    answer = "".join(rest).replace(closing, "")
    return "\n".join(part.strip() for part in reasoning if part.strip()), _inside_answer(
        answer, tags
    )


def _inside_answer(text: str, tags: Tags) -> str:
    opening, closing = f"<{tags.answer}>", f"</{tags.answer}>"
    end = text.rfind(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else text.rfind(opening)
    if start < 0:
        return text.strip()
    return (text[start + len(opening) : end] if end >= 0 else text[start + len(opening) :]).strip()


def _content_text(message: Message) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(
        part if isinstance(part, str) else str(part.get("text", ""))
        for part in content
        if isinstance(part, str) or part.get("type", "text") == "text"
    )


Verdict = Score | float | None


class Reward:
    """A plugin object that judges samples.

    Override `score(sample)` (it may be `async`), or `score_batch(samples)` where
    judging in bulk is faster. Rewards hold no state between calls: a worker that
    is killed is replaced by a new one, rebuilt from source, name and options.
    """

    class Options(BaseModel):
        """What a config may set under `options:`. Extra keys are refused."""

        model_config = ConfigDict(extra="forbid", frozen=True)

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Least and greatest value; a score outside is `invalid`."""

    requires: Sequence[str] = ()
    """Dataset columns it needs, checked before anything runs. A property where
    the names depend on the options."""

    scope: ClassVar[Literal["sample", "group"]] = "sample"
    """`group`: `score_batch` receives one whole group at a time."""

    isolation: ClassVar[Literal["inline", "process", "async"]] = "process"
    """Where it runs: in this process (trusted and cheap), in a killable worker,
    or on an event loop (rewards that wait on a network)."""

    deterministic: ClassVar[bool] = True
    """Whether equal samples always get equal scores; then they are judged once."""

    deadline_s: ClassVar[float] = 5.0
    """Seconds a sample may take before judging it is killed; a config may override."""

    on_timeout: ClassVar[Policy] = "exclude"
    on_error: ClassVar[Policy] = "exclude"
    on_invalid: ClassVar[Policy] = "exclude"
    on_abstained: ClassVar[Policy] = "abstain"
    """What each outcome without a verdict does: `exclude` the whole sample from
    its group, `abstain` (the term drops out of the sum), a number that stands in
    for the value, or `raise`. A config has the last word."""

    examples: ClassVar[Sequence[tuple[Sample, float | None]]] = ()
    """Samples with the value each gets (None: it abstains): what `grpo plugins show`
    shows and `grpo check` holds the reward against."""

    options: Options

    source: Any = None
    """Where a worker finds this class again (`plugins.Source`); set by whoever made it."""

    def __init__(self, **options: Any) -> None:
        """Raises pydantic.ValidationError on an unknown or mistyped option."""
        self.options = self.Options(**options)

    def warm_up(self) -> None:
        """Load what the first score would load. Called once in each new worker, before
        any deadline runs."""

    def score(self, sample: Sample) -> Verdict | Awaitable[Verdict]:
        raise NotImplementedError(f"{type(self).__name__} overrides neither score nor score_batch")

    def score_batch(
        self, samples: Sequence[Sample]
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        """One verdict a sample, in order. Only with `scope = "group"` may a verdict
        depend on the other samples."""
        return [self.score(sample) for sample in samples]  # type: ignore[misc]


def as_score(
    raw: object,
    range: tuple[float, float] = (-math.inf, math.inf),
    sample: Sample | None = None,
) -> Score:
    """What a reward returned, as a Score: a number becomes its value, None abstains.

    nan, infinity, a value outside `range` or any other type is `invalid`: a
    verdict is never invented. So are steps that are not as `Score` says; they are held
    against the text of `sample` where that is given.
    """
    if isinstance(raw, Score):
        if raw.value is None:
            return raw
        checked = as_score(raw.value, range)
        if checked.outcome is not Outcome.scored:
            return checked
        steps = raw.steps
        if steps is not None:
            problem, steps = _as_steps(steps, range, sample)
            if problem:
                return Score(None, Outcome.invalid, f"returned {problem}")
        return Score(checked.value, reason=raw.reason, details=raw.details, steps=steps)
    if raw is None:
        return Score(None)
    value = _as_float(raw)
    if value is None:
        return Score(
            None, Outcome.invalid, f"returned {type(raw).__name__}, not a float, Score or None"
        )
    if not math.isfinite(value):
        return Score(None, Outcome.invalid, f"returned {value}")
    low, high = range
    if not low <= value <= high:
        return Score(
            None, Outcome.invalid, f"returned {value:g}, outside its range {low:g} to {high:g}"
        )
    return Score(value)


def _as_float(raw: object) -> float | None:
    """Python and NumPy numbers and one-element tensors; not strings, whatever they spell."""
    if isinstance(raw, (int, float)):
        return float(raw)
    if isinstance(raw, (str, bytes)) or not hasattr(raw, "__float__"):
        return None
    try:
        return float(raw)
    except (TypeError, ValueError, RuntimeError):
        return None


def _as_steps(
    raw: Iterable[object], range: tuple[float, float], sample: Sample | None
) -> tuple[str, Steps]:
    """Steps as plain numbers, and what is wrong with them, if anything."""
    low, high = range
    length = math.inf if sample is None else len(sample.completion_text)
    steps: list[tuple[int, float]] = []
    before = 0
    for pair in raw:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return f"a step that is a {type(pair).__name__}, not a pair (offset, value)", ()
        if not hasattr(pair[0], "__index__"):
            return f"a step whose offset is a {type(pair[0]).__name__}, not a whole number", ()
        offset, value = operator.index(pair[0]), _as_float(pair[1])
        if not before < offset <= length:
            if offset <= before:
                where = f"{offset}, after one that ends at {before}" if steps else f"{offset}"
            else:
                where = f"{offset} of a text of {length}"
            return f"a step that ends at character {where}", ()
        if value is None:
            return f"a step whose value is a {type(pair[1]).__name__}, not a number", ()
        if not math.isfinite(value):
            return f"a step of value {value}", ()
        if not low <= value <= high:
            return f"a step of value {value:g}, outside its range {low:g} to {high:g}", ()
        steps.append((offset, value))
        before = offset
    return "", tuple(steps)


# --- plain functions as rewards -------------------------------------------------

_SUPPLIED = ("prompts", "completions", "completion_ids", "log_extra", "log_metric")
_NOT_SUPPLIED = {
    "trainer_state": "rewards run outside the training process, which alone holds trainer state",
}


class FunctionReward(Reward):
    """A plain function `f(prompts, completions, **columns) -> list[float | None]`.

    The field's common signature, sync or async: strings for plain prompts, lists
    of messages for chat prompts, every dataset column by name as a list, and
    `completion_ids`, `log_extra`, `log_metric` where the function takes them.
    Numbers given to `log_extra` and `log_metric` become the scores' details.
    """

    function: ClassVar[Callable[..., Any]]
    deterministic = False  # nobody declared it, so nothing is assumed

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        known = {*_SUPPLIED, *_NOT_SUPPLIED}
        return tuple(
            name
            for name, parameter in inspect.signature(type(self).function).parameters.items()
            if name not in known
            and parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )

    def score(self, sample: Sample) -> Verdict | Awaitable[Verdict]:
        result = self.score_batch([sample])
        if inspect.isawaitable(result):

            async def first() -> Verdict:
                return _only(await result)

            return first()
        return _only(result)

    def score_batch(
        self, samples: Sequence[Sample]
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        details: list[dict[str, float]] = [{} for _ in samples]
        arguments = self._arguments(samples, details)
        result = type(self).function(**arguments)
        if inspect.isawaitable(result):

            async def later() -> Sequence[Verdict]:
                return _with_details(await result, details)

            return later()
        return _with_details(result, details)

    def _arguments(
        self, samples: Sequence[Sample], details: list[dict[str, float]]
    ) -> dict[str, Any]:
        def log_extra(column: str, values: Sequence[Any]) -> None:
            for row, value in zip(details, values, strict=True):
                if (number := _as_float(value)) is not None:
                    row[column] = number

        def log_metric(name: str, value: float) -> None:
            for row in details:
                row[name] = float(value)

        names: dict[str, None] = {}
        for sample in samples:
            names.update(dict.fromkeys(sample.columns))
        supplied: dict[str, Any] = {
            name: [sample.columns.get(name) for sample in samples] for name in names
        }
        supplied |= {
            "prompts": [sample.prompt for sample in samples],
            "completions": [
                _as_messages(sample.completion)
                if not isinstance(sample.prompt, str)
                else sample.completion
                for sample in samples
            ],
            "log_extra": log_extra,
            "log_metric": log_metric,
        }
        if all(sample.completion_ids is not None for sample in samples):
            supplied["completion_ids"] = [list(sample.completion_ids or ()) for sample in samples]
        parameters = inspect.signature(type(self).function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return supplied
        return {name: value for name, value in supplied.items() if name in parameters}


def reward_from_function(function: Callable[..., Any]) -> type[FunctionReward]:
    """Make a reward class of a plain function.

    Raises TypeError when the function insists on an argument that nobody here
    can supply, naming it.
    """
    name = getattr(function, "__name__", type(function).__name__)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in _NOT_SUPPLIED and parameter.default is parameter.empty:
            raise TypeError(
                f"{name}() takes {parameter.name!r}, which is not supplied: "
                f"{_NOT_SUPPLIED[parameter.name]}. Give the parameter a default"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{name}() takes {parameter.name!r} by position only; name it")
    return type(
        name,
        (FunctionReward,),
        {
            "function": staticmethod(function),
            "__doc__": function.__doc__,
            "__module__": getattr(function, "__module__", __name__),
        },
    )


def _as_messages(completion: Text) -> Sequence[Message]:
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    return completion


def _with_details(values: Sequence[Verdict], details: list[dict[str, float]]) -> Sequence[Verdict]:
    """Attach what was logged; a wrong count goes through untouched, to be refused later."""
    if not any(details) or not hasattr(values, "__len__") or len(values) != len(details):
        return values
    return [
        Score(score.value, score.outcome, score.reason, {**row, **score.details}, score.steps)
        for score, row in zip(map(as_score, values), details, strict=True)
    ]


def _only(values: Sequence[Verdict]) -> Verdict:
    if len(values) != 1:
        raise ValueError(f"returned {len(values)} scores for 1 sample")
    return values[0]
