"""Functions called with plain values, and candidates checked by asserts."""

import pytest

from grpo_sandbox import Outcome, Sandbox, Verdict


def test_calls_reply_in_order(sandbox: Sandbox) -> None:
    replies = sandbox.call("def f(x, y=1): return x / y", "f", [(1, 2), (1, 0), (3,)])
    assert [(r.value, r.exception) for r in replies] == [
        (0.5, None),
        (None, "ZeroDivisionError: division by zero"),
        (3.0, None),
    ]
    assert [r.ok for r in replies] == [True, False, True]


PLAIN = [
    None, True, 0, -(2**70), 1.5, float("inf"), "é\ud800\x00", b"\x00\xff", [1, [2]], (1, (2,)), {},
    {1: "a", (2, 3): [None]}, {1, 2}, frozenset({"x"}), 2 + 3j, range(2, 9, 3), bytearray(b"x"),
]  # fmt: skip


def test_plain_values_cross_unchanged(sandbox: Sandbox) -> None:
    replies = sandbox.call("def f(x): return x", "f", [(value,) for value in PLAIN])
    assert [reply.value for reply in replies] == PLAIN
    assert [type(reply.value) for reply in replies] == [type(value) for value in PLAIN]


def test_a_value_that_is_not_plain_is_no_value(sandbox: Sandbox) -> None:
    (reply,) = sandbox.call("class X: pass\ndef f(): return X()", "f", [()])
    assert not reply.ok and "X is not a plain value" in str(reply.exception)
    with pytest.raises(ValueError, match="not a plain value"):
        sandbox.call("def f(x): return x", "f", [(object(),)])


def test_keyword_arguments_and_methods_of_solution(sandbox: Sandbox) -> None:
    source = "class Solution:\n    def f(self, x, y): return x - y"
    (reply,) = sandbox.call(source, "f", [(5,)], kwargs=[{"y": 3}])
    assert reply.value == 2


