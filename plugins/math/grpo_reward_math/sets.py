"""Sets of real numbers: intervals, unions, differences, inequalities, conditions.

Two sets are equal when they have the same members: the ends of both cut the line
into points and open pieces, and each set either holds such a cell or does not.
Ends are compared exactly (`numeric.equal`) and ordered by value. Sets whose ends
depend on variables are compared end by end.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpo_reward_math.numeric import equal, real_value
from grpo_reward_math.tree import Node, TooCostly, is_expression, number


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval; an end that is None is infinite, equal ends that are closed a point."""

    low: Node | None
    high: Node | None
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Combined:
    """A union, intersection ("inter") or difference ("minus") of sets."""

    operation: str
    parts: tuple[RealSet, ...]


RealSet = Piece | Combined

MAX_ENDS = 48

_LINE = Piece(None, None, False, False)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


def as_set(node: Node) -> RealSet | None:
    """The set of reals that a tree describes, or None when it describes none."""
    if node.kind == "tuple":
        return _interval(node)
    if node.kind == "set":
        if not all(map(is_expression, node.args)):
            return None
        return Combined("union", tuple(Piece(x, x, True, True) for x in node.args))
    if node.kind == "const" and node.name == "set:R":
        return _LINE
    if node.kind in ("union", "inter", "minus"):
        parts = [as_set(arg) for arg in node.args]
        known = tuple(part for part in parts if part is not None)
        return Combined(node.kind, known) if len(known) == len(parts) else None
    if node.kind == "builder":
        return _builder(node)
    if node.kind == "rel":
        return _relation(node.args[0], node.name, node.args[1])
    if node.kind == "chain":
        return _chain(node)
    if node.kind == "list" and all(arg.kind in ("rel", "chain") for arg in node.args):
        return _several(node)
    return None


def describes_set(node: Node) -> bool:
    """Whether it can only be meant as a set of reals: an interval with a square
    bracket or an infinite end, an inequality, a union …"""
    if node.kind in ("union", "inter", "minus", "builder"):
        return True
    if node.kind == "tuple":
        infinite = any(_is_infinite(arg) for arg in node.args)
        return len(node.args) == 2 and (node.name in ("[]", "[)", "(]") or infinite)
    if node.kind == "rel":
        return node.name in ("<", ">", "<=", ">=", "!=")
    if node.kind == "chain":
        signs = node.name.split()
        one_way = set(signs) <= {"<", "<="} or set(signs) <= {">", ">="}
        return len(signs) == 2 and one_way and not all(arg.kind == "var" for arg in node.args)
    if node.kind == "list":
        return any(describes_set(arg) and arg.kind in ("rel", "chain") for arg in node.args)
    return node.kind == "const" and node.name == "set:R"


def same_set(left: RealSet, right: RealSet) -> bool:
    """Whether two sets have the same members. Raises TooCostly."""
    ends = [*_ends(left), *_ends(right)]
    if len(ends) > MAX_ENDS:
        raise TooCostly(f"sets with more than {MAX_ENDS} ends")
    if any(end.variables() for end in ends):
        return _same_pieces(left, right)
    cuts: list[tuple[float, Node]] = []
    for end in ends:
        value = real_value(end)
        if value is None:
            return False
        if not any(_near(value, cut) and equal(end, known) for cut, known in cuts):
            cuts.append((value, end))
    cuts.sort(key=lambda cut: cut[0])
    places: dict[int, int] = {}
    for end in ends:
        value = real_value(end)
        assert value is not None
        for at, (cut, known) in enumerate(cuts):
            if _near(value, cut) and equal(end, known):
                places[id(end)] = 2 * at + 1
                break
    cells = range(2 * len(cuts) + 1)
    return all(_holds(left, cell, places) == _holds(right, cell, places) for cell in cells)


def _near(left: float, right: float) -> bool:
    return abs(left - right) <= 1e-9 * max(1.0, abs(left))


def _holds(members: RealSet, cell: int, places: dict[int, int]) -> bool:
    """Whether the set holds a cell: even cells are open pieces, odd ones points."""
    if isinstance(members, Piece):
        if members.low is not None:
            low = places[id(members.low)]
            if cell < low or (cell == low and not members.low_closed):
                return False
        if members.high is not None:
            high = places[id(members.high)]
            if cell > high or (cell == high and not members.high_closed):
                return False
        return True
    held = [_holds(part, cell, places) for part in members.parts]
    if members.operation == "union":
        return any(held)
    if members.operation == "inter":
        return all(held)
    return held[0] and not any(held[1:])


def _ends(members: RealSet) -> list[Node]:
    if isinstance(members, Piece):
        return [end for end in (members.low, members.high) if end is not None]
    return [end for part in members.parts for end in _ends(part)]


def _same_pieces(left: RealSet, right: RealSet) -> bool:
    """Sets whose ends hold variables: the same pieces, in any order."""
    mine, others = _flat(left), _flat(right)
    if mine is None or others is None or len(mine) != len(others):
        return False
    for piece in mine:
        match = next((other for other in others if _same_piece(piece, other)), None)
        if match is None:
            return False
        others.remove(match)
    return True


