"""How many letters are in which language."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_reward_language import count
from grpo_reward_language.languages import NAMES, find, nearest
from grpo_reward_language.scripts import SCRIPTS, letters, pieces, runs, scripts_of

ALL = [
    "ar",
    "bg",
    "bn",
    "cs",
    "da",
    "de",
    "el",
    "en",
    "es",
    "fa",
    "fi",
    "fr",
    "he",
    "hi",
    "hu",
    "id",
    "it",
    "ja",
    "ka",
    "ko",
    "mr",
    "nl",
    "pl",
    "pt",
    "ro",
    "ru",
    "sv",
    "sw",
    "ta",
    "th",
    "tr",
    "uk",
    "vi",
    "zh",
]


@pytest.mark.parametrize("code", ALL)
def test_four_sentences_of_one_language_are_wholly_in_it(reasoning, code):
    found = count(" ".join(reasoning[code]), code)
    assert found.share(code) == 1.0
    assert count(" ".join(reasoning[code])).share(code) == 1.0  # nobody said which to expect


def test_nearly_every_single_sentence_is_told(reasoning):
    wrong = [
        (s, count(s, code).described())
        for code in ALL
        for s in reasoning[code]
        if count(s, code).share(code) < 1
    ]
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("48 divided by 2 is 24.", "en"), ("48 plus 2 is 50.", "en"), ("48 minus 2 is 46.", "en"),
        ("48 times 2 is 96.", "en"), ("48 multiplied by 2 equals 96.", "en"), ("so it is 24", "en"),
        ("First, 48 divided by 2. That gives 24.", "en"), ("We compute $48/2$: 24.", "en"),
        ("48 geteilt durch 2 ist 24.", "de"), ("48 plus 2 ist 50.", "de"), ("48 minus 2 ist 46.", "de"),
        ("48 mal 2 ist 96.", "de"), ("48 durch 2 ist 24.", "de"), ("Das ergibt 24.", "de"),
        ("48 dividido por 2 es 24.", "es"), ("48 más 2 es 50.", "es"), ("48 menos 2 es 46.", "es"),
        ("48 por 2 es 96.", "es"), ("48 entre 2 es 24.", "es"),
    ],
)  # fmt: skip
def test_short_phrases_around_numbers(text, code):
    found = count(text, "en")
    assert found.by_language and found.share(code) == 1.0
    assert found.share("en") == float(code == "en")


@pytest.mark.parametrize("seed", range(4))
def test_the_share_of_a_mixture_in_different_scripts(reasoning, letters, seed):
    rng = random.Random(seed)
    for target, other in [("en", "zh"), ("ru", "en"), ("de", "ar"), ("hi", "fr"), ("ko", "es")]:
        mine, foreign = (
            rng.sample(reasoning[target], 3),
            rng.sample(reasoning[other], rng.randint(1, 4)),
        )
        true = letters(" ".join(mine)) / letters(" ".join(mine + foreign))
        text = "\n$$ x^2 = 4 $$ ".join(rng.sample(mine + foreign, len(mine + foreign)))
        assert count(text, target).share(target) == pytest.approx(true, abs=0.06)


def test_the_share_of_a_mixture_in_one_script(reasoning, letters):
    errors = []
    for target, other in [
        ("en", "de"),
        ("es", "fr"),
        ("de", "nl"),
        ("pt", "en"),
        ("ru", "bg"),
        ("it", "ro"),
        ("pl", "cs"),
    ]:
        text = " ".join(reasoning[target] + reasoning[other])
        true = letters(" ".join(reasoning[target])) / letters(text)
        errors.append(abs(count(text, target).share(target) - true))
    assert sum(errors) / len(errors) <= 0.1, errors


def test_names_and_numbers_in_a_foreign_script_are_not_counted():
    assert count("Natalia卖了48个夹子，所以一共卖了72个。", "zh").share("zh") == 1.0
    assert set(count("Мария дала John Smith 3 яблока.", "ru").by_language) == {"ru"}
    assert count("所以answer是72", "zh").by_language == {"zh": 3, "Latin script": 6}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "48/2 = 24",
        "x + y = z",
        "$\\text{total}$",
        "```\nprint(1)\n```",
        "GCD, A, B",
        "😀😀",
        "\u200b\x00",
        "\ud800",
    ],
)
def test_nothing_is_counted_where_there_are_no_words(text):
    assert count(text, "en").total == 0


def test_languages_nobody_can_tell_apart_count_as_kin():
    text = "Zato zbrajamo dva broja da dobijemo ukupan broj. Dakle, odgovor je sedamdeset dva."
    assert count(text, "hr").share("hr") == count(text, "sr").share("sr") == 1.0


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=60)
def test_any_text_is_counted_without_harm(text):
    for target in ("en", "zh", None):
        found = count(text, target, prompt=text[:50])
        assert all(n > 0 for n in found.by_language.values())
        assert 0.0 <= found.share("en") <= 1.0


def test_scripts_do_not_overlap():
    for script, own in SCRIPTS.items():
        first = own[0]
        assert scripts_of(first) == [script]
    assert scripts_of(" 48/2=24.\n\t😀") == []


def test_pieces_keep_every_letter_and_cut_at_sentences():
    text = "Wir zählen die beiden Zahlen zusammen. Then we are done with all of this here."
    cut = pieces(runs(text, "Latin", mixed=False), "Latin")
    assert [p.opens for p in cut] == [True, True]
    assert sum(p.letters for p in cut) == letters([text], "Latin")


@pytest.mark.parametrize(
    ("text", "code"),
    [("en", "en"), (" DE ", "de"), ("pt-BR", "pt"), ("zh_Hans", "zh"), ("German", "de"), ("nb", "no"),
     ("klingon", None), ("", None), ("e", None)],
)  # fmt: skip
def test_looking_a_language_up(text, code):
    assert find(text) == code
    assert code is None or code in NAMES


def test_a_mistyped_language_has_a_nearest_one():
    assert nearest("germn") == "german"


def test_what_is_asked_of_the_model_stays_short():
    for unit in ("a" * 5_000, "word ", "aa. ", "слово"):
        text = unit * 200
        (script,) = scripts_of(text)
        assert all(len(piece.text) < 700 for piece in pieces([text], script))


def test_stress_marks_do_not_change_the_script():
    text = "Мы сде\u0301лали э\u0301то за\u0301дание вме\u0301сте."
    assert set(count(text, "ru").by_language) == {"ru"}
