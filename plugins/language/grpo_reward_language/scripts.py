"""Cutting a text by script, and one script's words into pieces short enough to be of one language.

Unicode's blocks, without their digits and punctuation, as far as the languages
we know are written in them. Combining marks count as letters: in Hindi or Thai
a vowel is one. Left out: which language a piece is in (`identify`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

SCRIPTS = {
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua787\ufb00-\ufb06",
    "CJK": "\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff",
    "Cyrillic": "\u0400-\u0481\u0483-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    "Arabic": "\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06df-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "Devanagari": "\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff",
    "Hangul": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb",
    "Greek": "\u0370-\u0373\u0376-\u037d\u0386\u0388-\u03ff\u1f00-\u1fff",
    "Hebrew": "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05d0-\u05f2\ufb1d-\ufb4f",
    "Armenian": "\u0531-\u0556\u0559\u0561-\u0588",
    "Georgian": "\u10a0-\u10fa\u10fc-\u10ff\u1c90-\u1cbf",
    "Thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "Lao": "\u0e81-\u0ece\u0edc-\u0edf",
    "Khmer": "\u1780-\u17d3\u17d7\u17dc\u17dd",
    "Myanmar": "\u1000-\u103f\u1050-\u108f\ua9e0-\ua9ff\uaa60-\uaa7f",
    "Tibetan": "\u0f00\u0f40-\u0fbc",
    "Thaana": "\u0780-\u07b1",
    "Ethiopic": "\u1200-\u135f\u1380-\u138f\u2d80-\u2dde",
    "Bengali": "\u0980-\u09e3\u09f0\u09f1",
    "Gurmukhi": "\u0a01-\u0a5e\u0a70-\u0a75",
    "Gujarati": "\u0a81-\u0ae3",
    "Oriya": "\u0b01-\u0b63\u0b71",
    "Tamil": "\u0b82-\u0bd7",
    "Telugu": "\u0c00-\u0c63",
    "Kannada": "\u0c80-\u0ce3\u0cf1\u0cf2",
    "Malayalam": "\u0d00-\u0d63\u0d7a-\u0d7f",
    "Sinhala": "\u0d81-\u0ddf\u0df2\u0df3",
}  # fmt: skip

_LETTERS = {script: re.compile(f"[{own}]+") for script, own in SCRIPTS.items()}
_WORD = {script: re.compile(f"[{own}]+(?:['’ʼ][{own}]+)*") for script, own in SCRIPTS.items()}
_FOREIGN = {
    script: re.compile("[" + "".join(own for s, own in SCRIPTS.items() if s != script) + "]+")
    for script in SCRIPTS
}
_BREAK = re.compile(r"[.!?…;:]+[\"”»’)\]*]*(?:\s+|$)|\n\s*|[。！？；।॥؟۔።፡]+|\s[-–—•*|]+\s")
_CJK_BREAK = re.compile(r"[。！？；!?;\s]+")
_KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_FEW_WORDS, _FEW_LETTERS = 4, 16  # less is joined to the next sentence
_LONGEST = 40  # letters of a word, which are about 20 in German or Finnish, 30 in Thai
CASED = frozenset({"Latin", "Cyrillic", "Greek", "Armenian"})


class Piece(NamedTuple):
    """A few words of one script: the text to identify, its letters, and whether a
    sentence begins with it."""

    text: str
    letters: int
    opens: bool


def scripts_of(text: str) -> list[str]:
    """The scripts that occur in a text."""
    found = {_script(character) for character in set(text)}
    return [script for script in SCRIPTS if script in found]


def runs(text: str, script: str, *, mixed: bool) -> list[str]:
    """The stretches of a text without letters of other scripts.

    In a text of mixed scripts a run of at most three words that are all
    capitalised is a name, and left out: Natalia in a Chinese sentence.
    """
    if not mixed:
        return [text]
    found = [run for run in _FOREIGN[script].split(text) if len(run) > 1]
    return [run for run in found if not _is_name(run)] if script in CASED else found


def letters(found: Iterable[str], script: str) -> int:
    """How many letters of a script there are; of cased scripts only in words of two and more."""
    if script in CASED:
        return sum(len(word) for run in found for word in _counted(script, _words(run, script)))
    return sum(len(some) for run in found for some in _LETTERS[script].findall(run))


def pieces(found: Iterable[str], script: str, *, words_each: int = 12) -> list[Piece]:
    """Cut runs at the ends of sentences, and long sentences every few words.

    A sentence too short to be told apart ("48 + 2 is 50.") is joined to the next.
    """
    if script == "CJK":
        sentences = [sentence for run in found for sentence in _CJK_BREAK.split(run)]
        counts = [letters([sentence], script) for sentence in sentences]
        return [Piece(s, n, True) for s, n in zip(sentences, counts, strict=True) if n]
    cut: list[Piece] = []
    waiting: list[str] = []
    for run in found:
        for sentence in _BREAK.split(run):
            waiting += _words(sentence, script)
            if len(waiting) >= _FEW_WORDS or sum(map(len, waiting)) >= _FEW_LETTERS:
                _cut(cut, waiting, script, words_each)
                waiting = []
    if waiting:
        _cut(cut, waiting, script, words_each)
    return cut


def kana_share(text: str) -> float:
    """The share of a Chinese or Japanese text's letters that are kana."""
    count = letters([text], "CJK")
    return len(_KANA.findall(text)) / count if count else 0.0


def _cut(cut: list[Piece], words: list[str], script: str, words_each: int) -> None:
    size = -(-len(words) // max(1, round(len(words) / words_each)))
    for start in range(0, len(words), size):
        some = words[start : start + size]
        if count := sum(map(len, _counted(script, some))):
            cut.append(Piece(_asked(script, some), count, start == 0))


def _asked(script: str, words: list[str]) -> str:
    """The words to identify: each once, without single letters, which are mostly variables.

    Of a word no more than its beginning, so that what is asked (and cached) stays short.
    """
    telling = [w[:_LONGEST] for w in words if len(w) > 1 or script not in CASED]
    return " ".join(dict.fromkeys(telling)).lower()


def _words(text: str, script: str) -> list[str]:
    return _WORD[script].findall(text)


def _counted(script: str, words: list[str]) -> list[str]:
    """Without single letters (x, y, A) and short acronyms (GCD), in cased scripts."""
    if script not in CASED:
        return words
    return [w for w in words if len(w) > 1 and not (len(w) < 5 and w.isupper())]


def _is_name(run: str) -> bool:
    words = run.split(maxsplit=4)
    return len(words) <= 3 and all(word[0].isupper() or not word[0].isalpha() for word in words)


def _ranges() -> list[tuple[int, int, str]]:
    found = []
    for script, own in SCRIPTS.items():
        for first, last in re.findall(r"(.)(?:-(.))?", own):
            found.append((ord(first), ord(last or first), script))
    return sorted(found)


_RANGES = _ranges()
_FIRSTS = [first for first, _, _ in _RANGES]


@lru_cache(maxsize=4096)
def _script(character: str) -> str | None:
    first, last, script = _RANGES[bisect_right(_FIRSTS, ord(character)) - 1]
    return script if first <= ord(character) <= last else None
