"""The reward: extract, run in the sandbox, compare here, say what failed.

A program that is wrong, slow or greedy scores 0; a sandbox that fails or
refuses is the outcome `error`, never a score; a sample without tests abstains.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from grpo_core import Outcome, Reward, Sample, Score
from grpo_reward_code.compare import Mode, same_text, same_value, shown
from grpo_reward_code.extract import Which, complete, program
from grpo_reward_code.tests_of import Asserts, Calls, NoTests, Programs, Tests, tests_of

if TYPE_CHECKING:
    from grpo_sandbox import Sandbox


class SandboxFailed(Exception):
    """The sandbox or the dataset's tests failed: no verdict about the program."""


@dataclass(frozen=True)
class Task:
    """A program and its tests: equal tasks have equal verdicts."""

    program: str
    tests: Tests


@dataclass(frozen=True)
class Result:
    """One test: passed, or how it failed."""

    passed: bool
    reason: str = ""


_ADD = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
_SUMS = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
_MBPP = {"test_list": ["assert twice(2) == 4", "assert twice(5) == 10"], "test_imports": []}
_HUMANEVAL = {"test": "def check(candidate):\n    assert candidate(2) == 4", "entry_point": "twice"}
_EXAMPLES = (
    (Sample("Print the sum of two numbers.", _ADD, _SUMS), 1.0),
    (Sample("Print the sum of two numbers.", _ADD.replace("+", "*"), _SUMS), 0.0),
    (Sample("Write twice(x).", "def twice(x):\n    return 2 * x", _MBPP), 1.0),
    (Sample("Write twice(x).", "def twice(x):\n    return 4", _MBPP), 0.0),
    (Sample("def twice(x):\n", "    return 2 * x", _HUMANEVAL), 1.0),
    (Sample("def twice(x):\n", "    return x", _HUMANEVAL), 0.0),
    (Sample("Print the sum of two numbers.", _ADD), None),
)


class Code(Reward):
    """Whether the program in the answer passes the sample's tests.

    Tests are recognised in the columns of HumanEval, MBPP and APPS and their kin;
    see `grpo_reward_code.tests_of`. 1.0 when all pass; with `credit: fraction` the
    share that does.
    """

    class Options(Reward.Options):
        block: Which = "last"
        """Which fenced block of the answer holds the program."""
        tag: str | None = None
        """Only blocks with this language tag."""
        require_block: bool = False
        """Whether an answer without a fenced block scores 0, instead of being the program."""
        credit: Literal["all", "fraction"] = "all"
        compare: Mode = "lines"
        """How outputs are compared; see `grpo_reward_code.compare`."""
        tolerance: float | None = Field(default=None, ge=0)
        """By how much numbers may differ, absolutely or relatively."""
        wall_s: float = Field(default=5.0, gt=0)
        """Seconds that one test may take."""
        budget_s: float = Field(default=8.0, gt=0)
        """Seconds that all tests of a sample may take together; keep it below deadline_s."""
        memory_mb: int = Field(default=256, ge=16)
        max_tests: int | None = Field(default=None, ge=1)
        """Run no more than the first so many."""
        preload: tuple[str, ...] = ()
        """Modules outside the standard library that programs may import, such as numpy."""
        unsafe: bool = False
        """Run even where the sandbox cannot isolate. Never for a model in training."""

    options: Options
    range = (0.0, 1.0)
    deadline_s = 10.0
    examples: ClassVar = _EXAMPLES

    def warm_up(self) -> None:
        """Start the sandbox before the first sample; what goes wrong is told with a score."""
        with contextlib.suppress(SandboxFailed):
            self._sandbox()

    def score(self, sample: Sample) -> Score:
        return self._judge(self._task(sample))

    def score_batch(self, samples: Sequence[Sample]) -> list[Score]:
        tasks = [self._task(sample) for sample in samples]
        verdicts: dict[Task | Score, Score] = {}
        scores = []
        for task in tasks:
            if isinstance(task, Score):
                scores.append(task)
                continue
            if task not in verdicts:
                verdicts[task] = self._judge(task)
            scores.append(verdicts[task])
        return scores

    def _task(self, sample: Sample) -> Task | Score:
        """What to run, or the score where there is nothing to run."""
        try:
            tests = tests_of(sample.columns, sample.prompt_text)
        except NoTests as why:
            return Score(None, reason=str(why))
        answer = _with_indentation(sample)
        code = program(answer, self.options.block, self.options.tag)
        if code is None:
            if self.options.require_block or not answer.strip():
                return Score(0.0, reason="the answer has no code block")
            code = answer
        if isinstance(tests, Asserts) and tests.head:
            code = complete(tests.head, tests.whole_head, code, tests.names[0])
        return Task(code, tests)

    def _judge(self, task: Task | Score) -> Score:
        if isinstance(task, Score):
            return task
        try:
            results, total = self._run(self._sandbox(), task)
        except SandboxFailed as error:
            return Score(None, Outcome.error, _one_line(str(error)))
        passed = sum(result.passed for result in results)
        details = {"passed": float(passed), "tests": float(total)}
        value = passed / total if self.options.credit == "fraction" else float(passed == total)
        failed = [(i, result) for i, result in enumerate(results, 1) if not result.passed]
        if not failed:
            return Score(value, reason=f"passed {total} of {total} tests", details=details)
        which, first = failed[0]
        reason = _one_line(f"test {which} of {total}: {first.reason}")
        return Score(value, reason=reason, details=details)

    def _sandbox(self) -> Sandbox:
        options = self.options
        return _sandbox(options.wall_s, options.memory_mb, options.preload, options.unsafe)

    def _run(self, sandbox: Sandbox, task: Task) -> tuple[list[Result], int]:
        """Results in order, up to the first failure when credit is `all`; how many tests
        there are."""
        tests = task.tests
        if isinstance(tests, Asserts):
            run = self._asserts(sandbox, task.program, tests)
        elif isinstance(tests, Programs):
            run = self._programs(sandbox, task.program, tests)
        else:
            run = self._calls(sandbox, task.program, tests)
        end = time.monotonic() + self.options.budget_s
        stop_early = self.options.credit == "all"
        results: list[Result] = []
        count = len(run)
        if self.options.max_tests is not None:
            count = min(count, self.options.max_tests)
        for test in run[:count]:
            left = end - time.monotonic()
            if left <= 0:
                result = Result(False, f"the tests took more than {self.options.budget_s:g} s")
            else:
                result = test(left)
            results.append(result)
            if stop_early and not result.passed:
                break
        return results, count

    def _asserts(self, sandbox: Sandbox, code: str, tests: Asserts) -> list[_Test]:
        def test(source: str) -> _Test:
            def run(left_s: float) -> Result:
                verdict = sandbox.check(code, source, tests.names, tests.setup, wall_s=left_s)
                if verdict.outcome == "error":
                    raise SandboxFailed(verdict.reason)
                return Result(verdict.passed, verdict.reason)

            return run

        if self.options.credit == "all":
            return [test("\n".join(tests.tests))]
        return [test(source) for source in tests.tests]

    def _programs(self, sandbox: Sandbox, code: str, tests: Programs) -> list[_Test]:
        def test(given: str, expected: str) -> _Test:
            def run(left_s: float) -> Result:
                end = sandbox.run(code, given, wall_s=left_s)
                if end.outcome == "error":
                    raise SandboxFailed(end.reason)
                if end.outcome != "finished" or end.exit != 0:
                    return Result(False, end.reason or _last_line(end.stderr) or f"exit {end.exit}")
                if end.truncated:
                    return Result(False, "printed too much")
                if tests.checker:
                    right = _checked(sandbox, tests.checker, given, expected, end.stdout)
                else:
                    right = same_text(
                        end.stdout, expected, self.options.compare, self.options.tolerance
                    )
                return Result(right, "" if right else _difference(end.stdout, expected))

            return run

        return [test(*pair) for pair in zip(tests.inputs, tests.outputs, strict=True)]

    def _calls(self, sandbox: Sandbox, code: str, tests: Calls) -> list[_Test]:
        def test(arguments: str, expected: str) -> _Test:
            def run(left_s: float) -> Result:
                (reply,) = sandbox.call(code, tests.name, [json.loads(arguments)], wall_s=left_s)
                if reply.outcome == "error":
                    raise SandboxFailed(reply.reason)
                if not reply.ok:
                    return Result(False, reply.exception or reply.reason)
                wanted = json.loads(expected)
                alternatives = [wanted, *(wanted if _wrapped(wanted) else ())]
                right = any(
                    same_value(reply.value, each, self.options.compare, self.options.tolerance)
                    for each in alternatives
                )
                return Result(right, "" if right else _difference(shown(reply.value), expected))

            return run

        return [test(*pair) for pair in zip(tests.inputs, tests.outputs, strict=True)]


