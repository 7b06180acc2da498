"""The layers one by one: tokens, trees, exact and numeric values, sets, units, words, shapes."""

import threading
from fractions import Fraction

import pytest

from grpo_reward_math import exact as exact_module
from grpo_reward_math.ellipsis import progression
from grpo_reward_math.equations import same_equation, solves
from grpo_reward_math.exact import exact
from grpo_reward_math.forms import wrong_form
from grpo_reward_math.gold import gold_text
from grpo_reward_math.grammar import parse
from grpo_reward_math.numeric import equal, has_value, real_value
from grpo_reward_math.readings import answer_readings, gold_readings
from grpo_reward_math.sets import as_set, describes_set, same_set
from grpo_reward_math.shapes import expand, parts, renamings, unlabel
from grpo_reward_math.tokens import MAX_TOKENS, tokenize
from grpo_reward_math.tree import Node, TooCostly, Unreadable, number
from grpo_reward_math.units import is_unit, read_unit, scale_word
from grpo_reward_math.verdict import read_gold
from grpo_reward_math.words import read_bracketed, read_choice, read_letter, read_text, same_text


def tree(text: str) -> Node:
    return parse(tokenize(text))


def kinds(text: str) -> list[str]:
    return [token.kind for token in tokenize(text)]


# --- tokens ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( \dfrac{1}{2} \right)", r"(\frac{1}{2})"),
        ("x≤3", r"x \leqslant 3"),
        ("２", "2"),
        ("10²³", "10^{23}"),
        (r"$x$", r"\(x\)"),
        ("2**3", "2^3"),
    ],
)
def test_ways_of_typing_one_sign_give_one_token(one: str, other: str) -> None:
    plain = [token._replace(spaced=False) for token in tokenize(one)]
    assert plain == [token._replace(spaced=False) for token in tokenize(other)]


def test_letters_are_variables_words_functions_or_units() -> None:
    assert kinds("abc") == ["var", "var", "var"]
    assert kinds("apples") == ["word"]
    assert kinds("sin x") == ["fn", "var"]
    assert kinds("5 km") == ["num", "word"]
    assert kinds("5 m") == ["num", "word"]
    assert kinds("5m") == ["num", "var"]
    assert kinds("3 x 10") == ["num", "*", "num"]
    assert kinds("20 sec") == ["num", "word"]
    assert kinds(r"\sec x") == ["fn", "var"]


@pytest.mark.parametrize("text", [r"\foo", "\x00", "\u202e7", "1" * 2000, "+" * (MAX_TOKENS + 2)])
def test_unknown_signs_and_endless_text_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        tokenize(text)


# --- grammar -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x + 1", "add"),
        ("2x", "mul"),
        ("-3", "neg"),
        (r"2\frac{1}{2}", "add"),
        (r"2 \cdot \frac{1}{2}", "mul"),
        ("(1, 2)", "tuple"),
        (r"\{1, 2\}", "set"),
        (r"\{x | x > 1\}", "builder"),
        ("[0,1] \\cup [2,3]", "union"),
        ("1, 2", "list"),
        ("x = 3", "rel"),
        ("1 < x < 2", "chain"),
        ("5 km", "quantity"),
        ("1:2:3", "ratio"),
        ("1:2", "div"),
        ("1011_2", "based"),
        (r"\begin{matrix} 1 \end{matrix}", "matrix"),
        ("f(x)", "call"),
        ("30^\\circ", "deg"),
        ("10\\%", "percent"),
    ],
)
def test_shapes_are_told_apart(text: str, kind: str) -> None:
    assert tree(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x +",
        "(1",
        "1)",
        "2 3",
        r"\frac{1}",
        "= 3",
        "(" * 60 + "1" + ")" * 60,
        "7" + "!" * 9,
        r"7 \text{ if } x > 1",
        r"\begin{foo} 1 \end{foo}",
        "1" + "/2" * 60,
        "(" * 30 + "1" + "/1/1/1/1/1/1/1)" * 30,
        "7!!",
    ],
)
def test_what_is_no_answer_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        tree(text)


