"""When two answers are the same: shape by shape, after labels and ± are resolved.

Several values match in any order; tuples in theirs; intervals, inequalities and
unions as sets of reals; equations up to a constant factor; quantities with their
units; formulas by `numeric.equal`. Every function returns a `Match` that says which
rule decided. Left out: reading text (`grammar`), plain numerals (`numbers`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from grpo_reward_math import shapes
from grpo_reward_math.equations import same_equation, solves
from grpo_reward_math.formulas import rounds_to_gold, same_family, same_formula
from grpo_reward_math.sets import as_set, describes_set, same_set
from grpo_reward_math.shapes import Labelled
from grpo_reward_math.tree import Node, Unreadable, is_expression
from grpo_reward_math.units import Unit, read_quantity


class Match(NamedTuple):
    equal: bool
    why: str


Units = Literal["if_given", "required", "ignore"]

MAX_VALUES = 64


def same_answer(
    gold: Node,
    answer: Node,
    *,
    units: Units = "if_given",
    lenient_percent: bool = False,
) -> Match:
    """Whether two answers are the same. Raises TooCostly, Unreadable."""
    comparison = _Comparison(units, lenient_percent)
    match = comparison.answers(gold, answer)
    if match.equal:
        return match
    for names in shapes.renamings(gold, answer):
        renamed = comparison.answers(gold, answer.renamed(names))
        if renamed.equal:
            return Match(True, f"{renamed.why}, after renaming {_pairs(names)}")
    return match


def _pairs(names: dict[str, str]) -> str:
    return ", ".join(f"{old} to {new}" for old, new in names.items())


class _Comparison:
    def __init__(self, units: Units, lenient_percent: bool) -> None:
        self.units = units
        self.lenient_percent = lenient_percent

    def answers(self, gold: Node, answer: Node) -> Match:
        """Two whole answers."""
        if describes_set(gold):
            return self.sets(gold, answer)
        if gold.kind == "chain" and set(gold.name.split()) != {"="}:
            return self.orders(gold, answer)
        if (
            gold.kind == "rel"
            and answer.kind == "rel"
            and (equations := same_equation(gold, answer))
        ):
            return Match(True, equations)
        if (letters := shapes.choice_letters(gold)) and letters == shapes.choice_letters(answer):
            return Match(True, "the same choices")
        gold_named, answer_named = shapes.named_tuple(gold), shapes.named_tuple(answer)
        if gold_named is not None and answer_named is not None:
            match = self.several(gold_named, answer_named)
            if match.equal or {p.label for p in gold_named} == {p.label for p in answer_named}:
                return match
        if answer_named is not None and gold.kind == "list":
            match = self.several(shapes.parts(gold), answer_named)
            if match.equal:
                return match
        if gold_named is not None and answer.kind == "list":
            match = self.several(gold_named, shapes.parts(answer))
            if match.equal:
                return match
        mine, theirs = shapes.parts(gold), shapes.parts(answer)
        if len(mine) == 1 and mine[0].value.kind == "set" and len(theirs) > 1:
            return self.set_and_list(mine[0].value, [part.value for part in theirs])
        if len(theirs) == 1 and theirs[0].value.kind == "set" and len(mine) > 1:
            return self.set_and_list(theirs[0].value, [part.value for part in mine])
        if len(mine) == 1 and len(theirs) == 1:
            return self.labelled(gold, mine[0], theirs[0])
        if len(theirs) == 1 and theirs[0].value.kind == "tuple" and len(mine) > 1:
            items = theirs[0].value.args
            if theirs[0].value.name in ("()", "[]") and len(items) == len(mine):
                return self.in_order([part.value for part in mine], list(items))
        if len(mine) == 1 and mine[0].value.kind == "tuple" and mine[0].value.name == "()":
            names = [part.label for part in theirs]
            if all(names) and len(set(names)) == len(names) > 1:  # x = 1, y = 2 for (1, 2)
                named = sorted(theirs, key=lambda part: part.label)
                return self.in_order(list(mine[0].value.args), [part.value for part in named])
        return self.several(mine, theirs)

    def labelled(self, whole: Node, gold: Labelled, answer: Labelled) -> Match:
        """One value each, either of which may be called something."""
        value = answer.value
        if gold.bound and answer.bound and len(gold.bound) == len(answer.bound):
            value = value.renamed(dict(zip(answer.bound, gold.bound, strict=True)))
        elif not shapes.labels_agree(gold, answer):
            return Match(False, "the value of something else")
        match = self.values(gold.value, value)
        if gold.bound and not match.equal:
            for names in shapes.parameters(gold, value):
                if self.values(gold.value, value.renamed(names)).equal:
                    return Match(True, f"the same functions, after renaming {_pairs(names)}")
        if match.equal or whole.kind != "rel" or gold.label:
            return match
        why = solves(whole, value)
        return Match(True, why) if why else match

    def several(self, gold: list[Labelled], answer: list[Labelled]) -> Match:
        """Several values: by name where both are named alike, else in any order."""
        if len(gold) != len(answer):
            return Match(False, f"{_count(len(answer))} for {len(gold)}")
        if len(gold) > MAX_VALUES:
            return Match(False, f"more than {MAX_VALUES} values are not compared")
        names = [part.label.lower() for part in gold]
        theirs = [part.label.lower() for part in answer]
        if all(names) and all(theirs) and len(set(names)) == len(names) > 1:
            if set(names) != set(theirs):
                return Match(False, "the values are called something else")
            ordered = [answer[theirs.index(name)] for name in names]
            for mine, other in zip(gold, ordered, strict=True):
                match = self.labelled(mine.value, mine, other)
                if not match.equal:
                    return Match(False, f"{mine.label} differs: {match.why}")
            return Match(True, f"the same {len(gold)} named values")
        match = self.any_order([part.value for part in gold], [part.value for part in answer])
        if match.equal or not any(part.value.kind == "rel" for part in (*gold, *answer)):
            return match
        equations = [shapes.as_equation(part) for part in answer]
        for part in gold:
            wanted = shapes.as_equation(part)
            for at, given in enumerate(equations):
                if wanted is not None and given is not None and same_equation(wanted, given):
                    del equations[at]
                    break
            else:
                return match
        return Match(True, "the same equations")

    def any_order(self, gold: list[Node], answer: list[Node]) -> Match:
        if len(gold) != len(answer):
            return Match(False, f"{_count(len(answer))} for {len(gold)}")
        left = list(answer)
        for value in gold:
            for at, other in enumerate(left):
                if self.values(value, other).equal:
                    del left[at]
                    break
            else:
                return Match(False, "one of the values is missing")
        return Match(True, f"the same {_count(len(gold))} in any order")

    def in_order(self, gold: list[Node], answer: list[Node]) -> Match:
        if len(gold) != len(answer):
            return Match(False, f"{_count(len(answer))} for {len(gold)}")
        for at, (mine, other) in enumerate(zip(gold, answer, strict=True), start=1):
            match = self.values(mine, other)
            if not match.equal:
                return Match(False, f"value {at} differs: {match.why}")
        return Match(True, "the same values in order")

    def set_and_list(self, members: Node, values: list[Node]) -> Match:
        expanded = [v for arg in members.args for v in shapes.expand(arg)]
        return self.any_order(expanded, values)

    def values(self, gold: Node, answer: Node) -> Match:
        """Two values without labels."""
        if gold == answer:
            return Match(True, "the same formula")
        if "quantity" in (gold.kind, answer.kind):
            return self.quantities(gold, answer)
        if describes_set(gold) or (gold.kind == "tuple" and describes_set(answer)):
            return self.sets(gold, answer)
        if gold.kind == "tuple" and answer.kind in ("tuple", "matrix"):
            return self.tuples(gold, answer)
        if gold.kind == "matrix" and answer.kind in ("tuple", "matrix"):
            return self.tuples(gold, answer)
        if gold.kind == "set" and answer.kind == "set":
            return self.finite_sets(gold, answer)
        if gold.kind == "set" and len(gold.args) == 1:
            return self.values(gold.args[0], answer)
        if answer.kind == "set" and len(answer.args) == 1 and gold.kind != "set":
            return self.values(gold, answer.args[0])
        if gold.kind == answer.kind == "ratio":
            return self.ratios(gold, answer)
        if gold.kind == answer.kind == "based":
            same = gold == answer
            return Match(same, "the same number in the same base" if same else "another number")
        if gold.kind == answer.kind == "call":
            return self.in_order(list(gold.args), list(answer.args))
        if gold.kind == answer.kind and gold.kind in ("rel", "quant"):
            return self.relations(gold, answer)
        if is_expression(gold) and is_expression(answer):
            return self.formulas(gold, answer)
        return Match(False, f"{_called(answer)} is given, {_called(gold)} is wanted")

    def ratios(self, gold: Node, answer: Node) -> Match:
        if len(gold.args) != len(answer.args):
            return Match(False, "a ratio of another length")
        for mine, other in zip(gold.args[1:], answer.args[1:], strict=True):
            cross = (Node("mul", (mine, answer.args[0])), Node("mul", (other, gold.args[0])))
            if not same_formula(*cross):
                return Match(False, "another ratio")
        return Match(True, "the same ratio")

    def formulas(self, gold: Node, answer: Node) -> Match:
        if gold.kind == "deg" and answer.kind != "deg":
            match = self.formulas(gold.args[0], answer)  # 45 for 45°
            if match.equal:
                return Match(True, "the same number of degrees")
        elif answer.kind == "deg" and gold.kind != "deg":
            match = self.formulas(gold, answer.args[0])
            if match.equal:
                return Match(True, "the same number, in degrees")
        if self.lenient_percent and gold.kind == "percent" and answer.kind != "percent":
            match = self.formulas(gold.args[0], answer)
            if match.equal:
                return Match(True, "the same number of per cent")
        if why := same_formula(gold, answer):
            return Match(True, why)
        if rounds_to_gold(gold, answer):
            return Match(True, "an exact value that rounds to the gold")
        if same_family(gold, answer):
            return Match(True, "the same family of values")
        return Match(False, "another value")

    def sets(self, gold: Node, answer: Node) -> Match:
        value = shapes.unlabel(answer).value if answer.kind == "rel" else answer
        value = value.args[0] if value.kind == "set" and _wraps_set(value) else value
        mine = as_set(shapes.unlabel(gold).value if not describes_set(gold) else gold)
        theirs = as_set(value)
        if mine is None:
            if gold.kind == value.kind and gold.kind in ("rel", "list", "chain", "builder"):
                return self.inequalities(gold, value)
            raise Unreadable("the gold's set is not understood")
        if theirs is None:
            return Match(False, f"{_called(answer)} is given, a set of numbers is wanted")
        if same_set(mine, theirs):
            return Match(True, "the same set of numbers")
        return Match(False, "another set of numbers")

    def inequalities(self, gold: Node, answer: Node) -> Match:
        """Inequalities in several variables, side by side."""
        if gold.kind == "builder":  # {(x, y) | x + y = 1}
            for mine, other in zip(gold.args, answer.args, strict=True):
                if not self.answers(mine, other).equal:
                    return Match(False, "a set with another condition")
            return Match(True, "the same set, condition by condition")
        if gold.kind == "rel":
            return self.relations(gold, answer)
        if gold.kind == "chain":
            return self.orders(gold, answer)
        left = list(answer.args)
        for mine in gold.args:
            for at, other in enumerate(left):
                if mine.kind == other.kind and self.inequalities(mine, other).equal:
                    del left[at]
                    break
            else:
                return Match(False, "one of the conditions is missing")
        return Match(not left, "the same conditions" if not left else "a condition too many")

    def relations(self, gold: Node, answer: Node) -> Match:
        if gold.kind == "quant":
            if gold.name != answer.name:
                return Match(False, "another quantifier")
            return self.relations(gold.args[0], answer.args[0])
        flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
        sides = answer.args
        if gold.kind != "rel" or answer.kind != "rel":
            return Match(gold == answer, "the same statement" if gold == answer else "another")
        if answer.name == flipped.get(gold.name):
            sides = (sides[1], sides[0])
        elif answer.name != gold.name:
            return Match(False, "another relation")
        match = self.in_order(list(gold.args), list(sides))
        return Match(match.equal, "the same statement" if match.equal else match.why)

    def orders(self, gold: Node, answer: Node) -> Match:
        """`b < a < d`: the same chain, or its names in order."""
        signs = set(gold.name.split())
        if answer.kind == "list" and signs == {"<"} and all(a.kind == "var" for a in gold.args):
            return self.in_order(list(gold.args), list(answer.args))
        if answer.kind == "chain":
            flipped = answer.name.translate(str.maketrans("<>", "><"))
            if answer.name == gold.name:
                return self.in_order(list(gold.args), list(answer.args))
            if " ".join(reversed(flipped.split())) == gold.name:
                return self.in_order(list(gold.args), list(reversed(answer.args)))
        return Match(False, "another chain of relations")

    def tuples(self, gold: Node, answer: Node) -> Match:
        if gold.kind == answer.kind == "tuple" and {gold.name, answer.name} != {"row"}:
            mixed = {gold.name, answer.name} - {"()"}
            if mixed and len(gold.args) == 2 and gold.name != answer.name:
                return Match(False, "other brackets")
            return self.in_order(list(gold.args), list(answer.args))
        mine, theirs = _rows(gold), _rows(answer)
        if len(theirs) != len(mine) and 1 in (len(mine), len(theirs)):
            if gold.kind == answer.kind:
                return Match(False, "a matrix of another shape")
            mine, theirs = _column(mine), _column(theirs)  # a vector, written either way
        if [len(row) for row in mine] != [len(row) for row in theirs]:
            return Match(False, "a matrix of another shape")
        cells = [cell for row in mine for cell in row]
        return self.in_order(cells, [cell for row in theirs for cell in row])

    def finite_sets(self, gold: Node, answer: Node) -> Match:
        if len(answer.args) > 2 * len(gold.args) + 8:
            return Match(False, f"{_count(len(answer.args))} for {len(gold.args)}")
        mine, theirs = _distinct(self, gold), _distinct(self, answer)
        match = self.any_order(mine, theirs)
        return Match(match.equal, "the same set" if match.equal else match.why)

    def quantities(self, gold: Node, answer: Node) -> Match:
        """Values with units: the units must agree, and then the values in them."""
        mine, my_unit = read_quantity(gold)
        theirs, their_unit = read_quantity(answer)
        if gold.kind == "deg" and their_unit is not None and _is_angle(their_unit):
            why = same_formula(gold, theirs)  # radians are plain numbers, degrees are not
            return Match(bool(why), why or "another angle")
        if self.units == "ignore" or my_unit is None:
            return self.values(mine, theirs)
        if their_unit is None:
            if self.units == "required":
                return Match(False, "the unit is missing")
            return self.values(mine, theirs)
        if my_unit.dimensions != their_unit.dimensions:
            return Match(False, "another unit")
        if my_unit.scale != their_unit.scale:
            factor = Node("num", value=their_unit.scale / my_unit.scale)
            theirs = Node("mul", (theirs, factor))
        match = self.values(mine, theirs)
        if match.equal:
            return Match(True, f"{match.why}, with its unit")
        return Match(False, "another quantity" if my_unit.scale != their_unit.scale else match.why)


def _is_angle(unit: Unit) -> bool:
    return [name for name, _ in unit.dimensions] == ["angle"]


def _wraps_set(node: Node) -> bool:
    return len(node.args) == 1 and describes_set(node.args[0])


def _distinct(comparison: _Comparison, node: Node) -> list[Node]:
    kept: list[Node] = []
    for item in node.args[:MAX_VALUES]:
        for value in shapes.expand(item):
            if not any(comparison.values(known, value).equal for known in kept):
                kept.append(value)
    return kept


def _rows(node: Node) -> list[list[Node]]:
    if node.kind == "matrix":
        return [list(row.args) for row in node.args]
    if node.args and all(arg.kind == "tuple" for arg in node.args):
        return [list(row.args) for row in node.args]
    return [list(node.args)]


def _column(rows: list[list[Node]]) -> list[list[Node]]:
    return [[cell] for row in rows for cell in row]


def _count(number: int) -> str:
    return "one value" if number == 1 else f"{number} values"


_NAMES = {
    "tuple": "a tuple or interval",
    "set": "a set",
    "rel": "a relation",
    "chain": "a chain of relations",
    "list": "a list",
    "matrix": "a matrix",
    "word": "a word",
}


def _called(node: Node) -> str:
    return _NAMES.get(node.kind, "a formula")
