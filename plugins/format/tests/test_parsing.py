"""Taking a completion apart: what is well formed, what is wrong first, and where."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_reward_format.parsing import Layout, parse, tags_in_place, visible

GOOD = "<think>48/2 is 24.</think>\n<answer>\\boxed{24}</answer>"


def fault(text: str, **layout: object) -> str:
    found = parse(text, Layout(**layout)).fault  # type: ignore[arg-type]
    return "" if found is None else found


def test_a_well_formed_completion_comes_apart():
    parsed = parse(GOOD, Layout())
    assert parsed.fault is None
    assert (parsed.thinking, parsed.answer) == ("48/2 is 24.", "\\boxed{24}")
    assert GOOD[parsed.answer_at :].startswith("\\boxed")
    assert parsed.in_place == 4


@pytest.mark.parametrize(
    "text",
    [
        f"\n  {GOOD}\n\t ",
        "<think>a</think><answer>b</answer>",
        "<think>1 < 2 and <b>bold</b></think><answer>x</answer>",
        "<think>a</think>\u00a0\u2003\u3000<answer>b</answer>",  # white space, whatever its width
        "<think>\na\n</think>\r\n\r\n<answer>\nb\n</answer>",
    ],
)
def test_white_space_outside_and_other_markup_inside_are_fine(text):
    assert fault(text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the completion is empty"),
        (" \n\u200b", "the completion is empty"),
        ("The answer is 24.", 'text before <think>, which is missing; it stands at line 1, character 1: "The answer is 24."'),
        (f"Sure!\n{GOOD}", 'text before <think>, at line 1, character 1: "Sure!"'),
        (f"\n\n  So: {GOOD}", 'text before <think>, at line 3, character 3: "So:"'),
        ("<answer>24</answer>", "<answer> at line 1, character 1, where <think> should come next"),
        ("<think>a", "<think> at line 1, character 1 is never closed"),
        ("<think> \n\t</think><answer>b</answer>", "the thinking is empty, at line 1, character 8"),
        ("<think>\u200b\ufeff</think><answer>b</answer>", "the thinking is empty, at line 1, character 8"),
        ("<think>a</think><answer>\u3164</answer>", "the answer is empty, at line 1, character 25"),
        ("<think>a</think>", "<answer> is missing"),
        ("<think>a</think> so <answer>b</answer>", 'text between </think> and <answer>, at line 1, character 18: "so"'),
        ("<think>a</think>24", 'text between </think> and <answer>, which is missing; it stands at line 1, character 17: "24"'),
        ("<think>a</think>\n<answer>b", "<answer> at line 2, character 1 is never closed"),
        ("<think>a</think><answer>b</think></answer>", "</think> at line 1, character 26, where </answer> should come next"),
        ("<think>a<answer>b</answer></think><answer>b</answer>", "<answer> at line 1, character 9, where </think> should come next"),
        ("<think>a<think>b</think></think><answer>b</answer>", "<think> at line 1, character 9, where </think> should come next"),
        (f"{GOOD}\nI hope this helps.", 'text after </answer>, at line 3, character 1: "I hope this helps."'),
        (f"{GOOD}\n<answer>25</answer>", "<answer> at line 3, character 1, after the end of the answer"),
        (f"{GOOD}{GOOD}", "<think> at line 2, character 28, after the end of the answer"),
        ("<answer>b</answer><think>a</think>", "<answer> at line 1, character 1, where <think> should come next"),
        ("<Think>a</Think><answer>b</answer>", 'text before <think>, at line 1, character 1: "<Think>a</Think>"'),
    ],
)  # fmt: skip
def test_the_first_fault_is_named_with_its_place(text, said):
    assert fault(text) == said


def test_a_prefilled_tag_is_not_expected_again():
    text = "48/2 is 24.</think><answer>24</answer>"
    assert fault(text, prefilled=True) == ""
    assert parse(text, Layout(prefilled=True)).thinking == "48/2 is 24."
    assert fault(text).startswith("</think> at line 1, character 12 closes what nothing opened; if")
    assert fault("<think>" + text, prefilled=True) == (
        "<think> at line 1, character 1, where </think> should come next"
    )
    assert fault("on and on", prefilled=True) == "<think> in the prompt is never closed"


def test_thinking_that_arrived_apart_must_be_there_and_hold_no_tags():
    assert fault("<answer>24</answer>", thinking="48/2 is 24.") == ""
    assert fault("24", thinking="48/2 is 24.").startswith("text before <answer>, which is missing")
    assert (
        fault("<answer>24</answer>", thinking="\u200b")
        == "the thinking (reasoning_content) is empty"
    )
    assert fault("<answer>24</answer>", thinking="is it\n<answer>") == (
        "<answer> inside the thinking (reasoning_content), line 2, character 1"
    )
    assert fault("<think>b</think><answer>24</answer>", thinking="a").startswith(
        "<think> at line 1"
    )


def test_without_an_answer_tag_the_rest_is_the_answer():
    layout = Layout(answer="")
    parsed = parse("<think>a</think>\n<answer>24</answer>", layout)
    assert parsed.fault is None
    assert parsed.answer == "\n<answer>24</answer>"
    assert (
        parse("<think>a</think>\n \u200b", layout).fault
        == "the answer is empty, at line 1, character 17"
    )
    assert parse("<think>a</think>24<think>b</think>", layout).fault == (
        "a second <think> at line 1, character 19"
    )


def test_other_tag_names():
    assert fault("<reason>a</reason><final>b</final>", think="reason", answer="final") == ""
    assert fault("<思考>a</思考><答え>b</答え>", think="思考", answer="答え") == ""
    # names that begin alike are kept apart by their brackets
    assert fault("<a>x</a><ab>y</ab>", think="a", answer="ab") == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [(GOOD, 4), ("", 0), ("<think>", 1), ("</answer><answer></think><think>", 1),
     ("<think><think></think><answer></answer>", 3), ("<think></think><answer>", 3)],
)  # fmt: skip
def test_tags_in_place_stand_once_and_in_order(text, count):
    assert tags_in_place(text, Layout().expected()) == count


@pytest.mark.parametrize(
    "character",
    " \n\t\r\x00\x1b\x7f\x85\u00a0\u00ad\u115f\u200b\u200e\u2028\u202e\u2060\u2800\u3000\u3164\ufe0f\ufeff\uffa0\U000e0041",
)
def test_what_nobody_sees_is_not_visible(character):
    assert visible(character * 3) == -1
    assert visible(character + "x") == 1


@given(
    st.characters(
        categories=("L", "N", "P", "S"), exclude_characters="\u115f\u1160\u2800\u3164\uffa0"
    )
)
def test_letters_digits_signs_are_visible(character):
    assert visible(character) == 0


def test_agrees_with_the_reference_on_damaged_completions(reference, damaged):
    verdicts = [(text, parse(text, Layout()).fault is None) for text in damaged(5_000, 1)]
    assert [text for text, ours in verdicts if ours != reference(text)] == []
    assert 0.2 < sum(ours for _, ours in verdicts) / len(verdicts) < 0.8


@pytest.mark.slow
def test_agrees_with_the_reference_on_a_hundred_thousand(reference, damaged):
    layouts = {prefilled: Layout(prefilled=prefilled) for prefilled in (False, True)}
    wrong = [
        (text, prefilled)
        for text in damaged(100_000, 2)
        for prefilled, layout in layouts.items()
        if (parse(text, layout).fault is None) != reference(text, prefilled=prefilled)
    ]
    assert wrong == []


TOKENS = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "x", " ", "\n", "<", "</", "\u200b"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TOKENS, max_size=12).map("".join), st.booleans())
def test_agrees_with_the_reference_on_any_string_of_tokens(reference, text, prefilled):
    assert (fault(text, prefilled=prefilled) == "") == reference(text, prefilled=prefilled)


@given(st.text(max_size=30), st.text(max_size=30))
def test_never_raises_and_always_says_something(text, thinking):
    for layout in (Layout(), Layout(prefilled=True), Layout(answer=""), Layout(thinking=thinking)):
        parsed = parse(text, layout)
        assert parsed.fault is None or parsed.fault.strip()
        assert 0 <= parsed.in_place <= len(layout.expected())


def test_what_cannot_be_printed_stays_out_of_the_reason():
    assert fault("a\ud800\x1b[2J\u202e") == (
        'text before <think>, which is missing; it stands at line 1, character 1: "a\ufffd\ufffd[2J\ufffd"'
    )
