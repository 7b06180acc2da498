"""The calculator example's data, demonstrations and policy keep what its README promises."""

from __future__ import annotations

import importlib.util
import json
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent.parent / "examples" / "calculator"
POLICY = HERE / "policy"


def script(name: str) -> ModuleType:
    """A module of the example, which is a folder of scripts and not a package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def rows(name: str) -> dict[str, str]:
    lines = (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["expression"]: row["answer"] for row in map(json.loads, lines)}


extract = script("extract")
demonstrations = script("demonstrations")
train, test = rows("train"), rows("test")

law = settings(deadline=None, max_examples=50)  # no timing assertions
digit_strings = st.integers(0, 10**6).map(str)
numbers = st.one_of(digit_strings, st.decimals("0", "9999", places=2).map(str)).map(
    extract.canonical
)


def exactly(expression: str) -> Fraction:
    left, operator, right = demonstrations.split(expression)
    value = extract.evaluate(str(left), operator, str(right))
    assert value is not None
    return value


# --- data ---------------------------------------------------------------------------


def test_no_test_expression_is_in_train() -> None:
    assert len(train) == 6520
    assert len(test) == 2007
    assert not set(train) & set(test)


def test_every_gold_is_exact() -> None:
    wrong = [e for e, answer in (train | test).items() if exactly(e) != Fraction(answer)]
    assert wrong == []


def test_numbers_are_written_one_way() -> None:
    for expression, answer in (train | test).items():
        left, operator, right = demonstrations.split(expression)
        numeral = demonstrations.numeral
        assert expression == f"{numeral(left)}{operator}{numeral(right)}"
        assert answer == extract.canonical(answer)


def test_marks_are_read_as_the_docstring_says() -> None:
    solution = "a <<48/2=24>>24 <<18*.5=9.00>>9 <<10/3=3.33>>3 <<2+3+4=9>>9 <<1/0=0>> <<5=5>>5"
    assert list(extract.sums_in(solution)) == [("48/2", "24"), ("18*0.5", "9")]


def test_extraction_holds_out_the_test_file_but_not_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gsm8k(name: str, *marks: str) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"answer": f"<<{m}>>"}) + "\n" for m in marks))
        return str(path)

    train_file = gsm8k("train", "7*8=56", "48/2=24", "48/2=24", "30-4=26")
    test_file = gsm8k("test", "7*8=56", "15-7=8", "48/2=24.0", "12*12=144")
    monkeypatch.setattr(sys, "argv", ["", train_file, test_file, "--out", str(tmp_path)])
    extract.main()
    made = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("train", "test")]
    assert [[json.loads(row)["expression"] for row in part] for part in made] == [
        ["7*8", "30-4"],
        ["48/2", "12*12"],
    ]


@law
@given(numbers)
def test_canonical_keeps_the_value_and_is_stable(number: str) -> None:
    once = extract.canonical(f"00{number}")
    assert Fraction(once) == Fraction(number)
    assert extract.canonical(once) == once


# --- demonstrations -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "answer", "thought"),
    [
        ("48+24", "72", "by columns 8+4=12, 4+2+1=7"),
        ("156+8", "164", "by columns 6+8=14, 5+1=6"),
        ("144-86", "58", "by columns 14-6=8, 13-8=5, 1-1=0"),
        ("1000-1", "999", None),
        ("10.5-3", "7.5", "by columns 5-0=5, 10-3=7, 1-1=0"),
        ("270*60", "16200", "by columns 7*6=42, 2*6+4=16"),
        ("44*24", "1056", "by columns 44*20=880, 44*4=176"),
        ("1245/15", "83", "by parts 80 leaves 45, 3 leaves 0"),
        ("3-5", "-2", None),
    ],
)
def test_working(expression: str, answer: str, thought: str | None) -> None:
    assert demonstrations.worked_thought(expression, answer) == thought


@law
@given(st.sampled_from(sorted(train)), st.randoms(use_true_random=False))
def test_every_step_of_a_working_is_true(expression: str, random: Random) -> None:
    drawn = demonstrations.similar(expression, random)
    thought = demonstrations.worked_thought(*drawn) or ""
    for step in demonstrations.steps_of(thought):
        stated = thought.partition(f"{step}=")[2].partition(",")[0]
        assert eval(step, {"__builtins__": {}}) == int(stated)


@law
@given(st.sampled_from(sorted(train)), st.randoms(use_true_random=False))
def test_similar_sums_are_exact(expression: str, random: Random) -> None:
    drawn, answer = demonstrations.similar(expression, random)
    assert exactly(drawn) == Fraction(answer)
    assert answer == extract.canonical(answer)


@law
@given(st.sampled_from(sorted(train)), st.randoms(use_true_random=False))
def test_mistakes_are_mistakes(expression: str, random: Random) -> None:
    answer = train[expression]
    assert Decimal(demonstrations.slip(answer, random)) != Decimal(answer)
    usual = demonstrations.usual_mistake(expression, answer, random)
    assert usual is None or Decimal(usual) != Decimal(answer)


def test_no_demonstration_shows_a_test_sum() -> None:
    pytest.importorskip("torch")
    cold_start = script("cold_start")
    shown = cold_start.exercises(train, set(test), 0.67, Random(0))
    for expression, answer in islice(shown, 2000):
        assert expression not in test
        thought = demonstrations.worked_thought(expression, answer) or ""
        assert not demonstrations.steps_of(thought) & set(test)


# --- policy ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(POLICY)


@law
@given(text=st.text())
def test_tokenizer_round_trips_every_text(tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_has_a_token_a_character(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert len(tokenizer("<think>48/2 is 24.</think>")["input_ids"]) == 26
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_policy_is_small() -> None:
    assert sum(file.stat().st_size for file in POLICY.iterdir()) <= 4_000_000