_Test = Callable[[float], Result]
"""A test, ready to run within so many seconds."""


def _wrapped(wanted: object) -> bool:
    """APPS writes an expected value `[value]`."""
    return isinstance(wanted, list) and len(wanted) == 1


def _checked(sandbox: Sandbox, checker: str, given: str, expected: str, got: str) -> bool:
    """The verdict of a dataset's own `check(input, expected, output)`."""
    (reply,) = sandbox.call(checker, "check", [(given, expected, got)])
    if not reply.ok:
        raise SandboxFailed(f"the checker failed: {reply.exception or reply.reason}")
    return reply.value is True


def _with_indentation(sample: Sample) -> str:
    """The answer with the spaces before its first word, which a function's body needs."""
    answer, whole = sample.answer_text, sample.completion_text
    at = whole.rfind(answer) if answer else -1
    if at < 0:
        return answer
    start = at
    while start > 0 and whole[start - 1] in " \t":
        start -= 1
    return whole[start:at] + answer


def _difference(got: str, expected: str) -> str:
    return f"expected {_shortened(expected)}, got {_shortened(got)}"


def _one_line(text: str) -> str:
    """Without line ends and whatever else does strange things to a log."""
    return "".join(c if c.isprintable() else " " for c in text[:1000]).strip()


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""


# --- one sandbox a process and set of limits ---------------------------------------

_sandboxes: dict[object, Sandbox] = {}
_lock = threading.Lock()


def _sandbox(wall_s: float, memory_mb: int, preload: tuple[str, ...], unsafe: bool) -> Sandbox:
    """The sandbox for these limits, made at its first use. It replaces its own dead
    parts. Raises SandboxFailed when this machine cannot isolate."""
    from grpo_sandbox import Limits, Sandbox, SandboxError

    key = (wall_s, memory_mb, preload, unsafe)
    with _lock:
        if key not in _sandboxes:
            try:
                limits = Limits(wall_s=wall_s, memory_mb=memory_mb)
                _sandboxes[key] = Sandbox(limits, preload=preload, unsafe=unsafe)
            except (SandboxError, ModuleNotFoundError) as error:
                raise SandboxFailed(str(error)) from error
        return _sandboxes[key]


@atexit.register
def _close() -> None:
    for sandbox in _sandboxes.values():
        sandbox.close()
