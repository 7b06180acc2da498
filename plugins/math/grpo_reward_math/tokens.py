"""Cutting LaTeX, or mathematics typed as plain text, into canonical tokens.

What only lays out (spaces, `\\left`, `\\displaystyle`, `$`) is dropped, and
different ways of typing one sign become one token, so texts with equal tokens say
the same. One pass, linear. Left out: what the tokens mean together (`grammar`).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from grpo_reward_math.tree import NeedsAlgebra, Unreadable
from grpo_reward_math.units import is_unit
from grpo_reward_math.vocabulary import (
    BIG,
    COMMANDS,
    DROPPED,
    FUNCTIONS,
    GREEK,
    LEVEL,
    PLAIN_WORDS,
    SHORT_WORDS,
    SIGNS,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    TEXT_COMMANDS,
    TEXT_WORDS,
    UNICODE,
)

MAX_TOKENS = 600


class Token(NamedTuple):
    kind: str
    text: str = ""
    value: Fraction | None = None
    decimals: int | None = None
    spaced: bool = False
    """Whether a space stood before it (tells `5 m` from `5m`)."""


_BROKEN_ESCAPES = {"\x07": "\\a", "\x08": "\\b", "\x0c": "\\f", "\x0b": "\\v"}
_BROKEN_TAB = re.compile(r"\t(?=ext|imes|an\b|heta|frac|au\b|o\b)|\r(?=ight|ho\b)")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2})")
_TAGS = re.compile(r"<(sup|sub)>([^<>]{0,100})</\1>")
_RAISED = re.compile(f"[{SUPERSCRIPTS}]+")
_LOWERED = re.compile(f"[{SUBSCRIPTS}]+")
_TOKEN = re.compile(
    r"(?P<repeat>(?:[0-9]+)?\.[0-9]*\\(?:overline|bar|dot)\s*\{\s*[0-9]+\s*\})"
    r"|(?P<grouped>[0-9]{1,3}(?:\{,\}[0-9]{3}|\\,[0-9]{3})+(?![0-9]))"
    r"|(?P<num>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<deg>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z]))"
    r"|(?P<begin>\\(?:begin|end)\s*\{[a-z]*\*?\}(?:\{[lcr|]*\})?)"
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<space>\s+|~)"
    r"|(?P<sign><=|>=|!=|\*\*|->|.)",
    re.DOTALL,
)
_COMMA_GROUPS = re.compile(r"(?<![0-9,.])([0-9]{1,3})((?:,[0-9]{3})+)(?![0-9]|,[0-9]|\.[0-9]*,)")
_UNIT_REST = re.compile(
    r"\s*(?:\^\s*\{?[23]\}?)?\s*(?:/\s*[A-Za-z]{1,4}(?:\^\{?2\}?)?)?\s*\.?\s*\$?"
)
_BEFORE_UNITS = frozenset(("sq", "cu", "square", "cubic", "per"))
_ABBREVIATED = re.compile(
    r"\b(sq|cu)\.\s?|\bRs\.?\s?(?=[0-9])|\\text\s*\{\s*Rs\.?\s*\}\s*(?=[0-9])"
)
_NOT_EQUAL = re.compile(r"\\not\s*=")
_LOST_ROW = re.compile(r"\\(?=[\s0-9-])")  # a row separator that lost a backslash
_PRICE = re.compile(r"(\s*-?\s*)\$(\s*[0-9].*)", re.DOTALL)
_ORDINAL = frozenset({"st", "nd", "rd", "th"})


def has_comma_groups(text: str) -> bool:
    """Whether `1,234` stands in it, which may be a number or a list."""
    return _COMMA_GROUPS.search(text) is not None


def has_zero_groups(text: str) -> bool:
    """Whether a group of `1,050` begins with a zero, as no item of a list does."""
    return any(",0" in group[0] for group in _COMMA_GROUPS.finditer(text))


def tokenize(text: str, *, join_commas: bool = False) -> tuple[Token, ...]:
    """The tokens of `text`; `join_commas` reads `1,234` as one number.

    Raises Unreadable on signs that we do not know and on more than MAX_TOKENS.
    """
    text = _repaired(text)
    if join_commas:
        text = _COMMA_GROUPS.sub(lambda m: m[1] + m[2].replace(",", ""), text)
    tokens: list[Token] = []
    _read(text, tokens, words=False)
    while tokens and tokens[-1] == Token("dot"):
        tokens.pop()
    return tuple(
        token
        for at, token in enumerate(tokens)
        if token.kind != "dot" or not _closes(tokens[at + 1] if at + 1 < len(tokens) else None)
    )


def _closes(token: Token | None) -> bool:
    return token is None or token.kind in (")", "]", "}", "rset", "sep")


def _repaired(text: str) -> str:
    """Undo what JSON, HTML and keyboards do to LaTeX."""
    if not text.isprintable():
        for broken, meant in _BROKEN_ESCAPES.items():
            text = text.replace(broken, meant)
        text = _BROKEN_TAB.sub(lambda m: "\\t" if m[0] == "\t" else "\\r", text)
    if not text.isascii():
        text = _RAISED.sub(lambda m: f"^{{{m[0].translate(LEVEL)}}}", text)
        text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(LEVEL)}}}", text).translate(UNICODE)
    if "\\begin" in text and "\\\\" not in text:
        text = _LOST_ROW.sub(r"\\\\", text)
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if "\\not" in text:
        text = _NOT_EQUAL.sub(r"\\ne ", text)
    if "&" in text:
        text = text.replace("&lt;", "<").replace("&gt;", ">")
    if "." in text or "Rs" in text:
        text = _ABBREVIATED.sub(lambda m: f"{m[1]} " if m[1] else "\\rupees ", text)
    text = text.replace(",\\!", ",")
    if text.count("$") == 1 and (price := _PRICE.match(text)):
        text = f"{price[1]}\\${price[2]}"  # one dollar sign is money, two are mathematics
    if "<su" in text:
        text = _TAGS.sub(lambda m: f"{'^' if m[1] == 'sup' else '_'}{{{m[2]}}}", text)
    return text


def _read(text: str, tokens: list[Token], *, words: bool) -> None:
    """Append the tokens of `text`; with `words`, letters spell words and no variables."""
    at, spaced = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None
        kind, piece, at = match.lastgroup, match[0], match.end()
        if len(tokens) > MAX_TOKENS:
            raise Unreadable(f"it has more than {MAX_TOKENS} parts")
        if kind == "space":
            spaced = True
            continue
        before = len(tokens)
        if kind == "command" and piece[1:] in TEXT_COMMANDS:
            at = _text_command(text, at, piece[1:], tokens)
        elif kind == "command":
            _command(piece[1:], tokens)
        elif kind == "letters":
            _letters(piece, tokens, words=words, spaced=spaced, rest=text[at : at + 30])
        elif kind == "begin":
            name = piece[piece.index("{") + 1 : piece.index("}")]
            tokens.append(Token("beg" if piece[1] == "b" else "close", name.rstrip("*")))
        elif kind == "sign":
            if piece not in SIGNS:
                raise Unreadable(f"the sign {piece!r} is not known")
            if SIGNS[piece]:
                tokens.append(_token(SIGNS[piece]))
        elif kind == "deg":
            tokens.append(Token("deg"))
        else:
            tokens.append(_number(kind or "", piece))
        if spaced and len(tokens) > before:
            tokens[before] = tokens[before]._replace(spaced=True)
        spaced = False


def _token(entry: tuple[str, ...]) -> Token:
    return Token(entry[0], entry[1] if len(entry) > 1 else "")


def _number(kind: str, piece: str) -> Token:
    if len(piece) > 1000:
        raise Unreadable("a number has more than 1000 digits")
    if kind == "repeat":
        head, _, tail = piece.partition("\\")
        cycle = tail[tail.index("{") + 1 : tail.index("}")].strip()
        whole, _, fixed = head.partition(".")
        scale = 10 ** len(fixed)
        value = Fraction(int((whole or "0") + fixed), scale)
        value += Fraction(int(cycle), (10 ** len(cycle) - 1) * scale)
        return Token("num", f"{head}({cycle})", value)
    if kind == "grouped":
        piece = piece.replace("{,}", "").replace("\\,", "")
    whole, point, fraction = piece.partition(".")
    value = Fraction(int(whole + fraction), 10 ** len(fraction))
    text = f"{(whole or '0').lstrip('0') or '0'}{point}{fraction}"
    return Token("num", text, value, len(fraction) if point else None)


def _command(name: str, tokens: list[Token]) -> None:
    if name in DROPPED:
        return
    if name in COMMANDS:
        tokens.append(_token(COMMANDS[name]))
    elif name in FUNCTIONS:
        tokens.append(Token("fn", FUNCTIONS[name]))
    elif name in GREEK:
        tokens.append(Token("var", name))
    elif name in BIG:
        raise NeedsAlgebra(f"\\{name} is not worked out")
    else:
        raise Unreadable(f"the command \\{name} is not known")


def _text_command(text: str, at: int, name: str, tokens: list[Token]) -> int:
    r"""Read `\text{…}` and the like; returns where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at == len(text):
        return at
    if text[at] != "{":
        end, content = at + 1, text[at]
    else:
        depth, end = 0, at
        while end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        if depth:
            raise Unreadable(f"\\{name}{{ is never closed")
        content = text[at + 1 : end - 1]
    style = TEXT_COMMANDS[name]
    stripped = content.strip()
    if style == "set" or (style == "math" and stripped in ("N", "Z", "Q", "R")):
        if stripped not in ("N", "Z", "Q", "R", "C"):
            raise Unreadable(f"\\{name}{{{stripped[:20]}}} is not known")
        tokens.append(Token("numbers", stripped))
    elif style == "math" or (style == "roman" and stripped in ("e", "i", "d")):
        _read(content, tokens, words=False)
    elif stripped in FUNCTIONS:
        tokens.append(Token("fn", FUNCTIONS[stripped]))
    else:
        _read(content, tokens, words=True)
    return end


