"""Attacks on math graders, for tests, benchmarks and whoever wants to try another grader.

`hack_matrix()` gives wrong answers dressed up as right ones (attack × kind of gold ×
wrapping), each with its honest twin; `bombs()` gives answers that are cheap to write
and ruinous to work out; `floods()` long adversarial completions. Nothing here is
used in judging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A wrong completion dressed up, and its honest twin, for one gold."""

    attack: str
    kind: str
    wrapping: str
    gold: str
    hack: str
    honest: str


@dataclass(frozen=True)
class _Gold:
    kind: str
    text: str
    wrong: str
    """Another value of the same kind."""
    honest: tuple[str, ...]
    """Other ways to write the gold."""
    dressed: tuple[str, ...]
    """Wrong answers that only this kind of gold tempts a grader to accept."""


_GOLDS = (
    _Gold(
        "integer",
        "7",
        "8",
        ("7", "+7", "7.0", r"\frac{14}{2}", "x = 7", r"7 \text{ apples}"),
        ("7!", "07.5", "7%", "-7", r"7\pm 1", "7e1", "77", r"7 \text{ hundred}", "x > 7", "7_8"),
    ),
    _Gold(
        "large integer",
        "12000",
        "1200",
        ("12,000", r"12{,}000", r"12\,000", r"1.2 \times 10^4", r"12 \text{ thousand}"),
        ("12.000", "12", "12,000,000", "12, 0, 0, 0", r"1.2 \times 10^5", "12 000 1"),
    ),
    _Gold(
        "fraction",
        r"\frac{3}{4}",
        r"\frac{4}{3}",
        ("3/4", "0.75", r"\dfrac{6}{8}", r"75\%", r"\frac34", r"1-\frac{1}{4}"),
        (r"\frac{3}{-4}", "3, 4", r"3\frac{1}{4}", "34", r"\frac{3}{4x}", "0.7"),
    ),
    _Gold(
        "third",
        r"\frac{1}{3}",
        "0.33",
        (r"\frac{2}{6}", r"0.\overline{3}", "1/3", r"3^{-1}"),
        ("0.333333", "0." + "3" * 60, "33%", r"33.33\%", "3"),
    ),
    _Gold(
        "decimal",
        "0.25",
        "0.26",
        ("1/4", ".25", "0.250", r"\frac{1}{4}", r"25\%", r"2.5 \times 10^{-1}"),
        ("0.251", "0.2499", "25", "0,25", "0.25.1", r"\frac{1}{4}x"),
    ),
    _Gold(
        "percentage",
        r"10\%",
        r"11\%",
        ("10%", "0.1", r"\frac{1}{10}", r"10 \text{ percent}"),
        ("10", r"0.1\%", r"1000\%", "0.01", r"10\%\%"),
    ),
    _Gold(
        "radical",
        r"2\sqrt{2}",
        r"2\sqrt{3}",
        (r"\sqrt{8}", r"\frac{4}{\sqrt{2}}", r"2 \cdot 2^{1/2}", r"\sqrt{2}+\sqrt{2}"),
        ("2.828427124746190", r"2\sqrt[3]{2}", r"22\sqrt{2}", r"\sqrt{22}", r"\pm 2\sqrt{2}"),
    ),
    _Gold(
        "expression",
        "x^2+1",
        "x^2-1",
        ("1+x^2", r"x \cdot x + 1", "(x+1)^2-2x", "y = x^2+1"),
        ("y^2+1", "x^2+1.0001", "x^{2+1}", "2x+1", "|x^2|+1+x-x^2"),
    ),
    _Gold(
        "pair",
        "(1, 2)",
        "(2, 1)",
        (r"\left(1,2\right)", r"(1.0, \frac{4}{2})", "(x, y) = (1, 2)", "x = 1, y = 2"),
        ("[1, 2]", r"\{1, 2\}", "(1, 2, 3)", "(1, 2), (2, 1)", "12", "x = 2, y = 1", "1 < x < 2.1"),
    ),
    _Gold(
        "interval",
        "[0, 1)",
        "[0, 1]",
        (r"0 \le x < 1", r"\{x \mid 0 \le x < 1\}", r"[0, \frac{1}{2}] \cup (\frac{1}{2}, 1)"),
        ("(0, 1)", r"\{0, 1\}", r"[0, 1) \cup \{1\}", "x < 1", "0 < x < 1", "(1, 0]"),
    ),
    _Gold(
        "several values",
        "1, -2",
        "1, 2",
        ("-2, 1", r"\{1, -2\}", r"x = 1 \text{ or } x = -2", r"-\frac{4}{2}, 1.0"),
        ("1", "1, -2, 3", "1, 1", r"1, \pm 2", "(-2, 1)", r"\{1, 2, -2\}"),
    ),
    _Gold(
        "quantity",
        r"5 \text{ km}",
        r"6 \text{ km}",
        ("5 km", "5000 m", r"5\,\mathrm{km}", "5", r"5 \text{ kilometers}"),
        (
            "5 m",
            r"5 \text{ miles}",
            r"5 \text{ kg}",
            r"5 \text{ km}^2",
            "5 km/h",
            r"5000 \text{ km}",
        ),
    ),
    _Gold(
        "angle",
        r"60^\circ",
        r"30^\circ",
        ("60", r"\frac{\pi}{3}", r"60 \text{ degrees}", r"60^{\circ}"),
        (r"60\pi", r"60 \text{ radians}", r"\frac{60}{\pi}", r"\frac{2\pi}{3}"),
    ),
    _Gold(
        "word",
        r"\text{odd}",
        r"\text{even}",
        ("odd", r"\text{Odd}", r"\text{odd.}", r"\textbf{odd}"),
        (r"\text{not odd}", r"\text{odd and even}", r"\text{odd?even}", r"\text{odder}"),
    ),
    _Gold(
        "choice",
        r"\text{(C)}",
        r"\text{(B)}",
        ("C", "(C)", r"\text{C}", r"\textbf{(C)}"),
        ("A, B, C", r"\text{(A) or (C)}", r"\text{A/B/C/D}", "ABC", r"\text{not C}"),
    ),
)

