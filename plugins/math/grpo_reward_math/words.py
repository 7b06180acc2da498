"""Textual golds: names, "odd", "no solution", a choice letter, a short sentence.

Words are compared as words: case, articles, punctuation and `\\text{}` do not count,
everything else does. Of a sentence its core is an answer too: the subject of
"Petya will win", the predicate of "The function is odd". Left out: synonyms.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from grpo_reward_math.tokens import is_word

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_FORMULA = re.compile(r"\$[^$]{1,200}\$")
_SENTENCE = re.compile(r"[A-Za-z]{2,} +[A-Za-z]{2,} .*\$.*\.\s*$", re.DOTALL)
_PLAIN = re.compile(r"[^\W\d_][^\W\d_'’.,;!?\- ]*(?:[ '’.,;!?\-]+[^\W\d_]+)*[ '’.,;!?]*")
_CHOICE = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?\s*([A-Za-z])\s*\)?\s*\}?\s*(?:[).:,]|\}|$)(.*)",
    re.DOTALL,
)
_BRACKETED = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(\s*([A-J])\s*\)\s*\}?")
_words = str.split
_NO_GOLD = frozenset(
    _words(
        "see below above solution answer figure given not unclear missing tbd varies diagram picture omitted proof"
    )
)
_DATE = re.compile(
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december)"
    r" [0-9]{1,2}(?:st|nd|rd|th)?(?:,? [0-9]{4})?",
    re.IGNORECASE,
)
_TIME = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_LETTERED = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*\(?\s*([A-E])\s*\)\s*\}|\(([A-E])\)\s|([A-E])\)\s)(.+)",
    re.DOTALL,
)
_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_ARTICLES = frozenset(("a", "an", "the"))
_NO_SUBJECT = frozenset(
    _words(
        "the a an it he she they we you there this that these those all any some every each no not none if when "
        "only both either neither such let since because for yes one"
    )
)
_NEGATIONS = frozenset(_words("not no never neither nor none cannot n't without except"))
_NOTHING = frozenset(
    (
        "no solution",
        "no solutions",
        "no real solution",
        "no real solutions",
        "none",
        "empty set",
        "no such number",
        "no such numbers",
        "does not exist",
        "no answer exists",
    )
)

_NO_THING = re.compile(
    r"(?:there (?:is|are|exists?) )?no(?: (?:such|real|integer|positive|rational|other))*"
    r" (?:solutions?|roots?|numbers?|values?|functions?|integers?|pairs?|triples?)(?: exists?)?"
)

MAX_WORDS = 12


class Text(NamedTuple):
    """A textual gold: its words, and shorter ways to say it."""

    words: str
    cores: frozenset[str]


def read_text(text: str, *, force: bool = False) -> Text | None:
    """A textual gold, or None when it is not one. Without `force`, only what clearly is:
    words in `\\text{}`, one or two plain words or a name, or a sentence with a core."""
    plain = _unwrapped(_FORMULA.sub("it", text) if _SENTENCE.search(text) else text)
    if time := _time(plain):
        return Text(time, frozenset())
    words = normal_words(plain)
    if not words:
        return None
    if force:
        return Text(" ".join(words), _cores(plain, words))
    if len(words) > 3 * MAX_WORDS:
        return None
    cores = _cores(plain, words)
    if cores:
        return Text(" ".join(words), cores)
    if _DATE.fullmatch(plain.strip()):
        return Text(" ".join(words), frozenset())
    if not _PLAIN.fullmatch(plain.strip()):
        return None
    if _NO_THING.fullmatch(" ".join(words)):
        return Text(" ".join(words), frozenset())
    if not _NO_GOLD.isdisjoint(words) and " ".join(words) not in _NOTHING:
        return None
    wrapped = plain != text.strip("$ ") and "\\" in text
    if len(words) == 1 and len(words[0]) == 1:
        return None
    if len(words) == 1 and not wrapped and not is_word(words[0]) and not _is_short_word(words[0]):
        return None
    limit = MAX_WORDS if wrapped else 3 if plain.istitle() or " ".join(words) in _NOTHING else 2
    if len(plain.split()) <= limit:
        return Text(" ".join(words), frozenset())
    return None


def same_text(gold: Text, answer: str) -> str:
    """Why an answer says what a textual gold says; empty when it does not."""
    plain = _unwrapped(answer)
    said = _time(plain) or " ".join(normal_words(plain))
    if says_nothing(answer) and (gold.words in _NOTHING or _NO_THING.fullmatch(gold.words)):
        return "there is nothing, both say"
    if not said:
        empty = answer.replace("$", "").strip() in ("\\emptyset", "\\varnothing", "∅", "\\{\\}")
        return "there is nothing, both say" if empty and gold.words in _NOTHING else ""
    if said == gold.words:
        return "the same words"
    if said in gold.cores:
        return "what the gold sentence says"
    return ""


def says_nothing(answer: str) -> bool:
    """Whether an answer says that there is no solution."""
    said = " ".join(normal_words(_unwrapped(answer)))
    return said in _NOTHING or _NO_THING.fullmatch(said) is not None


def _time(text: str) -> str:
    """`6:30 P.M.` as "6:30 pm"; empty for what is no time of day. Without "pm", `9:30` is
    one and `3:10` a ratio: nobody gives a ratio that is not in lowest terms as a gold."""
    match = _TIME.fullmatch(text.strip())
    if match:
        return f"{int(match[1])}:{match[2] or '00'} {match[3].lower()}m"
    match = _CLOCK.fullmatch(text.strip())
    if match is None or (math.gcd(int(match[1]), int(match[2])) == 1):
        return ""
    return f"{int(match[1])}:{match[2]}"


def normal_words(text: str) -> list[str]:
    """Lower-case words without articles; empty when there are symbols among them."""
    if re.search(r"[\\^_={}<>+*/|]", text):
        return []
    return [w for w in (m[0].lower() for m in _WORDS.finditer(text)) if w not in _ARTICLES] or [
        m[0].lower() for m in _WORDS.finditer(text)
    ]


def read_bracketed(text: str) -> tuple[str, str] | None:
    """Letter and text of a gold such as `(C)` or `(C) 12`; None for anything else."""
    text = text.strip().strip("$").strip().rstrip(".")
    if match := _BRACKETED.fullmatch(text):
        return match[1], ""
    match = _LETTERED.fullmatch(text)
    return (match[1] or match[2] or match[3], match[4].strip()) if match else None


def read_choice(text: str) -> str | None:
    """The letter that begins a multiple-choice answer, such as "C) 12"; None when there
    is none, or when several letters are named."""
    match = _CHOICE.fullmatch(text.strip().strip("$").strip().rstrip("."))
    if match is None:
        return None
    letter, rest = match[1].upper(), match[2]
    others = re.findall(r"(?<![A-Za-z\\])([A-J])(?![A-Za-z])", rest)
    hedged = re.search(r"\b(?:or|and|not|if|but|unless|maybe|neither|either)\b", rest)
    return None if hedged or any(other != letter for other in others) else letter


def choice_text(text: str) -> str:
    """What follows the letter of a multiple-choice answer; empty when nothing does."""
    match = _CHOICE.fullmatch(text.strip().strip("$").strip().rstrip("."))
    return match[2].strip().strip("}").strip() if match else ""


def read_letter(text: str) -> str | None:
    """A choice letter that stands alone, with or without brackets."""
    letter = _unwrapped(text).rstrip(".").strip()
    if letter.startswith("(") and letter.endswith(")"):
        letter = letter[1:-1].strip()
    return letter.upper() if len(letter) == 1 and letter.isascii() and letter.isalpha() else None


def _unwrapped(text: str) -> str:
    text = text.replace("$", " ").replace("\\ ", " ").replace("~", " ").strip()
    for _ in range(3):
        changed = _WRAPPER.sub(r"\1", text)
        if changed == text:
            break
        text = changed
    return text.strip()


def _is_short_word(word: str) -> bool:
    return word in ("yes", "no", "odd", "even", "all", "ten")


def _cores(plain: str, words: list[str]) -> frozenset[str]:
    """The subject of a sentence that begins with a name, the predicate of "… is odd"."""
    sentence = plain.strip()
    if not 3 <= len(sentence.split()) <= 3 * MAX_WORDS or not sentence[:1].isupper():
        return frozenset()
    if any(word in _NEGATIONS for word in words):
        return frozenset()
    cores = set()
    raw = sentence.rstrip(".!").split()
    first = raw[0]
    if (
        sentence.endswith((".", "!"))
        and first.isalpha()
        and first.lower() not in _NO_SUBJECT
        and raw[1].lower() in _VERBS
    ):
        cores.add(first.lower())
    if raw[-2].lower() in ("is", "are", "was", "were") and raw[-1].isalpha():
        cores.add(raw[-1].lower())
    if first.rstrip(",").lower() in ("yes",) and first.endswith(","):
        cores.add("yes")
    return frozenset(cores)


_VERBS = frozenset(
    _words("will wins win is was has can gets receives finishes arrives lies must should")
)
