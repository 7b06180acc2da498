"""Reading tokens into the tree of a whole answer: items, relations, brackets, units.

The upper half of a recursive-descent parser of bounded depth over a bounded number
of tokens (`expressions` is the lower one): its cost is linear and nothing is worked
out. Left out: what a tree is worth (`numeric`), when two are the same (`compare`).
"""

from __future__ import annotations

from dataclasses import replace

from grpo_reward_math.ellipsis import progression
from grpo_reward_math.expressions import MAX_DEPTH, ExpressionReader
from grpo_reward_math.tokens import Token
from grpo_reward_math.tree import Node, Unreadable, number
from grpo_reward_math.units import read_unit, scale_word

MAX_TREE_DEPTH = 100
"""Everything after parsing recurses over the tree, three frames a level."""

_words = str.split
_DENIALS = frozenset(_words("not no never without except wrong incorrect false neither nor"))
_NUMBER_SETS = frozenset(_words("N Z Q R C"))
_CONDITION_WORDS = frozenset(
    _words(
        "where for if when with all any some every each is are be being as that integer integers natural number "
        "numbers real positive negative nonnegative non arbitrary constant constants a an the in of any parameter "
        "parameters whole prime such and or denotes belongs to fixed"
    )
)


def parse(tokens: tuple[Token, ...]) -> Node:
    """The tree of an answer. Raises Unreadable, which says where it stopped."""
    parser = _Parser(tokens)
    node = parser.answer()
    if parser.kind != "end":
        raise Unreadable(f"{parser.token.text or parser.kind!r} is not expected there")
    if node.depth() > MAX_TREE_DEPTH:
        raise Unreadable(f"it is nested more than {MAX_TREE_DEPTH} deep")
    return node


