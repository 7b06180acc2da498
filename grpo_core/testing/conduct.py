"""The checks of how a reward behaves: under hostile input, and towards the process it runs in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from grpo_core.rewards import Outcome, Sample
from grpo_core.testing.bench import Judged
from grpo_core.testing.check import Skip, check
from grpo_core.testing.lab import Lab, excerpt, same, shown
from grpo_core.testing.verdicts import needs_no_state, needs_steady

MEMORY_MB = 512.0
"""By how much one sample may raise a worker's memory."""

INLINE_S = 1.0
"""What an inline reward may take for one sample: nothing can stop it."""


@check(
    did="judged hostile completions: empty, a megabyte, deep nesting, control and right-to-left "
    "characters, lone surrogates, nulls, bait for regular expressions, expression bombs",
    why="what crashes its judge leaves its group's baseline instead of being punished; a policy "
    "that finds such a text keeps it",
)
def robust(lab: Lab) -> Iterator[str]:
    for name, judged in lab.hostile:
        score = judged.scores[0]
        if not judged.skipped and score.outcome is Outcome.error:
            yield f"{name}: {shown(score)}"


@check(
    did="timed every hostile completion against its deadline (inline rewards: one second)",
    why="a judge that hangs costs its deadline on every such sample, a worker each time; inline, it "
    "stops training altogether",
)
def bounded_time(lab: Lab) -> Iterator[str]:
    inline = lab.reward.isolation == "inline"
    for name, judged in lab.hostile:
        if judged.scores[0].outcome is Outcome.timeout:
            yield f"{name}: {shown(judged.scores[0])}"
        elif inline and judged.seconds > INLINE_S:
            yield f"{name}: took {judged.seconds:.1f} s, and it runs in the training process"


@check(
    did=f"measured memory over every hostile completion; {MEMORY_MB:g} MB more is the limit",
    why="several workers share the machine with the model; one that grows takes the run down",
)
def bounded_memory(lab: Lab) -> Iterator[str]:
    for name, judged in lab.hostile:
        if judged.grown_mb > MEMORY_MB:
            yield f"{name}: memory rose by {judged.grown_mb:,.0f} MB"


@check(
    did="put code into completions that sets an environment variable, and looked for it",
    why="a judge that runs text of the model with eval or exec is run by the model: it can set its "
    "own score, or the machine on fire",
)
def no_execution(lab: Lab) -> Iterator[str]:
    for name, judged in lab.hostile:
        if judged.touched.executed:
            yield f"{name}: the code was run by the reward's own process"


@check(
    did="watched for connections and look-ups of names while it was imported and judged",
    why="a service that is slow or down becomes noise in the scores, and a cluster node often has "
    'no way out. A reward that waits on a network says so: isolation = "async"',
)
def no_network(lab: Lab) -> Iterator[str]:
    if lab.reward.isolation == "async":
        raise Skip('isolation = "async": it waits on a network')
    for where, judged in _everything(lab):
        for line in judged.touched.network:
            yield f"{where}: {line}"
    for line in lab.base.build_touched.network:
        yield f"when made: {line}"


@check(
    did="watched for files opened for writing, made, moved or removed outside the temporary folder",
    why="dozens of workers write at once and are killed at any moment: files are torn, disks fill up",
)
def no_writes(lab: Lab) -> Iterator[str]:
    for where, judged in _everything(lab):
        for line in judged.touched.files:
            yield f"{where}: {line}"
    for line in lab.base.build_touched.files:
        yield f"when made: {line}"


@check(
    did="compared working directory, environment, signal handlers, alarms, locale, random state, "
    "warnings filters, recursion limit and the like, before and after",
    why="other rewards run in the same process, and inline ones in the trainer's: a seed that is set "
    "makes rollouts repeat, a handler or a limit that is left behind breaks somebody else",
)
def no_traces(lab: Lab) -> Iterator[str]:
    for where, judged in _everything(lab):
        for line in judged.touched.state:
            yield f"{where}: {line}"
    for line in lab.base.build_touched.state:
        yield f"when made: {line}"


@check(
    did="compared prompt, completion and columns of each sample before and after it was judged",
    why="the samples are also what is logged, what other inline rewards see, and what is judged again "
    "when a batch fails",
)
def leaves_samples(lab: Lab) -> Iterator[str]:
    for where, judged in _everything(lab):
        if judged.touched.samples:
            yield f"{where}: the sample was changed"


@check(
    did="judged each completion as a string and as a list with one assistant message",
    why="chat models write messages, base models strings; a reward that reads only one form is "
    "useless, or silently zero, for the other",
)
def chat(lab: Lab) -> Iterator[str]:
    if lab.is_function:
        raise Skip("a plain function gets one form, and which is its dataset's business")
    needs_steady(lab)
    needs_no_state(lab)
    units = [unit for unit in lab.units if all(isinstance(s.completion, str) for s in unit)]
    answers = lab.run_fresh([list(map(_as_chat, unit)) for unit in units])
    by_unit = {id(unit): judged for unit, judged in zip(lab.units, lab.alone, strict=True)}
    for unit, judged in zip(units, answers, strict=True):
        before = by_unit[id(unit)].scores
        for sample, a, b in zip(unit, before, judged.scores, strict=True):
            if not same(a, b):
                yield f"{excerpt(sample)}: {shown(a)} as a string, {shown(b)} as a message"


@check(
    did="judged in a thread that is not the main one",
    why="an inline reward runs in whatever thread scores: signals and alarms work in the main thread "
    "alone, and fail or never fire elsewhere",
)
def any_thread(lab: Lab) -> Iterator[str]:
    if lab.reward.isolation != "inline":
        raise Skip("it runs in the main thread of a worker")
    needs_steady(lab)
    needs_no_state(lab)
    with lab.fresh() as bench:
        answers = bench.judge(lab.units, in_thread=True)
    for here, there in zip(lab.alone, answers, strict=True):
        for sample, a, b in zip(here.samples, here.scores, there.scores, strict=True):
            if not same(a, b):
                yield f"{excerpt(sample)}: {shown(a)}, and {shown(b)} in another thread"


def _everything(lab: Lab) -> Iterator[tuple[str, Judged]]:
    for judged in lab.alone:
        yield excerpt(judged.samples[0]), judged
    yield from lab.hostile


def _as_chat(sample: Sample) -> Sample:
    prompt, completion = sample.prompt, sample.completion
    return dataclasses.replace(
        sample,
        prompt=[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        completion=[{"role": "assistant", "content": completion}],
        # a template that opened the thinking tag is told apart by the string's end alone
        prefilled=sample.opens_inside_thinking,
    )
