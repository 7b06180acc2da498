"""Reading tokens into a tree: expressions, and the shapes that answers take.

A recursive-descent parser of bounded depth over a bounded number of tokens: its
cost is linear and nothing is worked out. Left out: what a tree is worth
(`numeric`) and when two are the same answer (`compare`).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from grpo_reward_math.tokens import Token
from grpo_reward_math.tree import Node, Unreadable, number
from grpo_reward_math.units import scale_word

MAX_DEPTH = 40
_words = str.split
_END = Token("end")
_CALLABLE = frozenset(_words("f g h F G H P Q R S T"))
_STARTS = frozenset(
    _words(
        "num var const fn frac sqrt binom ( [ lset lfloor lceil bar { begin empty numbers money dots"
    )
)
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
    return node


class _Parser:
    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    @property
    def kind(self) -> str:
        return self.token.kind

    def ahead(self, by: int = 1) -> str:
        return self.tokens[self.at + by].kind if self.at + by < len(self.tokens) else "end"

    def take(self) -> Token:
        token = self.token
        self.at += 1
        return token

    def skip(self, *kinds: str) -> bool:
        if self.kind in kinds:
            self.at += 1
            return True
        return False

    def expect(self, *kinds: str) -> Token:
        if self.kind not in kinds:
            found = "it ends" if self.kind == "end" else f"{self.token.text or self.kind!r} stands"
            raise Unreadable(f"{found} where {' or '.join(kinds)} is expected")
        return self.take()

    # --- answers: lists of items -------------------------------------------------

    def answer(self, *closing: str) -> Node:
        """Items up to the end, or up to a closing bracket (not consumed)."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        items: list[Node] = []
        joints: set[str] = set()
        while self.skip("sep"):
            pass
        while self.kind not in ("end", *closing):
            self.label()
            items.append(self.item())
            if self.kind == "cond":
                self.condition(items, closing)
            if self.kind not in ("sep", "end", *closing):
                break
            while self.kind == "sep":
                joints.add(self.take().text)
        self.depth -= 1
        items = _without_conditions(items)
        if not items:
            raise Unreadable("nothing stands there")
        if len(items) == 1:
            return items[0]
        return Node("list", tuple(items), " ".join(sorted(joints)))

    def label(self) -> None:
        """Drop `Paolo:` and `Maximum =` before an item."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at].kind == "word":
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
            elif token[:2] == ("rel", "in") or token.kind in ("var", "numbers"):
                continue
            else:
                raise Unreadable("a condition that is not understood follows")

    def item(self) -> Node:
        if self.kind == "quant":
            name = self.take().text
            return Node("quant", (self.relation(),), name)
        return self.relation()

    def relation(self) -> Node:
        parts = [self.side()]
        names: list[str] = []
        while self.kind == "rel":
            names.append(self.take().text)
            parts.append(self.side())
        if not names:
            return parts[0]
        if len(names) == 1:
            return Node("rel", tuple(parts), names[0])
        return Node("chain", tuple(parts), " ".join(names))

    def side(self) -> Node:
        """A set expression, or a ratio, or a quantity with its unit."""
        if self.kind == "rel":
            raise Unreadable("nothing stands before a relation sign")
        node = self.expression()
        while self.kind in ("cup", "cap", "setminus"):
            kind = {"cup": "union", "cap": "inter", "setminus": "minus"}[self.take().kind]
            other = self.expression()
            if kind == node.kind == "union":
                node = replace(node, args=(*node.args, other))
            else:
                node = Node(kind, (node, other))
        return self.with_unit(node)

    def with_unit(self, node: Node) -> Node:
        parts: list[str] = []
        while self.kind == "word" or (parts and self.kind in ("/", "^", "*", "{", "}", "num", "-")):
            if self.kind == "num" and parts[-1][-1] not in "^-":
                break
            token = self.take()
            if token.kind == "word" and not parts and (scale := scale_word(token.text)):
                node = Node("mul", (node, number(scale)))
            elif token.kind == "word":
                parts.append(token.text)
            elif token.kind not in "{}":
                parts.append(token.text or token.kind)
        return Node("quantity", (node,), " ".join(parts)) if parts else node

    # --- expressions -------------------------------------------------------------

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        terms = [self.term()]
        while self.kind in ("+", "-", "pm"):
            sign = self.take()
            term = self.term()
            if sign.kind == "-":
                term = Node("neg", (term,))
            elif sign.kind == "pm":
                term = Node("pm", (term,), sign.text)
            terms.append(term)
        self.depth -= 1
        if len(terms) == 1:
            return terms[0]
        if len(terms) == 2 and terms[1].kind == "neg" and _is_set(terms[1].args[0]):
            return Node("minus", (terms[0], terms[1].args[0]))
        return Node("add", tuple(terms))

    def term(self) -> Node:
        node = self.unary()
        while True:
            if self.skip("*"):
                node = _times(node, self.unary())
            elif self.kind in ("/", ":"):
                self.take()
                node = Node("div", (node, self.unary()))
            elif self.starts_factor():
                node = self.implicit(node)
            else:
                return node

    def implicit(self, node: Node) -> Node:
        """A factor written right after another one: a product or a mixed number."""
        fraction = self.kind == "frac"
        spaced_bar = self.kind == "num" and self.ahead() == "/" and self.ahead(2) == "num"
        if self.kind == "num" and not (spaced_bar and _is_whole(node)):
            raise Unreadable("two numbers stand side by side")
        if spaced_bar:
            top, _, bottom = self.take(), self.take(), self.take()
            part = Node("div", (_num(top), _num(bottom)))
        else:
            part = self.power()
        whole = node.args[0] if node.kind == "neg" else node
        if (fraction or spaced_bar) and _is_whole(whole) and _is_proper(part):
            mixed = Node("add", (whole, part))
            return Node("neg", (mixed,)) if node.kind == "neg" else mixed
        if spaced_bar:
            raise Unreadable("two numbers stand side by side")
        return _times(node, part)

    def starts_factor(self) -> bool:
        if self.kind == "bar":
            return self.bars == 0 and self.ahead() not in ("end", "sep", "rel")
        return self.kind in _STARTS

    def unary(self) -> Node:
        """Signs and a power. Signs are taken in a loop: a thousand of them cost no depth."""
        negative, signs, pm = False, 0, None
        while self.kind in ("+", "-", "pm"):
            sign = self.take()
            signs += 1
            if sign.kind == "pm":
                pm = sign.text
            negative ^= sign.kind == "-"
        if signs > 2:
            raise Unreadable("a heap of signs")
        node = self.power()
        if pm is not None:
            return Node("pm", (node,), pm)
        return Node("neg", (node,)) if negative else node

    def power(self) -> Node:
        base = self.postfix(self.atom())
        if self.skip("^"):
            exponent = self.exponent()
            return self.postfix(Node("pow", (base, exponent)))
        return base

    def exponent(self) -> Node:
        if self.kind == "prime":
            raise Unreadable("a derivative")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        if self.skip("{"):
            if self.kind in ("+", "-") and self.ahead() == "}":
                raise Unreadable("a one-sided limit")
            node = self.expression()
            self.expect("}")
        elif self.kind in ("+", "-"):
            negative = self.take().kind == "-"
            node = self.exponent()
            node = Node("neg", (node,)) if negative else node
        else:
            node = self.atom(single_digit=False)
            if self.skip("^"):
                node = Node("pow", (node, self.exponent()))
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.kind == "!":
                self.take()
                if self.kind == "!":
                    raise Unreadable("a double factorial")
                node = Node("fact", (node,))
            elif self.skip("percent"):
                node = Node("percent", (node,))
            elif self.skip("deg"):
                node = Node("deg", (node,))
            else:
                return node

    def atom(self, *, single_digit: bool = False) -> Node:
        token = self.take()
        kind = token.kind
        if kind == "num":
            if single_digit and "." not in token.text and len(token.text) > 1:
                self.split_digits(token)
                return number(int(token.text[0]))
            return _num(token)
        if kind == "var":
            return self.variable(token.text)
        if kind == "const":
            if token.text == "e" and self.kind == "_":
                return self.variable("e")
            return Node("const", name=token.text)
        if kind == "numbers":
            return Node("const", name=f"set:{token.text}{self.number_set_suffix()}")
        if kind == "frac":
            return Node("div", (self.braced(), self.braced()))
        if kind == "binom":
            return Node("fn", (self.braced(), self.braced()), "binom")
        if kind == "sqrt":
            return self.root()
        if kind == "fn":
            return self.function(token.text)
        if kind in ("(", "[", "lset"):
            return self.bracket(kind)
        if kind == "{":
            node = self.answer("}", "choose")
            if self.skip("choose"):
                node = Node("fn", (node, self.answer("}")), "binom")
            self.expect("}")
            return node
        if kind == "bar":
            self.bars += 1
            node = self.expression()
            self.bars -= 1
            self.expect("bar")
            return Node("fn", (node,), "abs")
        if kind in ("lfloor", "lceil"):
            node = self.expression()
            self.expect("r" + kind[1:])
            return Node("fn", (node,), kind[1:])
        if kind == "beg":
            return self.matrix(token.text)
        if kind == "empty":
            return Node("set")
        if kind == "money":
            node = self.power()
            return Node("quantity", (node,), token.text)
        if kind == "dots":
            return Node("word", name="dots")
        if kind == "end":
            raise Unreadable("it ends where something is expected")
        raise Unreadable(f"{token.text or kind!r} is not expected there")

    def split_digits(self, token: Token) -> None:
        r"""`\frac12` is one over two: put the other digits back."""
        rest = token.text[1:]
        self.at -= 1
        self.tokens = (
            *self.tokens[: self.at],
            Token("num", rest, Fraction(int(rest))),
            *self.tokens[self.at + 1 :],
        )

    def number_set_suffix(self) -> str:
        suffix = ""
        while self.kind in ("^", "_"):
            self.take()
            if self.skip("{"):
                while self.kind not in ("}", "end"):
                    suffix += self.take().kind
                self.expect("}")
            else:
                suffix += self.take().kind
        return suffix

    def variable(self, name: str) -> Node:
        if self.skip("_"):
            name += "_" + self.subscript()
        while self.skip("prime"):
            name += "'"
        if name in _CALLABLE and self.kind == "(" and not self.token.spaced:
            self.take()
            inside = self.answer(")")
            self.expect(")")
            return Node("call", inside.args if inside.kind == "list" else (inside,), name)
        return Node("var", name=name)

    def subscript(self) -> str:
        if not self.skip("{"):
            return self.take().text
        parts = []
        while self.kind not in ("}", "end"):
            token = self.take()
            parts.append(token.text or token.kind)
        self.expect("}")
        return "".join(parts)

    def braced(self) -> Node:
        r"""An argument of `\frac`: in braces, or one token."""
        if self.skip("{"):
            node = self.expression()
            self.expect("}")
            return node
        return self.atom(single_digit=True)

    def root(self) -> Node:
        degree = number(2)
        if self.skip("["):
            degree = self.expression()
            self.expect("]")
        inside = self.braced() if self.kind == "{" else self.atom()
        return Node("fn", (inside, degree), "root")

    def function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        if self.skip("_"):
            base = self.braced() if self.kind == "{" else self.atom(single_digit=True)
        if self.skip("^"):
            power = self.exponent()
        inverse = power is not None and power.kind == "neg" and power.args[0].value == 1
        if inverse and name in ("sin", "cos", "tan", "cot"):
            name, power = f"arc{name}", None
        if self.kind == "(":
            self.take()
            inside = self.answer(")")
            self.expect(")")
            args = inside.args if inside.kind == "list" else (inside,)
        else:
            args = (self.bare_argument(),)
        if base is not None:
            args = (*args, base)
        node = Node("fn", args, name)
        if power is None and self.skip("^"):
            power = self.exponent()
        return node if power is None else Node("pow", (node, power))

    def bare_argument(self) -> Node:
        r"""What `\sin` without brackets applies to: `2\pi x` of `\sin 2\pi x + 1`."""
        negative = self.skip("-")
        node = self.power()
        while self.kind in ("num", "var", "const", "frac", "sqrt") or self.kind == "/":
            if self.skip("/"):
                node = Node("div", (node, self.power()))
            else:
                node = _times(node, self.power())
        return Node("neg", (node,)) if negative else node

    # --- brackets ----------------------------------------------------------------

    def bracket(self, kind: str) -> Node:
        bars, self.bars = self.bars, 0
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
        self.bars = bars
        return node

    def braces(self) -> Node:
        if self.skip("rset"):
            return Node("set")
        bars, self.bars = self.bars, 1
        inside = self.answer("rset", "bar", "mid", ":")
        self.bars = bars
        if self.skip("bar", "mid", ":"):
            condition = self.answer("rset")
            self.expect("rset")
            return Node("builder", (inside, condition))
        self.expect("rset")
        if inside.kind == "div" and inside.args[0].kind == "var":
            raise Unreadable("a set whose condition is not understood")
        return Node("set", inside.args if inside.kind == "list" else (inside,))

    def matrix(self, name: str) -> Node:
        if not name.endswith("matrix") and name not in ("array", "cases"):
            raise Unreadable(f"the environment {name} is not known")
        rows: list[Node] = []
        while self.kind != "end":
            cells = [self.expression()]
            while self.skip("&"):
                cells.append(self.expression())
            rows.append(Node("tuple", tuple(cells), "row"))
            if not self.skip("row"):
                break
            if self.kind == "end" and self.token.text == name:
                break
        if self.kind != "end" or self.token.text != name:
            raise Unreadable(f"\\begin{{{name}}} is never closed")
        self.take()
        return Node("matrix", tuple(rows), name)


# --- small helpers on nodes -------------------------------------------------------


def _num(token: Token) -> Node:
    return Node("num", value=token.value, decimals=token.decimals)


def _times(left: Node, right: Node) -> Node:
    if left.kind == "mul":
        return Node("mul", (*left.args, right))
    return Node("mul", (left, right))


def _is_whole(node: Node) -> bool:
    return (
        node.kind == "num"
        and node.decimals is None
        and node.value is not None
        and node.value.denominator == 1
    )


def _is_proper(node: Node) -> bool:
    if node.kind != "div" or not all(map(_is_whole, node.args)):
        return False
    top, bottom = (part.value for part in node.args)
    return top is not None and bottom is not None and 0 < top < bottom


def _is_set(node: Node) -> bool:
    return node.kind in ("set", "builder", "union")


def _without_conditions(items: list[Node]) -> list[Node]:
    r"""Drop `k \in \mathbb{Z}` after other items, and as a factor `(k \in \mathbb{Z})`."""

    def is_domain(node: Node) -> bool:
        return (
            node.kind == "rel"
            and node.name == "in"
            and node.args[1].kind == "const"
            and node.args[1].name.startswith("set:")
        )

    kept: list[Node] = []
    for item in items:
        if is_domain(item) and kept:
            continue
        if item.kind == "mul" and is_domain(item.args[-1]):
            rest = item.args[:-1]
            item = rest[0] if len(rest) == 1 else replace(item, args=rest)
        elif item.kind == "rel" and item.args[1].kind == "mul" and is_domain(item.args[1].args[-1]):
            rest = item.args[1].args[:-1]
            right = rest[0] if len(rest) == 1 else replace(item.args[1], args=rest)
            item = replace(item, args=(item.args[0], right))
        kept.append(item)
    return kept