class _Parser(ExpressionReader):
    def answer(self, *closing: str) -> Node:
        """Items up to the end, or up to a closing bracket (not consumed)."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        items: list[Node] = []
        joints: set[str] = set()
        while self.kind == "sep":
            if self.take().text in ("and", "or"):
                raise Unreadable("an answer begins with a conjunction")
        while self.kind not in ("end", *closing):
            self.label()
            items.append(self.item())
            if self.kind == "cond":
                self.condition(items, closing)
            if self.kind not in ("sep", "end", *closing):
                break
            while self.kind == "sep":
                joint = self.take().text
                joints.add(joint)
                if joint in ("and", "or") and self.kind in ("end", *closing):
                    raise Unreadable("an answer ends with a conjunction")
        self.depth -= 1
        items = progression(_without_conditions(items))
        if not items:
            raise Unreadable("nothing stands there")
        if len(items) == 1:
            return items[0]
        return Node("list", tuple(items), " ".join(sorted(joints)))

    def label(self) -> None:
        """Drop `Paolo:` and `Maximum =` before an item."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at].kind == "word":
            if self.tokens[at].text.lower() in _DENIALS:
                return
            at += 1
        if at == self.at:
            return
        if (
            at < len(self.tokens)
            and self.tokens[at].kind == "num"
            and self.tokens[at - 1].kind == "word"
        ):
            after = at + 1  # "Sequence 1:"
            if after < len(self.tokens) and self.tokens[after].kind == ":":
                self.at = after + 1
                return
        words = {token.text.lower() for token in self.tokens[self.at : at]}
        rest = [token.kind for token in self.tokens[at : at + 2]]
        if words <= _CONDITION_WORDS and rest == ["var", "rel"]:
            self.at = at  # "all integers n \\ge 3"
            return
        if at < len(self.tokens) and (
            self.tokens[at].kind == ":" or self.tokens[at][:2] == ("rel", "=")
        ):
            self.at = at + 1

    def condition(self, items: list[Node], closing: tuple[str, ...]) -> None:
        """Drop "for all integers n" after an item with a variable; nothing else."""
        if not any(item.variables() for item in items):
            raise Unreadable("a condition follows, but nothing depends on it")
        while self.kind not in ("end", *closing):
            token = self.take()
            if token.kind in ("word", "cond", "sep"):
                if token.kind == "word" and token.text.lower() not in _CONDITION_WORDS:
                    raise Unreadable(f"a condition that is not understood follows ({token.text})")
            elif token.kind in ("var", "numbers", "num") or (
                token.kind == "rel" and token.text in ("in", "<", ">", "<=", ">=", "!=")
            ):
                continue
            else:
                raise Unreadable("a condition that is not understood follows")

    def item(self) -> Node:
        if self.kind == "quant":
            name = self.take().text
            return Node("quant", (self.relation(),), name)
        return self.relation()

    def relation(self) -> Node:
        if self.token[:2] == ("rel", "~"):  # "≈ 3.14" is said of something unnamed
            self.take()
            return Node("rel", (Node("var", name="it"), self.side()), "~")
        parts = [self.side()]
        names: list[str] = []
        while self.kind == "rel":
            names.append(self.take().text)
            parts.append(self.side())
            if names[-1] == "in" and parts[-1].kind == "var" and parts[-1].name[0] in _NUMBER_SETS:
                parts[-1] = Node("const", name=f"set:{parts[-1].name}")
        if not names:
            return parts[0]
        if len(names) == 1:
            return Node("rel", tuple(parts), names[0])
        return Node("chain", tuple(parts), " ".join(names))

    def side(self) -> Node:
        """A set expression, or a ratio, or a quantity with its unit."""
        if self.kind == "rel":
            raise Unreadable("nothing stands before a relation sign")
        node = _as_ratio(self.expression())
        while self.kind in ("cup", "cap", "setminus"):
            kind = {"cup": "union", "cap": "inter", "setminus": "minus"}[self.take().kind]
            other = self.expression()
            if kind == node.kind == "union":
                node = replace(node, args=(*node.args, other))
            else:
                node = Node(kind, (node, other))
        if self.kind == "mod" or (self.kind == "(" and self.ahead() == "mod"):
            return self.modulo(node)
        return self.with_unit(node)

    def modulo(self, node: Node) -> Node:
        r"""`3 \pmod 7`, or `3 (mod 7)`."""
        bracketed = self.skip("(")
        self.expect("mod")
        modulus = self.braced() if self.kind == "{" else self.atom()
        if bracketed:
            self.expect(")")
        return Node("tuple", (node, modulus), "mod")

    def with_unit(self, node: Node) -> Node:
        parts: list[str] = []
        bracketed = self.kind == "(" and self.ahead() == "word"
        if bracketed:
            self.take()
        while self.kind == "word" or (parts and self.kind in ("/", "^", "*", "{", "}", "num", "-")):
            if self.kind in ("num", "-") and parts[-1][-1] not in "^-":
                break
            token = self.take()
            if token.kind == "word" and not parts and (scale := scale_word(token.text)):
                node = Node("mul", (node, number(scale)))
            elif token.kind == "word":
                parts.append(token.text)
            elif token.kind not in "{}":
                parts.append(token.text or token.kind)
        if bracketed:
            self.expect(")")
        if not parts:
            return node
        if self.kind == "num" and self.ahead() == "word":  # 5 hours 30 minutes
            finer = self.with_unit(self.expression())
            if finer.kind == "quantity":
                return _together(node, " ".join(parts), finer)
        return Node("quantity", (node,), " ".join(parts))

    # --- brackets ----------------------------------------------------------------

    def bracket(self, kind: str) -> Node:
        bars, self.bars = self.bars, 0
        colons, self.colons = self.colons, True
        if kind == "lset":
            node = self.braces()
        else:
            inside = self.answer(")", "]")
            closing = self.expect(")", "]").kind
            brackets = kind + closing
            if inside.kind == "list":
                node = Node("tuple", inside.args, brackets)
            elif brackets == "()":
                node = inside
            else:
                node = Node("tuple", (inside,), brackets)
        self.bars, self.colons = bars, colons
        return node

    def braces(self) -> Node:
        if self.skip("rset"):
            return Node("set")
        if self.kind == "beg":  # \left\{ \begin{array} … \right.
            node = self.matrix(self.take().text)
            self.skip("dot")
            self.skip("rset")
            return node
        bars, self.bars = self.bars, 1
        self.colons = False
        inside = self.answer("rset", "bar", "mid", ":")
        self.bars, self.colons = bars, True
        if self.skip("bar", "mid", ":"):
            condition = self.answer("rset")
            self.expect("rset")
            return Node("builder", (inside, condition))
        self.expect("rset")
        if inside.kind == "div" and inside.args[0].kind == "var":
            raise Unreadable("a set whose condition is not understood")
        return Node("set", inside.args if inside.kind == "list" else (inside,))

    def plain_braces(self) -> Node:
        """`{…}` without backslashes: a group, or a set that lost them."""
        if self.kind == "var" and self.ahead() in ("bar", "mid"):
            what = self.variable(self.take().text)
            self.take()
            condition = self.answer("}")
            self.expect("}")
            return Node("builder", (what, condition))
        node = self.answer("}", "choose")
        if self.skip("choose"):
            node = Node("fn", (node, self.answer("}")), "binom")
        self.expect("}")
        return Node("set", node.args) if node.kind == "list" else node

    def matrix(self, name: str) -> Node:
        if not name.endswith("matrix") and name not in ("array", "cases", "aligned"):
            raise Unreadable(f"the environment {name} is not known")
        rows: list[Node] = []
        while self.kind not in ("end", "close"):
            cells = [self.item()]
            while self.skip("&", "sep"):
                self.skip("cond")
                cells.append(self.item())
            rows.append(Node("tuple", tuple(cells), "row"))
            if not self.skip("row"):
                break
        if self.kind != "close" or self.token.text != name:
            raise Unreadable(f"\\begin{{{name}}} is never closed")
        self.take()
        if name in ("cases", "array", "aligned") and all(len(row.args) == 1 for row in rows):
            cells = [row.args[0] for row in rows]
            if all(cell.kind in ("rel", "chain") for cell in cells):
                return cells[0] if len(cells) == 1 else Node("list", tuple(cells), "and")
        return Node("matrix", tuple(rows), name)


