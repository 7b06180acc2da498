"""The demonstrations that the calculator policy is cold-started on: good, bad and wrong lines.

A demonstration is a prompt ("48/2=") and a completion, at best
`<think>24 is the answer.</think><answer>\\boxed{24}</answer>`. Three things vary,
each independent of the others, so that reinforcement has three things to find out:

- the thinking. Most lines answer off the top of the head, in English, some in German,
  Spanish or bare symbols. A minority works it out: digit by digit for sums, differences
  and products, part by part for quotients. Answers off the head are wrong often, and
  often in the same way (a forgotten carry, the smaller digit taken from the larger, a
  misplaced zero or point); worked ones seldom are.
- the form. A quarter of the lines lack a tag or the box, or go on after the end.
- the box. A few hold the expression to be worked out instead of its value.

Nothing here knows of models: pure functions over text and a `random.Random`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from random import Random

EXPRESSION = re.compile(r"(\d+(?:\.\d+)?)([-+*/])(\d+(?:\.\d+)?)")


MOST_STEPS = 3  # longer working is not shown
MOST_CHARACTERS = 44  # nor, between tags, a longer thought: completions stay under 96


@dataclass(frozen=True)
class Noise:
    """How often a demonstration is which kind; shares between 0 and 1."""

    worked: float = 0.25
    worked_wrong: float = 0.05
    direct_wrong: float = 0.30
    direct_mistaken: float = 0.50  # wrong share where a usual mistake is at hand
    foreign: float = 0.25  # of the direct thoughts
    malformed: float = 0.25
    unevaluated: float = 0.03


CLEAN = Noise(0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def split(expression: str) -> tuple[Decimal, str, Decimal]:
    match = EXPRESSION.fullmatch(expression)
    if match is None:
        raise ValueError(f"not a one-operation expression: {expression!r}")
    return Decimal(match[1]), match[2], Decimal(match[3])


def numeral(value: Decimal) -> str:
    """Plain digits, no exponent, no trailing zeros after the point."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def scale(*values: Decimal) -> int:
    """Decimals that the finest of the values has."""
    return max(max(0, -int(value.normalize().as_tuple().exponent)) for value in values)


# --- thinking ---------------------------------------------------------------------

ENGLISH = ("{} is the answer.", "{} it must be.", "{} I think.")
FOREIGN = ("{} ist die Antwort.", "{} wird es sein.", "{} es el resultado.", "{}={expression}")


