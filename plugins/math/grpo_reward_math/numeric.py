"""Are two formulas equal? By exact rationals, then by values to many digits.

A closed formula has one value; one with variables is tried at several points. The
digits carried grow with the digits and magnitudes that occur in the formulas, so
adding 10^-500 to a right answer does not make an equal one; a formula that would
need more than `MAX_DIGITS` is refused (`TooCostly`), never worked out. Uses
mpmath with a context per thread; loads it on first use. No signals, no sympy.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from grpo_reward_math.exact import exact
from grpo_reward_math.tree import Node, TooCostly

MAX_DIGITS = 900
MAX_LOG10 = 400
"""Largest magnitude, as a power of ten (either sign), of anything inside a formula
that is not rational as a whole."""
MAX_EFFORT = 60_000
"""Parts of a formula times digits carried."""
MAX_SPECIAL = 8
"""Factorials and binomials in a formula that is not rational as a whole; they are
worked out to at most 170 digits."""
GUARD = 40
"""Digits to which values must agree, beyond those that occur in the formulas."""

_local = threading.local()


class NoValue(Exception):
    """The formula has no value at this point (a pole, an argument outside a domain)."""


def equal(gold: Node, answer: Node) -> bool:
    """Whether two formulas are the same number or the same function. Raises TooCostly."""
    if gold == answer:
        return True
    names = sorted(gold.variables() | answer.variables())
    if not names:
        left, right = exact(gold), exact(answer)
        if left is not None and right is not None:
            return left == right
        return _same_at([{}], gold, answer, needed=1)
    _refuse_large_constants(gold)
    _refuse_large_constants(answer)
    points = [_point(names, low, high, salt) for salt, (low, high) in enumerate(_BOXES)]
    if (same := _agreement(points, gold, answer, needed=2)) is not None:
        return same
    whole = [_integers(names, salt) for salt in range(4)]
    return _agreement(whole, gold, answer, needed=2) or False


def value_of(node: Node, digits: int = 30) -> Any:
    """The value of a closed formula as an mpmath number. Raises NoValue, TooCostly."""
    return _evaluate(node, {}, digits).value


def has_value(node: Node) -> bool:
    """Whether a closed formula has a value at all; True when it is too costly to tell."""
    if node.has("pm") or any(_is_symbol(part) for part in node.walk()):
        return True  # ±, infinity and sets of numbers stand for themselves
    try:
        return exact(node) is not None or value_of(node) is not None
    except TooCostly:
        return True
    except NoValue:
        return False


def real_value(node: Node) -> float | None:
    """The value of a closed real formula as a float, for ordering; None when it has none."""
    try:
        value = exact(node)
        if value is not None:
            return float(value)
        number = value_of(node)
        if isinstance(number, _context().mpc):
            return None
        return float(number)
    except (NoValue, TooCostly, OverflowError):
        return None


def within(node: Node, target: Fraction, tolerance: Fraction) -> bool:
    """Whether a closed formula has a real value within `tolerance` of `target`."""
    digits = 30 + len(str(tolerance.denominator)) + len(str(abs(target.numerator)))
    ctx = _context()
    try:
        value = _evaluate(node, {}, digits).value
    except (NoValue, TooCostly):
        return False
    with ctx.workdps(digits):
        gap = abs(value - ctx.mpf(target.numerator) / target.denominator)
        return bool(gap <= ctx.mpf(tolerance.numerator) / tolerance.denominator)


def sample(node: Node, at: int) -> tuple[Any, Any] | None:
    """Values of a formula in its variables at two fixed points, or None."""
    names = sorted(node.variables())
    low, high = _BOXES[at % len(_BOXES)]
    try:
        first = _evaluate(node, _point(names, low, high, at), 50).value
        second = _evaluate(node, _point(names, low, high, at + 50), 50).value
    except (NoValue, TooCostly):
        return None
    return first, second


# Where formulas with variables are compared: near zero, beyond one, and negative too.
_BOXES = ((0.15, 0.85), (1.2, 4.8), (-2.5, 2.5), (0.05, 0.95), (-0.95, -0.05), (2.0, 9.0))


def _agreement(
    points: list[dict[str, Fraction]], gold: Node, answer: Node, *, needed: int
) -> bool | None:
    """True when they agree wherever both are defined (at `needed` points at least),
    False when they differ anywhere, None when too few points tell."""
    valid = 0
    for point in points:
        same = _same(gold, answer, point)
        if same is False:
            return False
        valid += bool(same)
    return True if valid >= needed else None


def _same_at(points: list[dict[str, Fraction]], gold: Node, answer: Node, *, needed: int) -> bool:
    return bool(_agreement(points, gold, answer, needed=needed))


def _same(gold: Node, answer: Node, point: Mapping[str, Fraction]) -> bool | None:
    """Whether the two agree at a point; None where either has no (real) value."""
    ctx = _context()
    literal = _digits(gold) + _digits(answer)
    imaginary = _imaginary(gold) or _imaginary(answer)
    try:
        left, right = _evaluate(gold, point, 30), _evaluate(answer, point, 30)
        if not imaginary and point and (_is_complex(left.value) or _is_complex(right.value)):
            return None
        size = max(abs(left.value), abs(right.value), 1)
        if (
            abs(left.value - right.value) > size * ctx.mpf(10) ** -12
            and max(left.log10, right.log10) < 10
        ):
            return False
        log10 = max(left.log10, right.log10)
        digits = GUARD + 10 + literal + 2 * log10
        if digits > MAX_DIGITS:
            raise TooCostly("it would take too many digits to tell")
        left, right = _evaluate(gold, point, digits), _evaluate(answer, point, digits)
    except NoValue:
        return None
    with ctx.workdps(digits):
        tolerance = ctx.mpf(10) ** -(GUARD + literal + log10)
        return bool(abs(left.value - right.value) <= tolerance)


class _Result(NamedTuple):
    value: Any
    log10: int
    """The largest magnitude met on the way, as a power of ten of either sign."""


def _evaluate(node: Node, point: Mapping[str, Fraction], digits: int) -> _Result:
    """Raises NoValue, TooCostly."""
    parts = sum(1 for _ in node.walk())
    if parts * digits > MAX_EFFORT:
        raise TooCostly("it is too long to work out to so many digits")
    ctx = _context()
    run = _Run(ctx, point)
    with ctx.workdps(digits + 5):
        try:
            value = run.value(node)
            if not ctx.isfinite(value):
                raise NoValue
        except (ZeroDivisionError, ValueError, OverflowError, ctx.NoConvergence) as error:
            raise NoValue from error
    return _Result(value, run.log10)


class _Run:
    """One evaluation: remembers the largest magnitude and how many costly parts it met."""

    def __init__(self, ctx: Any, point: Mapping[str, Fraction]) -> None:
        self.ctx = ctx
        self.point = point
        self.log10 = 0
        self.special = 0

    def value(self, node: Node) -> Any:
        value = self._raw(node)
        if value and self.ctx.isfinite(value):
            log10 = abs(self.ctx.mag(value)) * 0.30103
            if log10 > MAX_LOG10:
                raise TooCostly("a part of it is too large or too small to work out")
            self.log10 = max(self.log10, int(log10) + 1)
        return value

    def _raw(self, node: Node) -> Any:
        ctx, kind = self.ctx, node.kind
        if kind == "num":
            assert node.value is not None
            return self._rational(node.value)
        if kind == "var":
            if node.name not in self.point:
                raise NoValue
            return self._rational(self.point[node.name])
        if kind == "const":
            constants = {"pi": ctx.pi, "e": ctx.e, "I": ctx.mpc(0, 1)}
            if node.name not in constants:
                raise NoValue
            return +constants[node.name]
        if kind == "pow":
            return self._power(self.value(node.args[0]), self.value(node.args[1]))
        values = [self.value(arg) for arg in node.args]
        if kind == "call":
            if len(values) != 1:
                raise NoValue
            return self._rational(self.point[node.name]) * values[0]
        if kind == "add":
            return sum(values[1:], values[0])
        if kind == "mul":
            product = values[0]
            for value in values[1:]:
                product = product * value
            return product
        if kind == "neg":
            return -values[0]
        if kind == "div":
            return values[0] / values[1]
        if kind == "percent":
            return values[0] / 100
        if kind == "deg":
            return values[0] * ctx.pi / 180
        if kind == "fact":
            return self._special(lambda: ctx.gamma(values[0] + 1), values)
        if kind == "fn":
            return self._function(node.name, values)
        raise NoValue

    def _rational(self, value: Fraction) -> Any:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > 8000:
            raise TooCostly("a number is too long")
        return self.ctx.mpf(value.numerator) / value.denominator

    def _power(self, base: Any, exponent: Any) -> Any:
        ctx = self.ctx
        if not base:
            if ctx.re(exponent) > 0:
                return ctx.mpf(0)
            raise NoValue
        if abs(exponent) * (abs(ctx.mag(base)) + 1) > 8000:
            raise TooCostly("a power is too large or too small to work out")
        return ctx.power(base, exponent)

    def _special(self, compute: Any, values: list[Any]) -> Any:
        self.special += 1
        if (
            self.special > MAX_SPECIAL
            or self.ctx.dps > 170
            or any(abs(value) > 2000 for value in values)
        ):
            raise TooCostly("a factorial or binomial is too large to work out")
        return compute()

    def _function(self, name: str, values: list[Any]) -> Any:
        ctx = self.ctx
        x = values[0]
        if name == "root":
            degree = values[1]
            if not degree:
                raise NoValue
            if degree == 2:
                return ctx.sqrt(x)
            if not _is_complex(x) and x < 0 and degree == int(degree) and int(degree) % 2:
                return -self._power(-x, 1 / degree)  # the real root
            return self._power(x, 1 / degree)
        if name == "log" and len(values) == 2:
            return ctx.log(x) / ctx.log(values[1])
        if name == "binom":
            return self._special(lambda: ctx.binomial(x, values[1]), values)
        if name in ("max", "min"):
            if any(map(_is_complex, values)):
                raise NoValue
            return max(values) if name == "max" else min(values)
        if len(values) != 1 or name not in _MPMATH:
            raise NoValue
        if name in ("floor", "ceil") and _is_complex(x):
            raise NoValue
        if name == "exp" and abs(x) > 2000:
            raise TooCostly("a power of e is too large or too small to work out")
        return getattr(ctx, _MPMATH[name])(x)


_words = str.split
_MPMATH = {
    "ln": "log",
    "log": "log",  # log and ln are told apart by `compare`, not here
    "lg": "log10",
    "abs": "fabs",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arccot": "acot",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    **{name: name for name in _words("sin cos tan cot sec csc sinh cosh tanh coth exp floor ceil")},
}


def _context() -> Any:
    ctx = getattr(_local, "ctx", None)
    if ctx is None:
        from mpmath.ctx_mp import MPContext  # type: ignore[import-untyped]

        ctx = _local.ctx = MPContext()
    return ctx


def _is_complex(value: Any) -> bool:
    return isinstance(value, _context().mpc) and bool(abs(value.imag) > 1e-25 * (1 + abs(value)))


def _is_symbol(node: Node) -> bool:
    return node.kind == "const" and node.name not in ("pi", "e", "I")


def _imaginary(node: Node) -> bool:
    return any(part.kind == "const" and part.name == "I" for part in node.walk())


def _digits(node: Node) -> int:
    """Digits of the longest numbers written in it, all together."""
    total = 0
    for part in node.walk():
        if part.kind == "num" and part.value is not None:
            bits = part.value.numerator.bit_length() + part.value.denominator.bit_length()
            total += bits * 3 // 10 if bits > 40 else 0
    return total


def _refuse_large_constants(node: Node) -> None:
    """Raise TooCostly for closed parts such as 9^9^9 before any point is tried."""
    if not node.variables():
        exact(node)
        return
    for arg in node.args:
        _refuse_large_constants(arg)


def _point(names: list[str], low: float, high: float, salt: int) -> dict[str, Fraction]:
    """A value for each variable in [low, high], from its name: the same in every run."""
    width = Fraction(high - low).limit_denominator(1000)
    start = Fraction(low).limit_denominator(1000)
    return {name: start + width * Fraction(_hash(name, salt) % 9973, 9973) for name in names}


def _integers(names: list[str], salt: int) -> dict[str, Fraction]:
    """Distinct positive integers for the variables."""
    ranked = sorted(names, key=lambda name: _hash(name, salt))
    return {name: Fraction(2 + salt + 2 * rank) for rank, name in enumerate(ranked)}


def _hash(name: str, salt: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{salt}:{name}".encode(), digest_size=6).digest(), "big")
