"""The reward on the shapes of the field's datasets, and what it says when things go wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from grpo_core import Outcome, Sample, load_plugins

with gzip.open(Path(__file__).parent / "HumanEval.jsonl.gz", "rt") as file:
    EVERY = [json.loads(line) for line in file]
# chosen for what is odd about their tests: helpers in the prompt, random inputs, imports
ODD = [EVERY[n] for n in (0, 2, 32, 38, 50, 53, 129, 162)]
MBPP = {
    "test_list": ["assert similar((3, 4), (4, 5)) == (4,)", "assert similar((1,), (2,)) == ()"],
    "test_imports": [],
    "test_setup_code": "",
}
PROGRAMS = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {
    "input_output": json.dumps({"inputs": [[1, 2], [3, 4]], "outputs": [3, 7], "fn_name": "f"})
}
ADD = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"


def test_the_plugin_is_found() -> None:
    (record,) = [p for p in load_plugins(only=["code"]).plugins if p.name == "code"]
    assert record.status == "ok" and record.rewards == ["code"]


@pytest.mark.parametrize("row", ODD, ids=lambda row: row["task_id"])
def test_humaneval_in_every_form_of_answer(judge: Any, row: dict[str, Any]) -> None:
    columns = {"test": row["test"], "entry_point": row["entry_point"]}
    body, prompt = row["canonical_solution"], row["prompt"]
    for right in (body, f"Sure!\n```python\n{prompt}{body}```\nDone.", f"```\n{body}```"):
        assert judge(right, columns, prompt).value == 1.0
    for wrong in ("    return None\n", "", "I do not know.", f"```python\n{prompt}    pass\n```"):
        assert judge(wrong, columns, prompt).value == 0.0


@pytest.mark.parametrize("answer", ["    return 2 * x", "return 2 * x", "def f(x): return 2 * x"])
@pytest.mark.parametrize(
    "prompt", ["def f(x):\n", "Complete:\n```python\ndef f(x):\n```", "Double it."]
)
def test_a_prompt_may_end_in_a_bare_head_or_hold_no_code(
    judge: Any, prompt: str, answer: str
) -> None:
    columns = {"test": "def check(candidate):\n    assert candidate(4) == 8", "entry_point": "f"}
    right = prompt != "Double it." or answer.startswith("def")
    assert judge(answer, columns, prompt).value == float(right)


def mutants(row: dict[str, Any]) -> list[str]:
    """Wrong solutions: one that returns nothing, one that always returns the same, and
    one whose every result is a little off."""
    name, whole = row["entry_point"], row["prompt"] + row["canonical_solution"]
    off = f"""
{name}_right = {name}
def {name}(*args):
    x = {name}_right(*args)
    if isinstance(x, bool): return not x
    if isinstance(x, (int, float)): return x + 1
    if isinstance(x, str): return x + "x"
    if isinstance(x, list): return x + [0]
    if isinstance(x, tuple): return x + (0,)
    if isinstance(x, dict): return {{**x, "x": 0}}
    return 0
