"""Exact numbers as people write them: `1,000`, `-3/4`, `2\\frac{1}{2}`, `12.50`, `10%`, `2e-3`.

Everything is a rational, nothing a float, so equality is exact. A numeral that
would be costly to write out (an exponent beyond `MAX_EXPONENT`, too many digits)
is not read here. Left out: any arithmetic (`grammar`).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 1000
MAX_EXPONENT = 300


class Number(NamedTuple):
    """A numeral's exact value and how it was written.

    `decimals`: digits after the point of a decimal numeral, None for an exact
    way of writing (integer, fraction, mixed number). A percentage has its value
    in `value` (10% is 1/10) and two more decimals than were written.
    """

    value: Fraction
    decimals: int | None = None
    percent: bool = False
    fraction: bool = False
    """Written with a fraction bar (a mixed number included)."""
    lowest: bool = True
    """False for a fraction that is not in lowest terms, such as 48/2."""


_DIGITS = r"[0-9]{1,3}(?:(?:,|\{,\}|\\,|,\\!|[ ~])[0-9]{3})+(?![0-9])|[0-9]+"
_NUMERAL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<int>{_DIGITS})?(?P<frac>\.[0-9]*)?"
    r"(?:\s*(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*\^)\s*"
    r"(?P<exp>[-+]?[0-9]{1,4}|\{\s*[-+]?[0-9]{1,4}\s*\}|\(\s*[-+]?[0-9]{1,4}\s*\)))?"
    r"\s*(?P<percent>\\?%)?"
)
_BAR = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>{_DIGITS})\s*(?=\\|\s[0-9]))?\s*"
    rf"(?:\\[dtc]?frac\s*(?:\{{\s*(?P<n1>-?[0-9]+)\s*\}}\s*\{{\s*(?P<d1>-?[0-9]+)\s*\}}|(?P<n2>[0-9])\s*(?P<d2>[0-9]))"
    rf"|(?P<n3>{_DIGITS})\s*/\s*(?P<d3>{_DIGITS}))"
    r"\s*(?P<percent>\\?%)?"
)


_words = str.split
_SPELLED = {
    word: value
    for value, word in enumerate(
        _words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
}


def read_number(text: str) -> Number | None:
    """The number that `text` spells from end to end, or None.

    >>> read_number("1,000") == read_number("1000")
    True
    >>> read_number(r"2\\frac{1}{2}").value
    Fraction(5, 2)
    """
    if len(text) > MAX_DIGITS:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return Number(Fraction(int(text)))
    if text.isalpha():
        spelled = _SPELLED.get(text.lower())
        return None if spelled is None else Number(Fraction(spelled))
    if match := _NUMERAL.fullmatch(text):
        return _numeral(match)
    if match := _BAR.fullmatch(text):
        return _bar(match)
    return None


def _numeral(match: re.Match[str]) -> Number | None:
    integer, fraction = _plain(match["int"] or ""), (match["frac"] or "")[1:]
    if not integer and not fraction:
        return None
    exponent = int(match["exp"].strip("{}() ")) if match["exp"] else 0
    if abs(exponent) > MAX_EXPONENT:
        return None
    shift = exponent - len(fraction) - (2 if match["percent"] else 0)
    digits = int(f"{match['sign']}{integer}{fraction}")
    value = Fraction(digits * 10**shift) if shift >= 0 else Fraction(digits, 10**-shift)
    rounded = bool(fraction) or exponent < 0
    return Number(value, max(0, -shift) if rounded else None, percent=bool(match["percent"]))


def _bar(match: re.Match[str]) -> Number | None:
    top = match["n1"] or match["n2"] or _plain(match["n3"] or "")
    bottom = match["d1"] or match["d2"] or _plain(match["d3"] or "")
    if int(bottom) == 0:
        return None
    value = Fraction(int(top), int(bottom))
    lowest = int(bottom) > 1 and value.denominator == int(bottom)
    if match["whole"]:
        if not 0 < value < 1:
            return None  # 2 \frac{5}{3} is no mixed number; whoever wrote it meant a product
        value += int(_plain(match["whole"]))
    if match["sign"] == "-":
        value = -value
    percent = bool(match["percent"])
    return Number(value / 100 if percent else value, None, percent, True, lowest)


def _plain(digits: str) -> str:
    return "".join(re.findall("[0-9]", digits))


def rounds_to(value: Fraction, decimals: int, target: Fraction) -> bool:
    """Whether an exact value, rounded to so many decimals, is `target` (ties either way).

    >>> rounds_to(Fraction(1, 3), 2, Fraction(33, 100))
    True
    """
    return abs(value - target) <= Fraction(1, 2 * 10**decimals)
