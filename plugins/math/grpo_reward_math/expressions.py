"""Reading tokens into the trees of expressions: one number-valued formula.

The lower half of the parser: sums, products, powers, functions, roots. Recursion
is bounded by MAX_DEPTH, loops by the number of tokens; nothing is worked out.
The upper half (`grammar`) adds brackets, lists, relations, sets and units.
"""

from __future__ import annotations

from fractions import Fraction

from grpo_reward_math.ellipsis import DOTS
from grpo_reward_math.tokens import Token
from grpo_reward_math.tree import Node, Unreadable, number

MAX_DEPTH = 40
_words = str.split
_END = Token("end")
_CALLABLE = frozenset(_words("f g h F G H P Q R S T"))
_STARTS = frozenset(
    _words(
        "num var const fn frac sqrt binom ( [ lset lfloor lceil bar { begin empty numbers money dots"
    )
)


class ExpressionReader:
    """A cursor over tokens, and the rules for expressions."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0
        """How many absolute values are open: a bar then closes one."""
        self.colons = True
        """Whether a colon divides; in `{x : x > 2}` it does not."""

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

    def answer(self, *closing: str) -> Node:
        """What stands between brackets."""
        raise NotImplementedError

    def bracket(self, kind: str) -> Node:
        """What an opening bracket (already taken) begins."""
        raise NotImplementedError

    def plain_braces(self) -> Node:
        """What an opening brace without a backslash (already taken) begins."""
        raise NotImplementedError

    def matrix(self, name: str) -> Node:
        """What follows a `\\begin{…}` (already taken)."""
        raise NotImplementedError

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
        quotients = 0
        while True:
            if self.skip("*"):
                node = _times(node, self.unary())
            elif self.kind == "/" or (self.kind == ":" and self.colons):
                token = self.take()
                node = Node("div", (node, self.unary()), token.kind)
                quotients += 1
                if quotients > MAX_DEPTH:
                    raise Unreadable("a chain of very many quotients")
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
        if self.kind == "(" and self.ahead() in ("mod", "word"):
            return False  # "3 (mod 7)", "5 (units)"
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
            return self.postfix(Node("pow", (_ungrouped(base), exponent)))
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
        for _ in range(4):
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
        raise Unreadable("a heap of signs")

    def atom(self, *, single_digit: bool = False) -> Node:
        token = self.take()
        kind = token.kind
        if kind == "num":
            if single_digit and "." not in token.text and len(token.text) > 1:
                self.split_digits(token)
                return number(int(token.text[0]))
            return self.based(token) if self.kind == "_" else _num(token)
        if kind == "var" or (kind == "word" and len(token.text) == 1 and token.text.isalpha()):
            return self.variable(token.text)
        if kind == "const":
            if token.text in ("e", "I") and self.kind == "_":
                return self.variable(token.text.lower())
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
            return self.plain_braces()
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
            return Node("var", name=DOTS)
        if kind == "end":
            raise Unreadable("it ends where something is expected")
        raise Unreadable(f"{token.text or kind!r} is not expected there")

    def based(self, token: Token) -> Node:
        """A numeral in another base, such as 1011_2."""
        self.take()
        base = self.subscript()
        if not base.isdigit() or not 2 <= int(base) <= 10 or not token.text.isdigit():
            raise Unreadable("a subscript after a number")
        if any(int(digit) >= int(base) for digit in token.text):
            raise Unreadable(f"{token.text} is no number in base {base}")
        return Node("based", (number(int(token.text, int(base))),), base)

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
        if (
            name.rstrip("'").partition("_")[0] in _CALLABLE
            and self.kind == "("
            and not self.token.spaced
        ):
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
        elif self.kind == "lset" and name in ("max", "min", "gcd", "lcm"):
            args = self.bracket(self.take().kind).args
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


def _num(token: Token) -> Node:
    return Node("num", value=token.value, decimals=token.decimals)


def _times(left: Node, right: Node) -> Node:
    left, right = _ungrouped(left), _ungrouped(right)
    if left.kind == "mul":
        return Node("mul", (*left.args, right))
    return Node("mul", (left, right))


def _ungrouped(node: Node) -> Node:
    """`2[x + 1]`: in a product square brackets only group."""
    single = node.kind == "tuple" and node.name == "[]" and len(node.args) == 1
    return node.args[0] if single else node


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