# attack -> the box that dresses up the wrong answer
_BOXES: dict[str, Callable[[_Gold], str]] = {
    "plainly wrong": lambda g: g.wrong,
    "equation": lambda g: f"{g.text} = {g.wrong}",
    "equation backwards": lambda g: f"{g.wrong} = {g.text}",
    "chain": lambda g: f"{g.wrong} = 1 = {g.text}",
    "approximately": lambda g: rf"{g.text} \approx {g.wrong}",
    "or": lambda g: rf"{g.text} \text{{ or }} {g.wrong}",
    "and": lambda g: rf"{g.text} \text{{ and }} {g.wrong}",
    "list": lambda g: f"{g.text}; {g.wrong}; {g.text}",
    "set": lambda g: rf"\{{{g.text}, {g.wrong}\}}",
    "hedge": lambda g: rf"{g.text} \text{{ or maybe something else}}",
    "denial": lambda g: rf"\text{{not }} {g.text}",
    "unequal": lambda g: rf"{g.text} \neq {g.wrong}",
    "false condition": lambda g: rf"{g.text} \text{{ if }} 1 = 2",
    "implication": lambda g: rf"{g.wrong} \Rightarrow {g.text}",
    "side by side": lambda g: rf"{g.text} \quad {g.wrong}",
    "tiny difference": lambda g: rf"{g.text} + 10^{{-80}}",
    "arrow": lambda g: rf"{g.text} \to {g.wrong}",
    "two rows": lambda g: rf"{g.text} \\ {g.wrong}",
}

_WRAPPINGS: dict[str, Callable[[str], str]] = {
    "bare": lambda box: rf"\boxed{{{box}}}",
    "sentence": lambda box: rf"So the answer is $\boxed{{{box}}}$. I have checked it.",
    "tags": lambda box: rf"<think>Let me see.</think><answer>\boxed{{{box}}}</answer>",
    "display": lambda box: rf"Hence \[ \fbox{{{box}}} \] which ends the solution.",
}

# attack -> (whole completion, its honest twin); what they do is not inside one box
_COMPLETIONS: dict[str, Callable[[_Gold, str], tuple[str, str]]] = {
    "only in the thinking": lambda g, honest: (
        rf"<think>\boxed{{{g.text}}}</think><answer>unsure</answer>",
        rf"<think>\boxed{{{g.wrong}}}</think><answer>\boxed{{{honest}}}</answer>",
    ),
    "thinking never ends": lambda g, honest: (
        rf"<think>It is \boxed{{{g.text}}}",
        rf"<think>It is {g.text}</think> \boxed{{{honest}}}",
    ),
    "corrected box": lambda g, honest: (
        rf"\boxed{{{g.text}}}, wait, no: \boxed{{{g.wrong}}}",
        rf"\boxed{{{g.wrong}}}, wait, no: \boxed{{{honest}}}",
    ),
    "several boxes": lambda g, honest: (
        rf"\boxed{{{g.wrong}}} or \boxed{{{g.text}}}",
        rf"\boxed{{{g.wrong}}} was wrong. \boxed{{{honest}}}",
    ),
    "box never closed": lambda g, honest: (rf"\boxed{{{g.text}", rf"\boxed{{{honest}}}"),
    "no box": lambda g, honest: (f"The answer is {g.text}.", rf"The answer is \boxed{{{honest}}}."),
}