def _letters(run: str, tokens: list[Token], *, words: bool, spaced: bool, rest: str) -> None:
    """A run of letters: a word, a function, a unit, or variables multiplied."""
    previous = tokens[-1].kind if tokens else ""
    lower = run.lower()
    if words and lower in TEXT_WORDS:
        if TEXT_WORDS[lower]:
            tokens.append(_token(TEXT_WORDS[lower]))
        return
    if previous == "num" and not spaced and lower in _ORDINAL:
        return
    if lower == "x" and previous == "num" and not words and rest.strip()[:1].isdigit() and spaced:
        tokens.append(Token("*"))  # 2 x 10^3
        return
    if words:
        tokens.append(Token("word", run))
        return
    if previous == "num" and len(run) > 1 and is_unit(run) and _UNIT_REST.fullmatch(rest):
        tokens.append(Token("word", run))
    elif previous == "word" and len(run) > 1 and lower not in PLAIN_WORDS and run not in FUNCTIONS:
        tokens.append(Token("word", run))  # "12 years old"
    elif run in FUNCTIONS:
        tokens.append(Token("fn", FUNCTIONS[run]))
    elif lower in PLAIN_WORDS:
        if PLAIN_WORDS[lower]:
            tokens.append(_token(PLAIN_WORDS[lower]))
    elif run in GREEK:
        tokens.append(Token("var", run))
    elif run in ("C", "F") and previous == "deg":
        tokens.append(Token("word", run))
    elif len(run) == 1:
        if is_unit(run) and _stands_for_unit(tokens, spaced, rest):
            tokens.append(Token("word", run))
        else:
            tokens.append(
                Token("const", {"e": "e", "i": "I"}[run]) if run in "ei" else Token("var", run)
            )
    elif (_can_have_unit(tokens) and is_unit(run)) or is_word(run):
        tokens.append(Token("word", run))
    else:
        for letter in run:
            _letters(letter, tokens, words=False, spaced=False, rest="")


def _stands_for_unit(tokens: list[Token], spaced: bool, rest: str) -> bool:
    """Whether a single letter is a unit: `5 m` and nothing else, or the s of `5 km/s`."""
    kinds = [token.kind for token in tokens[-2:]]
    if kinds == ["word", "/"] or (tokens and tokens[-1].text in _BEFORE_UNITS):
        return True
    return kinds == ["num"] and spaced and _UNIT_REST.fullmatch(rest) is not None


def _can_have_unit(tokens: list[Token]) -> bool:
    kinds = [token.kind for token in tokens[-2:]]
    return kinds[-1:] in (["num"], ["word"], ["}"], ["const"]) or kinds == ["word", "/"]


def is_word(run: str) -> bool:
    """Whether letters without a backslash spell a word rather than a product such as `abc`."""
    lower = run.lower()
    if len(run) == 2:
        return lower in SHORT_WORDS
    return len(run) > 3 or (len(run) == 3 and any(vowel in lower[1:] for vowel in "aeiou"))