def test_a_condition_on_a_parameter_is_dropped_and_no_other() -> None:
    assert tree(r"k\pi, k \in \mathbb{Z}") == tree(r"k\pi")
    assert tree(r"2n \text{ for all integers } n") == tree("2n")
    assert tree(r"7, x \in \mathbb{R}").kind == "list"


# --- values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^{10}", 1024),
        ("2^{-2}", Fraction(1, 4)),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        ("8^{2/3}", 4),
        (r"\log_2 8", 3),
        (r"\log_2 \frac{1}{8}", -3),
        (r"\lfloor -3.5 \rfloor", -4),
        (r"\gcd(12, 18)", 6),
        ("(-1)^{1000000001}", -1),
        (r"\sqrt{2}", None),
        (r"\pi", None),
        ("1/0", None),
        ("0^0", None),
    ],
)
def test_exact_values(text: str, value: int | Fraction | None) -> None:
    assert exact(tree(text)) == value


@pytest.mark.parametrize(
    "text", ["9^{9^{9}}", "10000000!", r"\binom{10^9}{10^8}", "2^{100000}", "2^{-100000}"]
)
def test_what_would_be_long_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(TooCostly):
        exact(tree(text))


def test_work_adds_up_over_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "MAX_WORK", 2000)
    assert exact(tree("1+2+3")) == 6
    with pytest.raises(TooCostly):
        exact(tree("+".join(["1"] * 40)))


def test_numeric_equality_carries_the_digits_it_needs() -> None:
    root = tree(r"\sqrt{2}")
    assert equal(root, tree("2^{1/2}"))
    assert not equal(root, tree(r"\sqrt{2}+10^{-200}"))
    with pytest.raises(TooCostly):
        equal(root, tree(r"\sqrt{2}+10^{-5000}"))


def test_functions_are_compared_on_both_sides_of_zero() -> None:
    assert not equal(tree("|x|"), tree("x"))
    assert equal(tree(r"\ln(ab)"), tree(r"\ln a + \ln b"))  # where both are defined
    assert equal(tree("(-1)^{2n}"), tree("1"))
    assert not equal(tree("(-1)^{n}"), tree("1"))


def test_values_that_are_none() -> None:
    assert not has_value(tree("1/0"))
    assert has_value(tree(r"\infty"))
    assert real_value(tree(r"\sqrt{-1}")) is None
    assert real_value(tree("1/4")) == 0.25


# --- sets, units, words --------------------------------------------------------------


def test_sets_are_equal_when_their_members_are() -> None:
    def members(text: str) -> object:
        found = as_set(tree(text))
        assert found is not None
        return found

    assert same_set(members(r"[0,1) \cup [1,2]"), members("[0,2]"))  # type: ignore[arg-type]
    assert not same_set(members(r"[0,1) \cup (1,2]"), members("[0,2]"))  # type: ignore[arg-type]
    assert same_set(members(r"(0,9) \cap (3,12)"), members("3<x<9"))  # type: ignore[arg-type]
    assert describes_set(tree("[1,2)"))
    assert not describes_set(tree("(1,2)"))
    assert as_set(tree("x^2 < 4")) is None


def test_units_have_scale_and_dimension() -> None:
    assert read_unit((("km", 1),)).scale == 1000
    assert read_unit((("cm", 2),)) == read_unit((("square", 1), ("centimeters", 1)))
    assert read_unit((("mph", 1),)) == read_unit((("miles", 1), ("per", 1), ("hour", 1)))
    assert read_unit((("apples", 1),)) == read_unit((("green", 1), ("apple", 1)))
    assert read_unit((("m", 1),)) != read_unit((("m", 2),))
    assert scale_word("Thousand") == 1000
    assert is_unit("Hz")
    assert not is_unit("x")
    for word in ("not", "maybe", "hundred", "is"):
        with pytest.raises(Unreadable):
            read_unit(((word, 1),))


@pytest.mark.parametrize(
    "gold", ["odd", "Evelyn", r"\text{no solution}", "New York City", "Tuesday", "6:30 PM", "Yes"]
)
def test_textual_golds(gold: str) -> None:
    assert read_text(gold) is not None


