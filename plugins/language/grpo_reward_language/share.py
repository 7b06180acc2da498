"""How many letters of a text are in which language: the pure function at the centre."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from grpo_reward_language.cleaning import clean, without_quotations
from grpo_reward_language.identify import languages
from grpo_reward_language.languages import KIN, LANGUAGES_OF, name, written_in
from grpo_reward_language.scripts import letters, pieces, runs, scripts_of

_STRAY_MARKS = re.compile("[\u0300-\u036f]+")
"""Accents that no letter has as its own: a stress mark in Russian, a tone in Yoruba."""


class Letters(NamedTuple):
    """Letters counted, by language code, or by `Cyrillic script` where only that is known."""

    by_language: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_language.values())

    def share(self, target: str) -> float:
        """The target's share, kin included (Croatian counts for Serbian); 0 without letters."""
        mine = KIN.get(target, frozenset({target}))
        found = sum(count for code, count in self.by_language.items() if code in mine)
        return found / self.total if self.total else 0.0

    def described(self) -> str:
        """`German 70%, English 30%`, the greatest first, at most four."""
        ranked = sorted(self.by_language.items(), key=lambda item: -item[1])
        return ", ".join(f"{name(code)} {_percent(n / self.total)}" for code, n in ranked[:4])


def count(text: str, target: str | None = None, *, prompt: str = "") -> Letters:
    """Count the letters of each language, without what is in no language.

    With a target, scripts it is not written in are not looked into further.
    What is copied from `prompt` is not counted.
    """
    text = _STRAY_MARKS.sub("", unicodedata.normalize("NFC", text))
    if prompt:
        text = without_quotations(text, unicodedata.normalize("NFC", prompt))
    text = clean(text)
    scripts = scripts_of(text)
    total: dict[str, int] = {}
    for script in scripts:
        found = runs(text, script, mixed=len(scripts) > 1)
        for code, number in _count_script(script, found, target).items():
            total[code] = total.get(code, 0) + number
    return Letters({code: number for code, number in total.items() if number})


def _count_script(script: str, found: list[str], target: str | None) -> dict[str, int]:
    known = LANGUAGES_OF.get(script, frozenset())
    if len(known) == 1:
        return {next(iter(known)): letters(found, script)}
    if target is not None and not written_in(target, script):
        return {f"{script} script": letters(found, script)}
    cut = pieces(found, script)
    counted: dict[str, int] = {}
    for piece, code in zip(cut, languages(cut, script, target), strict=True):
        if code is not None:
            counted[code] = counted.get(code, 0) + piece.letters
    return counted


def _percent(share: float) -> str:
    """Rounded, but never up to 100% or down to 0% when it is neither."""
    whole = round(share * 100)
    return f"{min(max(whole, 1), 99) if 0 < share < 1 else whole}%"