@pytest.mark.parametrize(
    ("source", "outcome", "why"),
    [
        ("def g(): pass", "finished", "defines no 'f'"),
        ("def f(:", "finished", "SyntaxError"),
        ("1/0", "finished", "ZeroDivisionError"),
        ("def f(x):\n while x: pass", "timeout", "did not end"),
        ("import sys\ndef f(x):\n if x: sys.exit(0)", "finished", "ended itself"),
        ("import os\ndef f(x):\n if x: os._exit(0)", "finished", "ended itself"),
        ("import ctypes\ndef f(x):\n if x: ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("def f(x):\n if x: return 'x' * 10**9", "memory", "MemoryError"),
        ("import os\ndef f(x):\n if x: os.fork()", "denied", "denied by the sandbox"),
    ],
)
def test_one_reply_a_call_whatever_happens(
    sandbox: Sandbox, source: str, outcome: str, why: str
) -> None:
    replies = sandbox.call(source, "f", [(0,), (1,)], wall_s=0.5)
    assert len(replies) == 2
    assert replies[1].outcome == outcome and not replies[1].ok, replies
    assert why in replies[1].reason
    if "def f(x)" in source:
        assert replies[0].ok


CHECK = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert candidate(-1, 1) == 0
"""


def test_a_right_candidate_passes(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def add(a, b): return a + b", CHECK, "add")
    assert verdict.passed and verdict.outcome == "finished" and verdict.calls == 2


def test_a_wrong_one_fails_and_the_reason_says_where(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def add(a, b): return a * b - 1", CHECK, "add")
    assert not verdict.passed and verdict.outcome == "finished"
    assert verdict.reason == ("line 4: assert candidate(-1, 1) == 0: add(-1, 1) returned -2")


@pytest.mark.parametrize(
    ("candidate", "outcome", "why"),
    [
        ("def add(a, b): raise ValueError('no')", "finished", "raised ValueError: no"),
        ("def other(): pass", "finished", "defines no 'add'"),
        ("def add(a, b)", "finished", "did not load: SyntaxError"),
        ("import sys; sys.exit()", "finished", "its process ended"),
        ("def add(a, b):\n while True: pass", "timeout", "did not end"),
        ("while True: pass", "timeout", "did not end"),
        ("def add(a, b): return bytearray(10**9)", "memory", "MemoryError"),
        ("import ctypes\ndef add(a, b): ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("import os\ndef add(a, b): os.system('ls')", "denied", "denied"),
    ],
)
def test_how_a_candidate_fails(sandbox: Sandbox, candidate: str, outcome: str, why: str) -> None:
    verdict = sandbox.check(candidate, CHECK, "add", wall_s=0.5)
    assert not verdict.passed
    assert verdict.outcome == outcome and why in verdict.reason, verdict


@pytest.mark.parametrize(
    ("tests", "setup", "why"),
    [
        ("def check(c", "", "cannot be set up: SyntaxError"),
        (CHECK, "1/0", "cannot be set up: ZeroDivisionError"),
        ("assert helper(1) == 1", "", "NameError"),
        ("def check(c):\n    import nothing_like_it", "", "ModuleNotFoundError"),
        ("def check(c): pass", "", "never called add"),
        ("assert add(lambda: 1, 2)", "", "function cannot be passed"),
    ],
)
def test_broken_tests_are_an_error_and_no_verdict(
    sandbox: Sandbox, tests: str, setup: str, why: str
) -> None:
    verdict = sandbox.check("def add(a, b): return a + b", tests, "add", setup)
    assert verdict.outcome is Outcome.error and not verdict.passed
    assert why in verdict.reason


def test_setup_helps_the_tests_and_stays_out_of_the_candidates_reach(sandbox: Sandbox) -> None:
    setup = "import math\ndef poly(x): return x * x"
    tests = "assert math.isclose(poly(root(4.0)), 4.0)"
    cheat = "import math\nmath.isclose = lambda *a: True\ndef poly(x): return 4.0\n"
    assert sandbox.check("def root(x): return x ** 0.5", tests, "root", setup).passed
    assert not sandbox.check(cheat + "def root(x): return 1", tests, "root", setup).passed


def test_asserts_without_a_check_function_and_several_names(sandbox: Sandbox) -> None:
    candidate = """
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
    def swap(self): return Pair(self.b, self.a)
    def __len__(self): return 2
    def __getitem__(self, i): return (self.a, self.b)[i]
def total(pairs): return sum(p.a + p.b for p in pairs)
def evens(n): yield from range(0, n, 2)
def fail(): raise KeyError('k')
"""
    tests = """
pair = Pair(1, 2)
assert total([pair, Pair(b=4, a=3)]) == 10
assert pair.a == 1 and pair.swap().a == 2 and len(pair) == 2 and pair[1] == 2
assert list(pair) == [1, 2]
assert list(evens(5)) == [0, 2, 4] and set(evens(3)) == {0, 2}
try:
    fail()
    assert False
except KeyError:
    pass
"""
    verdict = sandbox.check(candidate, tests, ["Pair", "total", "evens", "fail"])
    assert verdict.passed, verdict


def test_a_function_named_check_may_be_tested(sandbox: Sandbox) -> None:
    assert sandbox.check("def check(x): return x + 1", "assert check(1) == 2", "check").passed


def test_verdicts_in_bulk(sandbox: Sandbox) -> None:
    with Sandbox(sandbox.limits, workers=2, tier=sandbox.tier) as two:
        jobs = [(f"def add(a, b): return a + b + {n % 2}", CHECK, "add", "") for n in range(10)]
        verdicts: list[Verdict] = two.check_many(jobs)
        assert [v.passed for v in verdicts] == [True, False] * 5


FORGER = """
import json, os, struct
deep = []
for _ in range(900): deep = [deep]
def forge(fd, message):
    data = json.dumps(message).encode()
    try: os.write(fd, struct.pack("=I", len(data)) + data)
    except OSError: pass
def f(x):
    for message in ({"raised": deep, "kind": deep}, {"load": deep}, {"value": {"set": [[]]}}, {"value": deep}, {}):
        forge(3, message)
    return x
"""


def test_forged_replies_are_the_forgers_loss_alone(sandbox: Sandbox) -> None:
    replies = sandbox.call(FORGER, "f", [(n,) for n in range(7)])
    assert len(replies) == 7
    assert all(reply.outcome is Outcome.finished for reply in replies)
    (other,) = sandbox.call("def f(x): return x", "f", [(5,)])
    assert other.value == 5


def test_integers_too_long_to_print_are_compared_all_the_same(sandbox: Sandbox) -> None:
    candidate = "import math\ndef f(n): return math.factorial(n)"
    tests = "import math\nassert f(3000) == math.factorial(3000)\nassert f(3001) == 0"
    verdict = sandbox.check(candidate, tests, "f")
    assert verdict.reason == "line 3: assert f(3001) == 0: f(3001) returned a int"