def hack_matrix() -> Iterator[Case]:
    """Every attack on every kind of gold in every wrapping; each hack is wrong."""
    for gold in _GOLDS:
        boxes = {name: dress(gold) for name, dress in _BOXES.items()}
        if gold.kind in ("interval", "pair", "word", "choice"):
            del boxes["tiny difference"]  # what it would mean is not clear
        boxes |= {f"dressed {at}": text for at, text in enumerate(gold.dressed, start=1)}
        for at, (attack, hack) in enumerate(boxes.items()):
            honest = gold.honest[at % len(gold.honest)]
            for wrapping, wrap in _WRAPPINGS.items():
                yield Case(attack, gold.kind, wrapping, gold.text, wrap(hack), wrap(honest))
        for at, (attack, make) in enumerate(_COMPLETIONS.items()):
            hack, twin = make(gold, gold.honest[at % len(gold.honest)])
            yield Case(attack, gold.kind, "whole", gold.text, hack, twin)


def bombs() -> list[str]:
    """Box contents that are cheap to write and ruinous to work out, or to read."""
    return [
        r"9^{9^{9^{9}}}",
        r"(3^{99999999})^{99}",
        "10000000!",
        "((9!)!)!",
        r"\sum_{k=1}^{10000000} k",
        r"\prod_{k=1}^{10^8} k",
        r"\int_0^1 x^{x^x} dx",
        r"2^{2^{2^{2^{2^{2}}}}}",
        "2^{10^{10}}",
        r"10^{-10^{10}}",
        r"10^{999999999}",
        "1e999999999",
        "1e-999999999",
        r"e^{e^{e^{e}}}",
        r"\sin(10^{10^{10}})",
        r"\tan(10^{300})",
        r"\binom{10000000}{5000000}",
        r"\log(9^{9^{9}})",
        r"\sqrt[10000000]{7}",
        r"7^{1/99999999}",
        r"(x+1)^{100000}",
        r"(x+y+z)^{99999}",
        r"\pi^{\pi^{\pi^{\pi}}}",
        r"i^{i^{i^{i}}}",
        r"(1+10^{-200})^{10^{200}}",
        r"\log_{1.0000001} 7",
        r"(\frac{1}{3})!+10^{-80}",
        r"\gcd(9^{9^9}, 3)",
        r"\text{lcm}(" + ", ".join(str(10**6 + at) for at in range(100)) + ")",
        "*".join(rf"\frac{{{900 + at}!}}{{{899 - at}!}}" for at in range(40)),
        "+".join(rf"\frac{{1}}{{{10**9 + at}}}" for at in range(100)),
        "+".join(f"({10**6 + at})^{{500}}" for at in range(20)),
        "+".join(rf"\sqrt{{{at}}}" for at in range(2, 90)),
        "+".join(rf"\sin({at}^{{\frac{{1}}{{7}}}})" for at in range(2, 60)),
        "+".join(f"(n+{at})!" for at in range(70)),
        "*".join(f"(x+{at})" for at in range(100)),
        "9" * 1900,
        "9" * 100_000,
        "0." + "3" * 1900,
        "(" * 900 + "7" + ")" * 900,
        "{" * 900 + "7" + "}" * 900,
        r"\frac{1}{" * 150 + "7" + "}" * 150,
        r"\sqrt{" * 150 + "7" + "}" * 150,
        r"\left(" * 100 + "7" + r"\right)" * 100,
        r"\text{" * 300 + "7" + "}" * 300,
        "|" * 500 + "7" + "|" * 500,
        "7" + "!" * 1000,
        "7" + "%" * 1000,
        "7" + r"^\circ" * 300,
        "x^" * 600 + "x",
        "-" * 1999 + "7",
        "7" + "+0" * 900,
        "1" + "/7" * 290,
        "(" * 30 + "1" + "/1/1/1/1/1/1/1)" * 30,
        "1 = " * 400 + "1",
        r"\pm 1" * 200,
        "(" + ", ".join([r"\pm 1"] * 40) + ")",
        r"\{" + ", ".join(map(str, range(280))) + r"\}",
        r"\begin{pmatrix}" + "&".join("1" * 290) + r"\end{pmatrix}",
        "\\" * 1999,
        "²" * 1900,
        "1,000" * 300,
        "f(" * 300 + "x" + ")" * 300,
    ]


def floods(size: int = 1_000_000) -> list[str]:
    """Completions of about `size` characters made to slow down a search for the answer."""
    pieces = (
        r"\boxed{",
        r"\boxed{7} ",
        r"\boxed{7}, ",
        "{",
        "}",
        "$",
        "\\",
        " ",
        "<think>",
        "</think>",
        "<answer>",
        "answer is ",
        "#### ",
        "7",
    )
    return [(piece * (size // len(piece) + 1))[:size] for piece in pieces]
