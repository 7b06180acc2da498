"""Exact rational values of closed formulas, with the cost bounded before each step.

`exact` works out what integers, fractions, powers, factorials and binomials give,
and refuses (`TooCostly`) what would be long, before computing it. It returns None
where the value is not rational or not known to be; `numeric` then takes over.
"""

from __future__ import annotations

import math
from fractions import Fraction

from grpo_reward_math.tree import Node, TooCostly

MAX_BITS = 16_384
"""Of any numerator or denominator: numbers of about 5,000 digits."""
MAX_WORK = 400_000
"""Bits handled in one evaluation, over all steps."""
MAX_FACTORIAL = 1000


class _Work:
    """The bits that one evaluation may still handle."""

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, value: Fraction) -> Fraction:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        self.left -= bits + 64
        if bits > 2 * MAX_BITS or self.left < 0:
            raise TooCostly("its numbers are too long to work out")
        return value


def exact(node: Node) -> Fraction | None:
    """The rational value of a closed formula, or None. Raises TooCostly.

    A division by zero gives None: it has no value.
    """
    try:
        return _value(node, _Work())
    except ZeroDivisionError:
        return None


def _value(node: Node, work: _Work) -> Fraction | None:
    kind = node.kind
    if kind == "num":
        assert node.value is not None
        return work.spend(node.value)
    if kind not in ("add", "mul", "neg", "div", "pow", "fact", "fn", "percent"):
        return None
    values: list[Fraction] = []
    for arg in node.args:
        value = _value(arg, work)
        if value is None:
            return None
        values.append(value)
    if kind == "add":
        total = Fraction(0)
        for value in values:
            total = work.spend(total + value)
        return total
    if kind == "mul":
        product = Fraction(1)
        for value in values:
            product = work.spend(product * value)
        return product
    if kind == "neg":
        return -values[0]
    if kind == "div":
        return work.spend(values[0] / values[1])
    if kind == "percent":
        return values[0] / 100
    if kind == "pow":
        result = _power(values[0], values[1])
    elif kind == "fact":
        result = Fraction(_factorial(values[0])) if _whole(values[0]) else None
    else:
        result = _function(node.name, values)
    return None if result is None else work.spend(result)


def _whole(value: Fraction) -> bool:
    return value.denominator == 1 and value >= 0


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        if exponent.denominator > 64 or base < 0:
            return None
        root = _root(base, exponent.denominator)
        return None if root is None else _power(root, Fraction(exponent.numerator))
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            return None
        return base if base != -1 or exponent % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > MAX_BITS:
        raise TooCostly("a power is too large to work out")
    return base ** int(exponent)


def _root(value: Fraction, degree: int) -> Fraction | None:
    """The exact root, or None when it is irrational."""
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    if value < 2:
        return value if value >= 0 else None
    if degree == 2:
        guess = math.isqrt(value)
        return guess if guess * guess == value else None
    if value.bit_length() > 2048:
        return None  # `numeric` decides
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**degree < value:
            low = middle + 1
        else:
            high = middle
    return low if low**degree == value else None


def _factorial(value: Fraction) -> int:
    if value > MAX_FACTORIAL:
        raise TooCostly("a factorial is too large to work out")
    return math.factorial(int(value))


def _function(name: str, values: list[Fraction]) -> Fraction | None:
    if name == "abs":
        return abs(values[0])
    if name == "root":
        degree = values[1]
        if degree.denominator != 1 or not 0 < degree <= 64:
            return None
        if values[0] < 0 and degree % 2:
            root = _root(-values[0], int(degree))
            return None if root is None else -root
        return _root(values[0], int(degree))
    if name == "floor":
        return Fraction(math.floor(values[0]))
    if name == "ceil":
        return Fraction(math.ceil(values[0]))
    if name == "binom":
        n, k = values
        if not _whole(n) or not _whole(k):
            return None
        if n > 10 * MAX_FACTORIAL and min(k, n - k) > 50:
            raise TooCostly("a binomial coefficient is too large to work out")
        if min(k, n - k) > MAX_FACTORIAL:
            raise TooCostly("a binomial coefficient is too large to work out")
        return Fraction(math.comb(int(n), int(k)))
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name in ("gcd", "lcm") and all(map(_whole, values)):
        integers = [int(value) for value in values]
        if name == "gcd":
            return Fraction(math.gcd(*integers))
        if len(integers) > 20:
            raise TooCostly("a common multiple of very many numbers")
        return Fraction(math.lcm(*integers))
    if name in ("ln", "log", "lg") and values[0] == 1:
        return Fraction(0)
    if name == "log" and len(values) == 2:
        return _logarithm(values[0], values[1])
    return None


def _logarithm(value: Fraction, base: Fraction) -> Fraction | None:
    """An integer logarithm such as log_2 8; None when it is not one."""
    if value <= 0 or base <= 1 or base.denominator != 1:
        return None
    sign = 1 if value.denominator == 1 else -1
    power = value.numerator if sign == 1 else value.denominator
    if sign == -1 and value.numerator != 1:
        return None
    count = 0
    while power % base.numerator == 0 and power > 1:
        power //= base.numerator
        count += 1
    return Fraction(sign * count) if power == 1 else None