"""
    return [row["prompt"] + "    return None\n", f"def {name}(*args): return 10**9", whole + off]


@pytest.mark.parametrize("tier", [1, 2])
def test_every_solution_of_humaneval_passes_and_every_mutant_fails(
    tier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grpo_reward_code import reward
    from grpo_sandbox import Sandbox, SandboxUnavailable

    try:
        sandbox = Sandbox(tier=tier)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    monkeypatch.setattr(reward, "_sandbox", lambda *_: sandbox)
    code = load_plugins(only=["code"]).rewards["code"]()
    with sandbox:
        for n, row in enumerate(EVERY):
            columns = {"test": row["test"], "entry_point": row["entry_point"]}
            mutant = mutants(row)[n % 3]
            for answer, value in ((row["canonical_solution"], 1.0), (f"```\n{mutant}\n```", 0.0)):
                score = code.score(Sample(row["prompt"], answer, columns))
                assert score.value == value, (row["task_id"], answer, score)  # type: ignore[union-attr]


def test_humaneval_as_chat_with_the_prompt_as_a_column(judge: Any) -> None:
    row = EVERY[0]
    columns = {key: row[key] for key in ("prompt", "test", "entry_point")}
    prompt = [{"role": "user", "content": "Complete:\n" + row["prompt"]}]
    answer = f"<think>maybe ```python\n1/0``` </think>```python\n{row['prompt']}{row['canonical_solution']}```"
    assert judge([{"role": "assistant", "content": answer}], columns, prompt).value == 1.0


def test_mbpp(judge: Any) -> None:
    right = "def similar(a, b):\n    return tuple(sorted(set(a) & set(b)))"
    assert judge(right, MBPP).value == 1.0
    half = "def similar(a, b):\n    return (4,)"
    score = judge(half, MBPP)
    assert score.value == 0.0 and "similar((1,), (2,)) returned (4,)" in score.reason
    score = judge(half, MBPP, credit="fraction")
    assert score.value == 0.5 and score.details == {"passed": 1.0, "tests": 2.0}


def test_mbpp_tests_may_need_imports_and_classes(judge: Any) -> None:
    columns = {
        "test_list": ["assert math.isclose(length(Point(3, 4)), 5.0)"],
        "test_imports": ["import math"],
        "code": "class Point: pass\ndef length(p): pass",
    }
    answer = """
class Point:
    def __init__(self, x, y): self.x, self.y = x, y
