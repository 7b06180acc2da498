"""The reward itself: installed and found, options, samples of every shape."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from grpo_core import Outcome, Reward, Sample, Tags, load_plugins
from grpo_reward_format import Format

GOOD = "<think>48/2 is 24.</think><answer>\\boxed{24}</answer>"


def judge(completion, prompt="What is 48/2?", *, sample=None, **options):
    return Format(**options).score(Sample(prompt, completion, **(sample or {})))


def test_is_installed_and_found():
    entry = load_plugins().rewards["format"]
    assert entry.plugin is not None and entry.plugin.distribution == "grpo-reward-format"
    assert entry().score(Sample("p", GOOD)).value == 1.0


def test_importing_it_is_cheap():
    code = "import sys, grpo_reward_format; print(sorted({'torch', 'numpy', 'sympy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_well_formed_and_not():
    good = judge(GOOD)
    assert (good.value, good.outcome) == (1.0, Outcome.scored)
    assert good.reason == "well formed: thinking of 11 characters, answer of 10"
    bad = judge(GOOD + " Bye")
    assert (bad.value, bad.outcome) == (0.0, Outcome.scored)
    assert bad.reason == 'text after </answer>, at line 1, character 55: "Bye"'


def test_a_prompt_that_ends_with_the_tag_opened_it():
    rest = GOOD.removeprefix("<think>")
    assert judge(rest).value == 0.0
    assert judge(rest, prompt="What is 48/2?\n<think>\n").value == 1.0
    assert judge(rest, sample={"prefilled": True}).value == 1.0
    assert judge(rest, prefilled=True).value == 1.0
    assert judge(GOOD, prompt="Think: <think>", prefilled=False).value == 1.0


def test_tag_names_come_from_the_sample_unless_an_option_says_otherwise():
    text = "<reason>a</reason><final>b</final>"
    assert judge(text, sample={"tags": Tags("reason", "final")}).value == 1.0
    assert judge(text, think="reason", answer="final").value == 1.0
    assert (
        judge(GOOD, sample={"tags": Tags("reason", "final")}, think="think", answer="answer").value
        == 1.0
    )


def test_the_last_assistant_message_is_judged():
    turns = [
        {"role": "assistant", "content": "no format here"},
        {"role": "tool", "content": "24"},
        {"role": "assistant", "content": [{"type": "text", "text": GOOD}]},
        {"role": "user", "content": "thanks"},
    ]
    assert judge(turns).value == 1.0
    assert judge([]).reason == "the completion is empty"
    assert judge([{"role": "assistant", "content": None}]).value == 0.0


def test_thinking_in_reasoning_content_is_already_split_off():
    def message(thinking, content):
        return [{"role": "assistant", "reasoning_content": thinking, "content": content}]

    assert judge(message("48/2 is 24.", "<answer>24</answer>")).value == 1.0
    assert judge(message("48/2 is 24.", "24")).value == 0.0
    assert judge(message("48/2 is 24.", "24"), answer="").value == 1.0
    assert judge(message("a", GOOD)).reason.startswith("<think> at line 1, character 1")
    for blank in (None, "", " \n"):  # a server that split nothing off
        assert judge(message(blank, GOOD)).value == 1.0
        assert judge(message(blank, "<answer>24</answer>")).value == 0.0


def test_partial_credit_per_tag_stays_below_full_marks():
    assert judge("no tags", partial=0.4).value == 0.0
    assert judge("<think>a</think>24", partial=0.4).value == pytest.approx(0.2)
    late = judge(GOOD + " Bye", partial=0.4)
    assert late.value == pytest.approx(0.4)
    assert late.reason.endswith("; 4 of 4 tags in place")
    assert judge(GOOD * 50, partial=0.4).value == 0.0  # repeating tags earns nothing
    assert judge(GOOD, partial=0.4).value == 1.0


def test_the_answer_must_hold_a_box():
    assert judge(GOOD, answer_contains=r"\boxed{*}").value == 1.0
    bad = judge("<think>\\boxed{24}</think><answer>24</answer>", answer_contains=[r"\boxed{*}"])
    assert bad.value == 0.0
    assert bad.reason == r'the answer at line 1, character 34 has no \boxed{*}: "24"'


def test_a_cut_off_completion_says_so():
    cut = judge("<think>on and on", sample={"truncated": True})
    assert (
        cut.reason == "<think> at line 1, character 1 is never closed (the completion was cut off)"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"think": "<think>"}, "is no tag name"),
        ({"think": ""}, "needs a name"),
        ({"think": "a", "answer": "a"}, "need two names"),
        ({"partial": 1.0}, "less than 1"),
        ({"answer_contains": ["*"]}, "asks for nothing"),
        ({"strict": True}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Format(**options)


@pytest.mark.parametrize(
    "completion",
    ["<think>" * 20_000, "<" * 200_000, "<think>" + "</think" * 20_000, GOOD * 5_000, "\x00" * 100_000,
     "<think>a</think><answer>" + "</answer" * 20_000, "\ud800<think>", "<think>" + " " * 200_000],
)  # fmt: skip
def test_hostile_completions_get_a_verdict_of_one_line(completion):
    score = judge(completion, partial=0.5, answer_contains=r"\boxed{*}")
    assert score.outcome is Outcome.scored
    assert score.value is not None and 0.0 <= score.value < 1.0
    assert "\n" not in score.reason and len(score.reason) < 300


def test_declares_what_a_host_relies_on():
    assert issubclass(Format, Reward)
    assert (Format.range, Format.isolation, Format.deterministic) == ((0.0, 1.0), "inline", True)
