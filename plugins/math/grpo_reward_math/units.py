"""Units: which quantities are the same, and which words are units at all.

A unit is a scale and a product of dimensions; 5 km and 5000 m are equal, 5 km and
5 m are not. A word that is no measuring unit is a thing that is counted ("12
apples"): two of these agree when their head nouns do.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from grpo_reward_math.tree import Node, Unreadable


class Unit(NamedTuple):
    """`scale` in base units; `dimensions` as sorted (name, power) pairs."""

    scale: Fraction
    dimensions: tuple[tuple[str, int], ...]


_TABLE: dict[str, dict[str, int | float | str]] = {
    "length": {
        "m meter metre": 1,
        "km kilometer kilometre": 1000,
        "cm centimeter centimetre": "0.01",
        "mm millimeter millimetre": "0.001",
        "dm decimeter decimetre": "0.1",
        "inch inches in": "0.0254",
        "ft foot feet": "0.3048",
        "yd yard": "0.9144",
        "mi mile": "1609.344",
    },
    "mass": {
        "kg kilogram kilo": 1,
        "g gram gm": "0.001",
        "mg milligram": "0.000001",
        "tonne": 1000,
        "lb lbs pound_mass": "0.45359237",
        "oz ounce": "0.028349523125",
    },
    "time": {
        "s sec second": 1,
        "min minute mins": 60,
        "h hr hour hrs": 3600,
        "day": 86400,
        "week": 604800,
        "ms millisecond": "0.001",
    },
    "month": {"month": 1, "year yr yrs": 12},
    "dollar": {"dollar usd buck": 1, "cent": "0.01"},
    "euro": {"euro eur": 1},
    "pound": {"pound": 1, "pence": "0.01"},
    "rupee": {"rupee": 1},
    "yen": {"yen": 1},
    "yuan": {"yuan": 1},
    "volume": {
        "l liter litre": 1,
        "ml milliliter millilitre": "0.001",
        "gallon gal": "3.785411784",
        "quart": "0.946352946",
    },
    "force": {"N newton": 1, "kN": 1000},
    "energy": {"J joule": 1, "kJ kilojoule": 1000, "cal calorie": "4.184", "kcal": 4184},
    "power": {"W watt": 1, "kW kilowatt": 1000},
    "voltage": {"V volt": 1},
    "current": {"A ampere amp": 1},
    "temperature": {"K kelvin": 1},
    "celsius": {"C celsius": 1},
    "fahrenheit": {"F fahrenheit": 1},
    "frequency": {"Hz hertz": 1, "kHz": 1000},
    "amount": {"mol mole": 1},
    "pressure": {"Pa pascal": 1, "kPa": 1000, "atm": 101325},
    "angle": {"radian rad": 1},
}
_words = str.split
_CASED = frozenset(_words("N kN J kJ W kW V A K C F Hz kHz Pa kPa"))
_UNITS: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(scale))
    for dimension, names in _TABLE.items()
    for spelled, scale in names.items()
    for name in spelled.split()
}
_SPEEDS: dict[str, tuple[tuple[str, int], ...]] = {
    "mph": (("mi", 1), ("h", -1)),
    **dict.fromkeys(("kph", "kmph", "kmh"), (("km", 1), ("h", -1))),
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_NOT_A_THING = frozenset(
    _words(
        "not no never none maybe perhaps probably possibly approximately about around roughly nearly almost "
        "is are was be equals equal plus minus times divided over than more less least most greater fewer "
        "wrong incorrect false true unsure unknown except but either neither nor if then else half quarter "
        "third halves quarters thirds fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths "
        "tens hundreds thousands millions billions factorial inverse reciprocal negative root point infinity "
        "mod modulo pi one two three four five six seven eight nine ten eleven twelve zero twenty "
        "correct right answer to through until up between any anything everything choose pick all some other"
    )
)


def is_unit(word: str) -> bool:
    """Whether the word alone names a measuring unit."""
    return word.lower() in _SPEEDS or _lookup(word) is not None


def scale_word(word: str) -> int | None:
    """1000 for "thousand"; None for a word that scales nothing."""
    return _SCALES.get(word.lower())


@lru_cache(maxsize=4096)
def read_unit(parts: tuple[tuple[str, int], ...]) -> Unit:
    """The unit that (word, power) pairs spell; a power below zero divides.

    Raises Unreadable for words that cannot stand for a unit or a thing counted.
    """
    if len(parts) > 6:
        raise Unreadable("a sentence follows the number")
    factors: list[tuple[str, int]] = []
    power_ahead, sign = 1, 1
    for word, power in parts:
        lower = word.lower()
        if lower in _NOT_A_THING or lower in _SCALES:
            raise Unreadable(f"the word {word!r} after a number is no unit")
        if lower == "per":
            sign = -1
        elif lower in ("squared", "cubed"):
            if not factors:
                raise Unreadable(f"the word {word!r} after a number is no unit")
            name, before = factors[-1]
            factors[-1] = (name, before * _POWERS[lower])
        elif lower in _POWERS:
            power_ahead = _POWERS[lower]
        else:
            for name, exponent in _SPEEDS.get(lower, ((word, 1),)):
                factors.append((name, exponent * power * power_ahead * sign))
            power_ahead = 1
    scale, dimensions, thing = Fraction(1), dict[str, int](), ""
    for name, exponent in factors:
        known = _lookup(name)
        if known is None:
            thing = _singular(name.lower())
        else:
            scale *= known[1] ** exponent
            dimensions[known[0]] = dimensions.get(known[0], 0) + exponent
    if thing and not dimensions:
        dimensions[f"thing:{thing}"] = 1
    return Unit(scale, tuple(sorted((k, v) for k, v in dimensions.items() if v)))


def read_quantity(node: Node) -> tuple[Node, Unit | None]:
    """A tree's value and unit; no unit for what is no quantity. Raises Unreadable."""
    if node.kind != "quantity":
        return node, None
    words: list[tuple[str, int]] = []
    power, sign = 1, 1
    for word in node.name.split():
        if word in ("^", "*"):
            continue
        if word in ("/", "-"):
            sign = -1
            continue
        if word.isdigit() and words:
            power = int(word)
            words[-1] = (words[-1][0], words[-1][1] * min(power, 9) * sign)
        else:
            words.append((word, sign))
        sign = 1
    return node.args[0], read_unit(tuple(words))


def _lookup(word: str) -> tuple[str, Fraction] | None:
    if word in _CASED:
        return _UNITS[word]
    lower = word.lower()
    for name in (lower, _singular(lower)):
        if name in _UNITS and (len(word) > 1 or word == lower or word == "L"):
            return _UNITS[name]
    return None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