def length(p): return (p.x ** 2 + p.y ** 2) ** 0.5
"""
    assert judge(answer, columns).value == 1.0


def test_programs_on_stdin(judge: Any) -> None:
    assert judge(ADD, PROGRAMS).reason == "passed 2 of 2 tests"
    score = judge(ADD.replace("a + b", "3"), PROGRAMS)
    assert score.value == 0.0
    assert score.reason == r"test 2 of 2: expected '7\n', got '3\n'"
    assert judge(ADD.replace("a + b", "3"), PROGRAMS, credit="fraction").value == 0.5
    assert "ZeroDivisionError" in judge("1/0", PROGRAMS).reason


def test_calls(judge: Any) -> None:
    assert judge("def f(a, b): return a + b", CALLS).value == 1.0
    assert judge("class Solution:\n    def f(self, a, b): return a + b", CALLS).value == 1.0
    score = judge("def f(a, b): return str(a + b)", CALLS)
    assert score.value == 0.0 and score.reason == "test 1 of 2: expected '3', got \"'3'\""


def test_a_custom_checker_runs_in_the_sandbox(judge: Any) -> None:
    checker = (
        "def check(given, expected, got): return sorted(got.split()) == sorted(expected.split())"
    )
    columns = {"inputs": [""], "outputs": ["a b"], "checker": checker}
    assert judge("print('b a')", columns).value == 1.0
    assert judge("print('b')", columns).value == 0.0
    broken = judge("print('b')", {**columns, "checker": "def check(*a): return 1/0"})
    assert broken.outcome is Outcome.error and "ZeroDivisionError" in broken.reason


@pytest.mark.parametrize(
    ("options", "answer", "value"),
    [
        ({"compare": "tokens"}, "print(1, end='  '); print(2)", 1.0),
        ({"compare": "exact"}, "print('1 2 ')", 0.0),
        ({"tolerance": 0.01}, "print('1.001 2')", 1.0),
        ({"require_block": True}, "print('1 2')", 0.0),
        ({"block": "first"}, "```\nprint('1 2')\n```\n```\n1/0\n```", 1.0),
        ({"block": "last"}, "```\nprint('1 2')\n```\n```\n1/0\n```", 0.0),
        ({"block": "all"}, "```\nx = '1 2'\n```\n```\nprint(x)\n```", 1.0),
        ({"tag": "python"}, "```py\nprint('1 2')\n```\n```sh\nls\n```", 1.0),
    ],
)
def test_options(judge: Any, options: dict[str, Any], answer: str, value: float) -> None:
    assert judge(answer, {"inputs": [""], "outputs": ["1 2"]}, **options).value == value


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "no tests"),
        ({"test": "", "entry_point": "f"}, "no tests"),
        ({"test_list": []}, "no tests"),
        ({"test_list": ["assert 1 == 1"]}, "calls no function"),
        ({"test_list": ["assert f("]}, "no Python"),
        ({"test_list": [3]}, "list of strings"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs but 0 outputs"),
        ({"inputs": [], "outputs": []}, "0 inputs"),
        ({"input_output": "{"}, "no JSON"),
        ({"input_output": "[]"}, "no JSON object"),
        ({"inputs": [1], "outputs": ["1"]}, "not text"),
    ],
)
def test_a_sample_without_tests_abstains(judge: Any, columns: dict[str, Any], why: str) -> None:
    score = judge(ADD, columns)
    assert score.outcome is Outcome.abstained and why in score.reason


def test_tests_that_are_broken_are_an_error(judge: Any) -> None:
    columns = {
        "test": "def check(candidate):\n    assert candidate(1) == missing",
        "entry_point": "f",
    }
    score = judge("def f(x): return x", columns)
    assert score.outcome is Outcome.error and "NameError" in score.reason


def test_a_program_that_never_ends_is_wrong_and_costs_its_deadline_only(judge: Any) -> None:
    columns = {"inputs": [""] * 50, "outputs": ["x"] * 50}
    score = judge("while True: pass", columns, wall_s=0.3)
    assert score.value == 0.0 and "did not end within 0.3 s" in score.reason
    score = judge("while True: pass", columns, wall_s=0.3, budget_s=0.6, credit="fraction")
    assert score.value == 0.0 and score.details["tests"] == 50


def test_equal_programs_in_a_batch_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_sandbox import Sandbox

    runs = []
    run = Sandbox.run
    monkeypatch.setattr(Sandbox, "run", lambda *a, **k: runs.append(a) or run(*a, **k))
    code = load_plugins(only=["code"]).rewards["code"]()
    samples = [
        Sample("?", text, {"inputs": ["1 2"], "outputs": ["3"]})
        for text in (ADD, "Again: \n" + ADD, "print(4)", ADD)
    ]
    scores = code.score_batch(samples)
    assert [score.value for score in scores] == [1.0, 1.0, 0.0, 1.0]  # type: ignore[union-attr]
    assert len(runs) == 2


def test_a_machine_that_cannot_isolate_is_an_error(
    judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grpo_reward_code import reward
    from grpo_sandbox import SandboxUnavailable

    def refuse(*_: object, **__: object) -> None:
        raise SandboxUnavailable("no isolation can be had here")

    monkeypatch.setattr("grpo_sandbox.Sandbox", refuse)
    monkeypatch.setattr(reward, "_sandboxes", {})
    score = judge(ADD, PROGRAMS)
    assert score.outcome is Outcome.error and "no isolation" in score.reason


@pytest.mark.parametrize(
    "cheat",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "print('passed')",
        "import sys; sys.stdout.write('3')",
        "while True: print('3')",
    ],
)
def test_cheats_on_programs_lose(judge: Any, cheat: str) -> None:
    assert judge(f"```python\n{cheat}\n```", PROGRAMS).value == 0.0


def test_reasons_are_one_printable_line(judge: Any) -> None:
    columns = {"test_list": ["assert f(1) == 2"]}
    score = judge("def f(x): raise ValueError('a\\nb\\x1b[2J\\x00c')", columns)
    assert score.reason.endswith("f(1) raised ValueError: a b [2J c") and score.reason.isprintable()
    score = judge("def f(x): return 10 ** 5000", {"inputs": [[1]], "outputs": [2], "fn_name": "f"})
    assert score.reason == "test 1 of 1: expected '2', got 'a int too long to write'"


def test_importing_the_plugin_is_cheap() -> None:
    import subprocess
    import sys

    heavy = "import sys, grpo_reward_code; sys.exit('grpo_sandbox' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