def digits_from_the_right(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def added_by_columns(a: int, b: int) -> list[str]:
    """48+24 as 8+4=12, 4+2+1=7; a column without work to do is left out."""
    above, below = (digits_from_the_right(n) for n in (max(a, b), min(a, b)))
    steps, carry = [], 0
    for column, digit in enumerate(above):
        if column >= len(below) and not carry:
            break
        terms = [digit, *below[column : column + 1], *[carry] * bool(carry)]
        steps.append("+".join(map(str, terms)) + f"={sum(terms)}")
        carry = sum(terms) // 10
    return steps


def subtracted_by_columns(a: int, b: int) -> list[str]:
    """144-86 as 14-6=8, 13-8=5, 1-1=0: what is borrowed is already taken off."""
    below = digits_from_the_right(b)
    steps, borrowed = [], 0
    for column, digit in enumerate(digits_from_the_right(a)):
        if column >= len(below) and not borrowed:
            break
        if column < len(below):
            top, bottom = digit - borrowed, below[column]
        else:
            top, bottom = digit, borrowed
        borrowed = int(top < bottom)
        top += 10 * borrowed
        steps.append(f"{top}-{bottom}={top - bottom}")
    return steps


def multiplied_by_columns(number: int, digit: int) -> list[str]:
    """27*6 as 7*6=42, 2*6+4=16."""
    steps, carry = [], 0
    for d in digits_from_the_right(number):
        value = d * digit + carry
        steps.append(f"{d}*{digit}" + f"+{carry}" * bool(carry) + f"={value}")
        carry = value // 10
    return steps


def core(value: Decimal) -> int:
    """The digits that matter: 2400 and 0.24 are both 24."""
    digits = int(value.scaleb(scale(value)))
    while digits and digits % 10 == 0:
        digits //= 10
    return digits


def parts(number: int) -> list[int]:
    """1204 as 1000, 200, 4."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - i - 1) for i, d in enumerate(digits) if d != "0"]


def multiplied(a: Decimal, b: Decimal) -> list[str]:
    """By columns when one factor has a single digit that matters, else part by part."""
    long, short = sorted((core(a), core(b)), key=lambda n: (len(str(n)), n), reverse=True)
    if short < 10:
        return multiplied_by_columns(long, short)
    return [f"{long}*{part}={long * part}" for part in parts(short)]


def divided(a: Decimal, b: Decimal, quotient: Decimal) -> list[str]:
    """1245/15 as 80 leaves 45, 3 leaves 0: what each part of the quotient leaves over."""
    places = scale(quotient)
    steps, rest = [], a
    for part in parts(int(quotient.scaleb(places))):
        value = Decimal(part).scaleb(-places)
        rest -= value * b
        steps.append(f"{numeral(value)} leaves {numeral(rest)}")
    return steps


def worked_thought(expression: str, answer: str) -> str | None:
    """The working for a right answer, or none where it would be too long to be of use."""
    a, operator, b = split(expression)
    if operator in "+-":
        if a < b and operator == "-":
            return None
        places = scale(a, b)
        left, right = int(a.scaleb(places)), int(b.scaleb(places))
        while left and right and left % 10 == right % 10 == 0:
            left, right = left // 10, right // 10
        work = added_by_columns if operator == "+" else subtracted_by_columns
        steps = work(left, right)
    elif operator == "*":
        steps = multiplied(a, b)
    else:
        steps = divided(a, b, Decimal(answer))
    if not 0 < len(steps) <= MOST_STEPS:
        return None
    return ("by parts " if operator == "/" else "by columns ") + ", ".join(steps)


def steps_of(thought: str) -> set[str]:
    """The sums that a working states: of `by columns 8+4=12, 4+2+1=7`, 8+4 and 4+2+1."""
    return {
        part.rpartition(" ")[2].partition("=")[0] for part in thought.split(", ") if "=" in part
    }


# --- mistakes -----------------------------------------------------------------------


def usual_mistake(expression: str, answer: str, random: Random) -> str | None:
    """The wrong answer that people often give to this sum; none where there is no such trap."""
    a, operator, b = split(expression)
    places = scale(a, b)
    if operator in "+-":
        left, right = str(int(a.scaleb(places))), str(int(b.scaleb(places)))
        width = max(len(left), len(right))
        columns = list(zip(map(int, left.zfill(width)), map(int, right.zfill(width)), strict=True))
        if operator == "+":  # forgets to carry, but not out of the first column
            digits = [str((x + y) % 10 if i else x + y) for i, (x, y) in enumerate(columns)]
        else:  # takes the smaller digit from the larger
            digits = [str(abs(x - y)) for x, y in columns]
        wrong = numeral(Decimal("".join(digits)).scaleb(-places))
    else:  # a zero too few or too many, or the point in the wrong place
        value = Decimal(answer)
        if not scale(a, b, value) and value % 10 and operator == "*":
            return None
        wrong = numeral(value.scaleb(random.choice((-1, 1)) if value % 10 else -1))
    return wrong if wrong != answer else None


def slip(answer: str, random: Random) -> str:
    """The answer with one digit off."""
    places = [i for i, character in enumerate(answer) if character.isdigit()]
    i = random.choice(places)
    digit = random.choice([d for d in "0123456789" if d != answer[i]])
    wrong = answer[:i] + digit + answer[i + 1 :]
    return numeral(Decimal(wrong)) if Decimal(wrong) != Decimal(answer) else slip(answer, random)


# --- form -----------------------------------------------------------------------------


def well_formed(thought: str, boxed: str) -> str:
    return f"<think>{thought}</think><answer>\\boxed{{{boxed}}}</answer>"


def badly_formed(thought: str, boxed: str, random: Random) -> str:
    """The same content with a tag or the box missing, or with more after the end."""
    box = f"\\boxed{{{boxed}}}"
    return random.choice(
        (
            f"<think>{thought}</think>{box}",
            f"<think>{thought}<answer>{box}</answer>",
            f"<think>{thought}</think><answer>{box}",
            f"<think>{thought}</think><answer>{boxed}",
            f"<answer>{box}</answer>",
            f"{thought} {box}",
            f"<think>{thought}</think><answer>{box}</answer> ok",
        )
    )


def demonstration(expression: str, answer: str, noise: Noise, random: Random) -> str:
    """One completion for the prompt `expression=`, drawn with all its noise."""
    stated = answer
    working = worked_thought(expression, answer) if random.random() < noise.worked else None
    if working is not None and len(working) <= MOST_CHARACTERS:
        thought = working
        if random.random() < noise.worked_wrong:
            stated = slip(answer, random)
    else:
        mistake = usual_mistake(expression, answer, random)
        if mistake is not None and random.random() < noise.direct_mistaken:
            stated = mistake
        elif mistake is None and random.random() < noise.direct_wrong:
            stated = slip(answer, random)
        phrases = FOREIGN if random.random() < noise.foreign else ENGLISH
        thought = random.choice(phrases).format(stated, expression=expression)
    boxed = expression if random.random() < noise.unevaluated else stated
    if random.random() < noise.malformed:
        return badly_formed(thought, boxed, random)
    return well_formed(thought, boxed)


# --- more sums like the given ones ------------------------------------------------------


def similar(expression: str, random: Random) -> tuple[str, str] | None:
    """Another (expression, answer) of the same make: same operator, digits drawn anew.

    Zeros and the point stay where they are. None where the draw makes a negative
    difference; a quotient is made from its divisor and result, so that it is exact.
    """
    a, operator, b = split(expression)
    if operator == "/":
        quotient = Decimal(redrawn(numeral(a / b), random))
        b = Decimal(redrawn(numeral(b), random))
        return f"{numeral(quotient * b)}/{numeral(b)}", numeral(quotient)
    a, b = Decimal(redrawn(numeral(a), random)), Decimal(redrawn(numeral(b), random))
    if operator == "-" and a < b:
        a, b = b, a
    value = a + b if operator == "+" else a - b if operator == "-" else a * b
    return f"{numeral(a)}{operator}{numeral(b)}", numeral(value)


def redrawn(number: str, random: Random) -> str:
    """The numeral with each digit but zero drawn anew from 1 to 9."""
    return "".join(str(random.randint(1, 9)) if c in "123456789" else c for c in number)
