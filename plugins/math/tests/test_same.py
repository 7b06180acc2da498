"""What counts as the same answer, topic by topic, and what does not."""

from collections.abc import Callable

import pytest

from grpo_core import Score

Judge = Callable[..., Score]

SAME = {
    "closed forms": [
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}"),
        (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3"),
        (r"\frac{-1+\sqrt{5}}{2}", r"\dfrac{\sqrt{5} - 1}{2}"),
        (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
        (r"\sqrt[3]{-8}", "-2"),
        ("2^{2024}", "4^{1012}"),
        (r"\frac{100!}{98!}", "9900"),
        (r"\binom{5}{2}", "10"),
        ("10^{1000000}", "10^{1000000}"),
        (r"0.\overline{3}", "1/3"),
        (r"|{-3}|", "3"),
        (r"\lfloor 3.7 \rfloor", "3"),
        (r"\max\{2, 3\}", "3"),
        ("3+4i", "4i+3"),
        (r"e^{i\pi}", "-1"),
        (r"\sqrt{-4}", "2i"),
    ],
    "mixed numbers": [
        (r"2\frac{1}{2}", "5/2"),
        ("2 1/2", "2.5"),
        (r"1\frac34", r"\frac{7}{4}"),
        ("1/2", "½"),
        (r"3 \frac{1}{2} \text{ hours}", "3.5 hours"),
    ],
    "logarithms and angles": [
        (r"\log_2 8", "3"),
        (r"\ln 8", r"3\ln 2"),
        (r"\log 2", r"\log_{10} 2"),
        (r"\ln 2", r"\log 2"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        (r"30^\circ", "30"),
        (r"\frac{\pi}{6}", r"30^\circ"),
        ("30", r"30^{\circ}"),
        (r"\sin 30^\circ", r"\frac12"),
        (r"\tan^{-1}(1)", r"\frac{\pi}{4}"),
        (r"2\arcsin\sqrt{a}", r"\arccos(1-2a)"),
    ],
    "functions": [
        ("x^2-1", "(x-1)(x+1)"),
        (r"\frac{x}{2}", r"\frac{1}{2}x"),
        (r"\sin 2x", r"2\sin x\cos x"),
        ("2^{n+1}", r"2\cdot 2^n"),
        ("(-1)^n", "(-1)^{n+2}"),
        (r"\frac{n!}{k!(n-k)!}", r"\binom{n}{k}"),
        ("f(x)=2x", "2x"),
        ("f(x)=2x", "y=2x"),
        ("f(z)=z", "f(x)=x"),
        ("f(x)=0, f(x)=x", r"f(x)=x \text{ or } f(x)=0"),
        ("S_n = n^2", "n^2"),
        ("f(n)=n, g(n)=1", "(f(n), g(n)) = (n, 1)"),
        ("f(x)=ax+b", "f(x)=mx+c"),
        ("f(x)=2x", r"f(x)=2x \text{ for all } x > 0"),
        ("f'(x)=2x", "2x"),
        ("a_n = n^2", r"n^2 \text{ for all positive integers } n"),
        ("a+b=3", "3"),
        (r"\cos A = \frac{1}{2}", "0.5"),
    ],
    "equations": [
        ("y=2x+1", "2x-y+1=0"),
        (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"),
        ("y + 1 = -(2x-1)^2", "-4x^2+4x-2"),
        ("(a+1)(a-1) = a^2-1", "a^2-1"),
        (r"y=\pm\frac{3}{4}x", r"3x\pm 4y=0"),
        (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2"),
    ],
    "families": [
        (r"x=k\pi", r"n\pi"),
        (r"k\pi, k\in\mathbb{Z}", r"n\pi (n\in\mathbb{Z})"),
        (r"x = \frac{\pi}{2}+k\pi", r"-\frac{\pi}{2}+n\pi"),
        ("(3x, 5-x)", r"(3t, 5-t) \text{ for some integer } t"),
        (r"\frac{x^3}{3}+C", r"\frac{1}{3}x^3+K"),
        ("(x+1)^2+C", "x^2+2x+C"),
        ("2Cx+1", "2cx+1"),
    ],
    "several values": [
        ("1, 2", "2, 1"),
        ("1, 2", r"\{2, 1\}"),
        ("1, 2", r"x = 2 \text{ or } x = 1"),
        ("1, 2", "x_1 = 1, x_2 = 2"),
        (r"\pm 2", "2, -2"),
        (r"3 \pm 2\sqrt{2}", r"3+2\sqrt2,\ 3-2\sqrt2"),
        ("16, 3, 1, 1", "w=16, d=3, a=1, b=1"),
        ("7, 14, 18", "Paolo: 18, Qing: 14, Rayna: 7"),
        ("(1,2),(3,4)", "(3,4),(1,2)"),
        ("(1,2),(3,4)", r"\{(1,2),(3,4)\}"),
        ("x=1, y=2", "y=2, x=1"),
        ("(x,y)=(1,2)", "(1,2)"),
        ("(1,2)", "x=1, y=2"),
        ("100,200", "100, 200"),
        ("b < a < d", "b, a, d"),
        ("x = y = z = 1", "(1, 1, 1)"),
        ("3或-1", "-1, 3"),
        ("①③", "1, 3"),
    ],
    "sets of numbers": [
        (r"x \in [-2,7]", "[-2,7]"),
        ("[0.5, 8]", r"\frac12 \le x \le 8"),
        ("x>3", r"(3,\infty)"),
        ("x>3", "3<x"),
        (r"a \leqslant -2 \text{ or } a = 1", r"(-\infty,-2] \cup \{1\}"),
        (r"\{x | x < \frac{3}{2}\} - \{-6\}", r"(-\infty,-6) \cup (-6, 1.5)"),
        (r"\{x \mid -1 < x < 1\}", "(-1,1)"),
        (r"\{x : x > 2\}", r"\{y | y > 2\}"),
        (r"(0,1]\cup[1,2)", "(0,2)"),
        (r"(0,2)\setminus\{1\}", r"(0,1)\cup(1,2)"),
        (r"\mathbb{R}\setminus\{1\}", r"x\neq 1"),
        (r"x \ge -1 \text{ and } x \le 3", "[-1,3]"),
        ("x<-1, x>1", r"(-\infty,-1)\cup(1,+\infty)"),
        ("(-∞, -3) ∪ (3, +∞)", r"(-\infty,-3)\cup(3,\infty)"),
        (r"\emptyset", "no solution"),
        (r"\text{There are no real solutions.}", r"\text{no solution}"),
        ("|x|<2", "(-2,2)"),
        (r"(-\infty,-1)\cup(1,\infty)", "|x|>1"),
        ("{x|x>1}", r"(1,\infty)"),
        (r"n \ge 3", r"\text{all integers } n \ge 3"),
        (r"\{(x,y) \mid x+y=1\}", r"\{(x,y) : 2x+2y=2\}"),
        (r"x \not= 2", r"(-\infty,2)\cup(2,\infty)"),
        (r"[kπ-π/3, kπ+π/6](k∈Z)", r"[n\pi-\frac{\pi}{3}, n\pi+\frac{\pi}{6}], n\in\mathbb{Z}"),
        ("no solution", r"\varnothing"),
    ],
    "dots": [
        (r"1, 2, \ldots, 10", "1, 2, 3, …, 10"),
        (r"\{2, 4, \dots, 8\}", "2, 4, 6, 8"),
        (r"a_1 + a_2 + \cdots + a_n", r"a_2 + a_1 + \cdots + a_n"),
        (
            r"\frac{(v-a_1)(v-a_2)\cdots(v-a_n)}{v^{n-1}}",
            r"v(1-\frac{a_1}{v})(1-\frac{a_2}{v})\cdots(1-\frac{a_n}{v})",
        ),
        (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}"),
        (r"1 \cdot 2 \cdots n", "n!"),
    ],
    "vectors, matrices, ratios, bases": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4.0\end{bmatrix}"),
        (r"\begin{pmatrix}-7\\16\\5\end{pmatrix}", "(-7,16,5)"),
        (r"\begin{pmatrix} -7 \ 16 \ 5 \end{pmatrix}", "(-7,16,5)"),
        ("5:8", r"\frac{5}{8}"),
        ("1:2:3", "2:4:6"),
        ("1011_2", "1011_{2}"),
        (r"x \equiv 3 \pmod 7", r"3 \pmod{7}"),
    ],
    "units": [
        (r"5 \text{ km}", "5000 m"),
        ("5 km", r"5\,\mathrm{km}"),
        ("5 km", "5"),
        ("7", "7 apples"),
        ("5 apples", "5 red apples"),
        ("15th Day", "15"),
        ("60 mph", "60 miles per hour"),
        ("4 cm^2", r"4 \text{ square centimeters}"),
        (r"12 \text{ m/s}", "12 m/s"),
        (r"\$1,234.50", "1234.5 dollars"),
        ("3 million", "3,000,000"),
        ("10000", r"10,\!000"),
        ("10000", "10 000"),
        ("5", r"5 \text{ (units)}"),
        ("2 hours", "120 minutes"),
        ("50 cents", r"\$0.50"),
        ("$5", "5"),
        ("50¢", r"\$0.50"),
        ("25°C", r"25^\circ\text{C}"),
        ("2 apples and 3 oranges", "3 oranges, 2 apples"),
        ("$5", r"\$5.00"),
        ("9:30", "9:30"),
        ("12:00", "12:00"),
        ("5 hours 30 minutes", "5.5 hours"),
        ("Rs. 1,200", "1200"),
        ("20 sec", "20 seconds"),
        ("1200 sq m", "1200 m^2"),
        ("54 km/hr", "15 m/s"),
    ],
    "words": [
        ("ACD", "A, C and D"),
        ("A, C", "CA"),
        ("seven", "7"),
        (r"\text{Evelyn}", "evelyn"),
        ("Petya will win the game.", "Petya"),
        ("The function $f(x)$ is odd.", "odd"),
        ("(C)", "C"),
        (r"\text{(C)}", r"\textbf{(C)}"),
        ("C", r"\text{C}"),
        (r"\textbf{(E) } 12", "E"),
        ("(B) 12", "12"),
        ("(B) 12", "B) 12.0"),
        (r"\text{June 20}", "June 20"),
        (r"6:30 \text{ p.m.}", "6:30 PM"),
    ],
    "as people type": [
        ("x²", "x^2"),
        ("π/2", r"\frac{\pi}{2}"),
        ("√2", r"\sqrt{2}"),
        ("−5", "-5"),
        ("７", "7"),
        ("2 × 10^(-10)", r"2\times 10^{-10}"),
        ("\frac{1}{2}", "0.5"),  # a form feed where a JSON string lost its backslash
        (r"\\frac{1}{2}", "0.5"),
        ("3<sup>x</sup>", "3^x"),
        (r"(1, \sqrt{2}.]", r"(1,\sqrt2]"),
    ],
    "sums and integrals in the gold": [
        (r"\int_0^1 x^2 dx", "1/3"),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
        (r"\sum_{k=1}^{\infty} \frac{1}{k^2}", r"\frac{\pi^2}{6}"),
    ],
    "roundings in the gold": [
        ("3.14", r"\pi"),
        ("21.93", r"21 \frac{13}{14}"),
        ("0.458", r"\frac{27}{59}"),
        (r"\frac{1+\sqrt{97}}{8} \approx 1.36", r"\frac{1+\sqrt{97}}{8}"),
        (r"6.67\%", r"\frac{1}{15}"),
    ],
}

DIFFERENT = {
    "dots": [
        (r"1, 2, \ldots, 10", "1, 2, …, 11"),
        (r"1, 2, \ldots, 10", r"1, 2, \ldots"),
        (r"a_1 + a_2 + \cdots + a_n", r"a_1 a_2 \cdots a_n"),
        (r"1+2+\cdots+n", r"\frac{n(n-1)}{2}"),
        ("7", "…"),
        ("7", r"7 \dots"),
    ],
    "closed forms": [
        (r"\sqrt{2}", "1.41421356237309504880168872420969807856967187537694807317667973799"),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-300}"),
        (r"\pi", r"\frac{355}{113}"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        ("2^{2024}", "2^{2024}+1"),
        ("i", "-i"),
        ("7", r"\frac{7}{0}"),
    ],
    "functions": [
        ("x+1", "y+1"),
        ("|x|", "x"),
        (r"\sqrt{x^2}", "x"),
        ("f(x)=2x", "f(x)=x"),
        ("f(x)=ax", "f(x)=a"),
        ("f(x)=x", "f(x)=kx"),
        ("x=2", "y=2"),
        ("n", "n+10^{-60}"),
        (r"\sin x", r"\cos x"),
    ],
    "syntax": [
        ("7", r"7\end{pmatrix}8"),
        ("7", "7 or"),
        ("7", r"\text{or } 7"),
        ("1,000", "1, 0"),
    ],
    "equations": [
        ("f(n)=n^2", "f(n)/3=n^2"),
        ("f(n)=n", "f(3n)=n"),
        ("7", "2a+b=7"),
        ("8", "|7|=8"),
        ("7", "x+1=7"),
        ("7", "2x=14"),
        ("x+y=3", "3"),
        ("(x,y)=(1,2)", "(y,x)=(1,2)"),
        ("7", r"\text{not}: 7"),
        ("y=2x", "x=2y"),
        ("y=2x", "0=0"),
        ("y=2x", "2x=2x"),
        ("x^2+y^2=1", "x+y=1"),
    ],
    "families": [(r"x=k\pi", r"2n\pi"), ("x^2+C", "x+C"), ("2Cx+1", "Cx+1")],
    "several values": [
        ("1, 2", "1"),
        ("1", "1, 2"),
        ("1, 2", "1, 1"),
        ("16, 3, 1, 1", "16, 3, 3, 1"),
        ("x=1, y=2", "x=2, y=1"),
        (r"\pm 2", "2"),
        ("2", r"\pm 2"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", r"\{1,2\}"),
        ("a < b < c", "b, a, c"),
    ],
    "sets of numbers": [
        ("[0,1)", "[0,1]"),
        ("(0,1)", r"\{0,1\}"),
        ("x<3", r"x \le 3"),
        ("x<3", r"x < 3 \text{ or } x > 5"),
        (r"(0,2)\setminus\{1\}", "(0,2)"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        (r"\infty", "10^{100}"),
        ("(1,2)", "1<x<2.0000001"),
    ],
    "vectors, matrices, ratios, bases": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        ("2:1", "1:2"),
        ("1:2:3", "1:2:4"),
        ("1011_2", "1011_3"),
        ("1011_2", "1011"),
    ],
    "units": [
        ("5 km", "5 m"),
        ("5 apples", "5 oranges"),
        ("5 km/h", "5 m/s"),
        (r"45^\circ", r"45 \text{ radians}"),
        (r"\$5", r"5 \text{ euros}"),
        ("7", r"7 \text{ squared}"),
        ("7", r"7 \text{ tenths}"),
        ("$5", "5 cents"),
        ("9:30", "3:10"),
        ("7", r"7 \text{ hundred}"),
        ("7", r"7 \text{ is wrong}"),
        ("4 cm^2", "4 cm"),
    ],
    "words": [
        ("odd", "even"),
        ("odd", "odd or even"),
        ("(C)", "A, B, C"),
        ("(B) 12", "C"),
        ("(B) 12", "B or C"),
        ("(B) 12", "(B) 13"),
        ("ACD", "A, C"),
        ("seven", "eight"),
        ("Petya will win the game.", "game"),
        ("yes", "yes and no"),
    ],
    "roundings": [
        (r"\frac{600}{7}", "85.71"),
        ("785.12", "784"),
        ("0.25", "0.2500001"),
        ("165.47", r"165.5 \text{ grams}"),
    ],
}


@pytest.mark.parametrize("topic", SAME)
def test_the_same(judge: Judge, topic: str) -> None:
    for gold, answer in SAME[topic]:
        score = judge(gold, answer)
        assert score.value == 1.0, (gold, answer, score)


@pytest.mark.parametrize("topic", DIFFERENT)
def test_different(judge: Judge, topic: str) -> None:
    for gold, answer in DIFFERENT[topic]:
        score = judge(gold, answer)
        assert score.value == 0.0, (gold, answer, score)


@pytest.mark.parametrize(
    "gold",
    [
        r"\frac{1}{",
        "see the solution",
        "???",
        "x+",
        r"\foo{3}",
        "{{{",
        "1/0",
        "&^%",
        "to be shown",
        r"7 \text{ (maybe)}",
    ],
)
@pytest.mark.parametrize("answer", ["3", "", r"\frac{1}{"])
def test_a_gold_that_cannot_be_read_abstains_whatever_the_answer(
    judge: Judge, gold: str, answer: str
) -> None:
    score = judge(gold, answer)
    assert score.value is None
    assert gold in score.reason or "no gold" in score.reason


def test_the_reason_names_what_decided(judge: Judge) -> None:
    assert judge("1, 2", "2, 1").reason.endswith("the same 2 values in any order")
    assert judge("5 km", "5 kg").reason.endswith("another unit")
    assert judge("2", "1 = 2").reason.endswith("an equation between numbers is no answer")
    assert judge("x=k\\pi", "n\\pi").reason.endswith("after renaming n to k")