@pytest.mark.parametrize("gold", ["x", "abc", "2x", "see the figure", "to be shown", "x is 7"])
def test_golds_that_are_no_text(gold: str) -> None:
    assert read_text(gold) is None


def test_the_core_of_a_sentence_is_an_answer() -> None:
    gold = read_text("Petya will receive the last token.")
    assert gold is not None
    assert same_text(gold, "Petya")
    assert not same_text(gold, "token")
    assert not same_text(gold, "Vasya")
    assert not same_text(gold, "not Petya")


def test_choice_letters() -> None:
    assert read_letter(r"\text{(C)}") == "C"
    assert read_letter("CD") is None
    assert read_choice("C) 12") == "C"
    assert read_choice("A or C") is None
    assert read_bracketed("(B) 12") == ("B", "12")
    assert read_bracketed("x") is None


# --- shapes and forms ------------------------------------------------------------------


def test_labels() -> None:
    assert unlabel(tree("x = 3")) == (number(3), "x", ())
    assert unlabel(tree("3 = x")).label == "x"
    assert unlabel(tree("f(t) = 3")) == (number(3), "f", ("t",))
    assert unlabel(tree("x = x + 1")).label == ""
    assert unlabel(tree("x + 1 = 7")).label == ""
    assert unlabel(tree("|7| = 8")).label == ""


def test_several_values() -> None:
    assert len(parts(tree(r"1, 2 \pm \sqrt{3}"))) == 3
    assert [part.label for part in parts(tree("x = y = 3"))] == ["x", "y"]
    assert len(expand(tree(r"(\pm 1, \pm 2)"))) == 4


def test_renaming_is_for_parameters_alone() -> None:
    assert renamings(tree(r"k\pi"), tree(r"n\pi")) == [{"n": "k"}]
    assert renamings(tree("2Cx"), tree("2cx")) == [{"c": "C"}]
    assert renamings(tree("x + 1"), tree("y + 1")) == []


def test_equations() -> None:
    assert same_equation(tree("x - 2y = 0"), tree("2x = 4y"))
    assert not same_equation(tree("x - 2y = 0"), tree("x = 4y"))
    assert solves(tree("y + 1 = 2x"), tree("2x - 1"))
    assert not solves(tree("y + 1 = 2x"), tree("2x + 1"))
    assert not solves(tree("y^2 = x"), tree(r"\sqrt{x}"))


def test_forms() -> None:
    assert wrong_form(tree("24"), tree("24"), "value") == ""
    assert wrong_form(tree("24"), tree("20+4"), "value")
    assert wrong_form(tree("x"), tree("2x-x"), "any") == ""
    assert wrong_form(tree("x"), tree("2x-x"), "simplified")


def test_progressions_are_written_out() -> None:
    items = progression(list(tree(r"2, 4, \dots, 10").args))
    assert [item.value for item in items] == [2, 4, 6, 8, 10]


# --- golds and readings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24, "24"),
        (24.0, "24"),
        (0.1, "0.1"),
        ("a\n#### 1,000", "1,000"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (["7"], "7"),
        (True, "True"),
        (float("inf"), None),
        (None, None),
        ("  ", None),
        (10**2000, None),
    ],
)
def test_gold_columns(value: object, text: str | None) -> None:
    assert gold_text(value) == text


def test_a_gold_may_say_several_things_an_answer_only_one() -> None:
    assert len(gold_readings(r"x = \frac{48}{2} = 24")) == 2
    assert len(gold_readings("1,234")) == 2
    with pytest.raises(Unreadable):
        answer_readings("x = 48/2 = 24", chains=False, approximate=False)


def test_golds_are_read_once() -> None:
    assert read_gold("x^2+1") is read_gold("x^2+1")


def test_sums_are_worked_out_in_any_thread() -> None:
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.append(read_gold(r"\sum_{k=1}^{12} k^2").unreadable)
    )
    thread.start()
    thread.join()
    assert found == [""]


def test_a_sum_too_long_for_sympy_makes_the_gold_unreadable() -> None:
    assert read_gold(r"\sum_{k=1}^{10000000} \frac{1}{k}").unreadable
    assert read_gold(r"\sum_{k=1}^{9^{9^9}} k").unreadable