def _flat(members: RealSet) -> list[Piece] | None:
    if isinstance(members, Piece):
        return [members]
    if members.operation != "union":
        return None
    flat: list[Piece] = []
    for part in members.parts:
        pieces = _flat(part)
        if pieces is None:
            return None
        flat.extend(pieces)
    return flat


def _same_piece(left: Piece, right: Piece) -> bool:
    if (left.low_closed, left.high_closed) != (right.low_closed, right.high_closed):
        return False
    for mine, other in ((left.low, right.low), (left.high, right.high)):
        if mine is None or other is None:
            if mine is not other:
                return False
        elif not equal(mine, other):
            return False
    return True


# --- reading trees ----------------------------------------------------------------


def _is_infinite(node: Node) -> bool:
    inner = node.args[0] if node.kind in ("neg", "add") and len(node.args) == 1 else node
    return inner.kind == "const" and inner.name == "inf"


def _interval(node: Node) -> RealSet | None:
    if len(node.args) != 2 or node.name not in ("()", "[]", "(]", "[)"):
        return None
    if not all(map(is_expression, node.args)):
        return None
    low, high = node.args
    low_end = None if _is_infinite(low) and low.kind == "neg" else low
    high_end = None if _is_infinite(high) and high.kind != "neg" else high
    if (low_end is not None and _is_infinite(low_end)) or (
        high_end is not None and _is_infinite(high_end)
    ):
        return None
    return Piece(low_end, high_end, node.name[0] == "[", node.name[1] == "]")


def _relation(left: Node, sign: str, right: Node) -> RealSet | None:
    """`x < 3`, `3 > x`, `x \\in S`, `x = 3` for a variable that stands alone on one side."""
    if sign == "in":
        return as_set(right) if left.kind == "var" else None
    if sign not in _FLIPPED or not is_expression(left) or not is_expression(right):
        return None
    if not left.variables() or (left.kind != "var" and right.kind == "var"):
        left, right, sign = right, left, _FLIPPED[sign]
    if left.kind == "fn" and left.name == "abs" and not right.variables():
        return _distance(left.args[0], sign, right)
    if left.kind != "var" or left.name in right.variables():
        return None
    if _is_infinite(right):
        return _LINE if (sign == "<") == (right.kind != "neg") else None
    if sign in ("<", "<="):
        return Piece(None, right, False, sign == "<=")
    if sign in (">", ">="):
        return Piece(right, None, sign == ">=", False)
    point = Piece(right, right, True, True)
    return point if sign == "=" else Combined("minus", (_LINE, point))


def _distance(inside: Node, sign: str, bound: Node) -> RealSet | None:
    """`|x - 3| < 2`, for a positive bound."""
    names = inside.variables()
    if len(names) != 1 or (real_value(bound) or 0) <= 0 or sign not in ("<", "<=", ">", ">="):
        return None
    variable = Node("var", name=next(iter(names)))
    shift = inside.map(lambda part: number(0) if part == variable else None)
    if not equal(inside, Node("add", (variable, shift))):
        return None
    low = Node("add", (Node("neg", (bound,)), Node("neg", (shift,))))
    high = Node("add", (bound, Node("neg", (shift,))))
    closed = sign == "<="
    if sign[0] == "<":
        return Piece(low, high, closed, closed)
    return Combined("minus", (_LINE, Piece(low, high, sign == ">", sign == ">")))


def _chain(node: Node) -> RealSet | None:
    """`a < x <= b`, with the variable in the middle."""
    signs = node.name.split()
    if len(signs) != 2 or node.args[1].kind != "var":
        return None
    low, middle, high = node.args
    if signs[0][0] != signs[1][0] or signs[0][0] not in "<>":
        return None
    first, second = _relation(low, signs[0], middle), _relation(middle, signs[1], high)
    if signs[0][0] == ">":
        first, second = second, first
    if isinstance(first, Piece) and isinstance(second, Piece):
        return Piece(first.low, second.high, first.low_closed, second.high_closed)
    return None


def _builder(node: Node) -> RealSet | None:
    """`{x | condition}`, or `{x in S | condition}`."""
    what, condition = node.args
    within: RealSet = _LINE
    if what.kind == "rel" and what.name == "in":
        domain = as_set(what.args[1])
        if domain is None:
            return None
        within, what = domain, what.args[0]
    if what.kind != "var":
        return None
    members = as_set(condition)
    if members is None or (condition.kind not in ("rel", "chain", "list")):
        return None
    return members if within is _LINE else Combined("inter", (within, members))


def _several(node: Node) -> RealSet | None:
    """Conditions joined by "or" (a union), by "and" (an intersection), or by a comma:
    `x < -3, x > 3` is meant as a union, `x > 1, x < 3` as an intersection."""
    names = {name for arg in node.args for name in arg.variables()}
    parts = [as_set(arg) for arg in node.args]
    known = tuple(part for part in parts if part is not None)
    if len(names) != 1 or len(known) != len(parts):
        return None
    if "or" in node.name.split():
        return Combined("union", known)
    both = Combined("inter", known)
    if "and" in node.name.split() or not same_set(both, Combined("union", ())):
        return both
    return Combined("union", known)