def _as_ratio(node: Node) -> Node:
    """`1:2:3` as a ratio of three; `1:2` stays the quotient that it is."""
    terms: list[Node] = []
    while node.kind == "div" and node.name == ":":
        terms.append(node.args[1])
        node = node.args[0]
    if len(terms) < 2:
        return Node("div", (node, terms[0])) if terms else node
    return Node("ratio", (node, *reversed(terms)))


def _together(node: Node, name: str, finer: Node) -> Node:
    """A quantity in two units of one dimension, as one quantity in the finer unit."""
    coarse, fine = (
        read_unit(tuple((word, 1) for word in unit.split())) for unit in (name, finer.name)
    )
    if coarse.dimensions != fine.dimensions or coarse.scale <= fine.scale:
        raise Unreadable("two quantities stand side by side")
    value = Node("mul", (node, number(coarse.scale / fine.scale)))
    return replace(finer, args=(Node("add", (value, finer.args[0])),))


def _without_conditions(items: list[Node]) -> list[Node]:
    r"""Drop `k \in \mathbb{Z}` after other items, and as a factor `(k \in \mathbb{Z})`."""

    kept: list[Node] = []

    def bounds_index(node: Node) -> bool:
        """`n \\ge 1` after a formula in n."""
        return (
            node.kind == "rel"
            and node.name in (">=", ">", "<=", "<")
            and node.args[0].kind == "var"
            and node.args[0].name in ("n", "k", "m")
            and node.args[1].kind == "num"
            and not any(other.kind == "rel" and other.name[0] in "<>!" for other in kept)
        )

    def is_domain(node: Node) -> bool:
        return (
            node.kind == "rel"
            and node.name == "in"
            and node.args[1].kind == "const"
            and node.args[1].name.startswith("set:")
        )

    known: set[str] = set()  # variables of the items kept so far
    for item in items:
        if kept and bounds_index(item) and item.args[0].variables() <= known:
            continue
        if is_domain(item) and item.args[0].variables() <= known:
            continue
        if item.kind == "mul" and is_domain(item.args[-1]) and item.args[0].variables():
            rest = item.args[:-1]
            item = rest[0] if len(rest) == 1 else replace(item, args=rest)
        elif item.kind == "rel" and item.args[1].kind == "mul" and is_domain(item.args[1].args[-1]):
            rest = item.args[1].args[:-1]
            right = rest[0] if len(rest) == 1 else replace(item.args[1], args=rest)
            item = replace(item, args=(item.args[0], right))
        kept.append(item)
        known |= item.variables()
    return kept
