"""The signs, commands and words that are read, as tables. No behaviour."""

from __future__ import annotations

_words = str.split

FUNCTIONS = {
    name: name
    for name in _words(
        "sin cos tan cot sec csc sinh cosh tanh coth ln log lg exp arcsin arccos arctan max min gcd lcm"
    )
} | {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "arctg": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "arcsinh": "arcsinh",
    "arccosh": "arccosh",
    "arctanh": "arctanh",
    "arccot": "arccot",
    "arcctg": "arccot",
    "lg": "lg",
}

GREEK = frozenset(
    _words(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
        "sigma tau upsilon phi varphi chi psi omega Delta Theta Lambda Xi Sigma Phi Psi Omega ell angle triangle hbar odot"
    )
)

DROPPED = frozenset(
    _words(
        "left right bigl bigr Bigl Bigr biggl biggr Biggl Biggr big Big bigg Bigg middle displaystyle textstyle "
        "scriptstyle limits nolimits quad qquad , ; : ! > enspace thinspace ( ) [ ] hspace mathstrut boldsymbol "
        "rm bf it sf tt nobreak noindent allowbreak hfill"
    )
) | {" ", "\n", "\t"}

BIG = frozenset(
    _words("sum prod int iint iiint oint lim limsup liminf bigcup bigcap partial Gamma det")
)

# name -> (token kind, token text)
COMMANDS: dict[str, tuple[str, ...]] = {
    "frac": ("frac",),
    "dfrac": ("frac",),
    "tfrac": ("frac",),
    "cfrac": ("frac",),
    "sqrt": ("sqrt",),
    "binom": ("binom",),
    "dbinom": ("binom",),
    "tbinom": ("binom",),
    "cdot": ("*",),
    "times": ("*",),
    "ast": ("*",),
    "div": ("/",),
    "colon": (":",),
    "pm": ("pm", "+"),
    "mp": ("pm", "-"),
    "pi": ("const", "pi"),
    "infty": ("const", "inf"),
    "imath": ("const", "I"),
    "le": ("rel", "<="),
    "leq": ("rel", "<="),
    "leqslant": ("rel", "<="),
    "leqq": ("rel", "<="),
    "ge": ("rel", ">="),
    "geq": ("rel", ">="),
    "geqslant": ("rel", ">="),
    "geqq": ("rel", ">="),
    "lt": ("rel", "<"),
    "gt": ("rel", ">"),
    "ne": ("rel", "!="),
    "neq": ("rel", "!="),
    "approx": ("rel", "~"),
    "simeq": ("rel", "~"),
    "sim": ("rel", "~"),
    "cong": ("rel", "~"),
    "equiv": ("rel", "=="),
    "in": ("rel", "in"),
    "to": ("rel", "->"),
    "rightarrow": ("rel", "->"),
    "mapsto": ("rel", "->"),
    "Rightarrow": ("rel", "=>"),
    "implies": ("rel", "=>"),
    "cup": ("cup",),
    "cap": ("cap",),
    "setminus": ("setminus",),
    "backslash": ("setminus",),
    "emptyset": ("empty",),
    "varnothing": ("empty",),
    "{": ("lset",),
    "}": ("rset",),
    "lbrace": ("lset",),
    "rbrace": ("rset",),
    "langle": ("(",),
    "rangle": (")",),
    "lfloor": ("lfloor",),
    "rfloor": ("rfloor",),
    "lceil": ("lceil",),
    "rceil": ("rceil",),
    "lvert": ("bar",),
    "rvert": ("bar",),
    "vert": ("bar",),
    "mid": ("mid",),
    "dots": ("dots",),
    "ldots": ("dots",),
    "cdots": ("dots",),
    "forall": ("quant", "forall"),
    "exists": ("quant", "exists"),
    "land": ("sep", "and"),
    "wedge": ("sep", "and"),
    "lor": ("sep", "or"),
    "vee": ("sep", "or"),
    "%": ("percent",),
    "$": ("money", "dollar"),
    "pounds": ("money", "pound"),
    "rupees": ("money", "rupee"),
    "euro": ("money", "euro"),
    "prime": ("prime",),
    "\\": ("row",),
    "cr": ("row",),
    "&": ("sep", "and"),
    "#": ("word", "#"),
    "|": ("bar",),
    "lbrack": ("[",),
    "rbrack": ("]",),
    "choose": ("choose",),
    "pmod": ("mod",),
    "bmod": ("mod",),
    "mod": ("mod",),
    "parallel": ("rel", "parallel"),
    "perp": ("rel", "perp"),
    "subset": ("rel", "subset"),
    "subseteq": ("rel", "subseteq"),
}

SIGNS: dict[str, tuple[str, ...]] = {
    "$": (),
    "+": ("+",),
    "-": ("-",),
    "*": ("*",),
    "**": ("^",),
    "/": ("/",),
    "^": ("^",),
    "_": ("_",),
    "!": ("!",),
    "%": ("percent",),
    "=": ("rel", "="),
    "<": ("rel", "<"),
    ">": ("rel", ">"),
    "<=": ("rel", "<="),
    ">=": ("rel", ">="),
    "!=": ("rel", "!="),
    "->": ("rel", "->"),
    "(": ("(",),
    ")": (")",),
    "[": ("[",),
    "]": ("]",),
    "{": ("{",),
    "}": ("}",),
    "|": ("bar",),
    ",": ("sep", ","),
    ";": ("sep", ","),
    ":": (":",),
    "&": ("&",),
    "'": ("prime",),
    ".": ("dot",),
}

TEXT_COMMANDS = {
    **dict.fromkeys(
        _words("text textrm textit textbf textsf texttt textnormal mbox hbox emph textup"), "text"
    ),
    **dict.fromkeys(_words("mathrm operatorname mathit mathsf mathtt rm"), "roman"),
    **dict.fromkeys(
        _words(
            "mathbf boldsymbol bm mathcal mathfrak mathscr overline vec bar hat tilde overrightarrow widehat underline"
        ),
        "math",
    ),
    "mathbb": "set",
    "Bbb": "set",
}

_SEPARATORS = {"and": ("sep", "and"), "or": ("sep", "or")}
_CONDITIONS = dict.fromkeys(_words("where for if when with such whenever given"), ("cond",))
_FILLERS: dict[str, tuple[str, ...]] = dict.fromkeys(_words("only exactly just"), ())

TEXT_WORDS: dict[str, tuple[str, ...]] = {
    **_SEPARATORS,
    **_CONDITIONS,
    **_FILLERS,
    "degrees": ("deg",),
    "degree": ("deg",),
    "deg": ("deg",),
    "percent": ("percent",),
}

PLAIN_WORDS: dict[str, tuple[str, ...]] = {
    **TEXT_WORDS,
    "pi": ("const", "pi"),
    "inf": ("const", "inf"),
    "infinity": ("const", "inf"),
    "oo": ("const", "inf"),
    "sqrt": ("sqrt",),
    "union": ("cup",),
    "mod": ("mod",),
}

SHORT_WORDS = frozenset(_words("sq cu no is of to at an in if by so it as we he me us do go"))

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ"
SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
LEVEL = str.maketrans(SUPERSCRIPTS + SUBSCRIPTS, "0123456789-+n0123456789")
_VULGAR = {
    "½": "1}{2",
    "⅓": "1}{3",
    "⅔": "2}{3",
    "¼": "1}{4",
    "¾": "3}{4",
    "⅕": "1}{5",
    "⅖": "2}{5",
    "⅗": "3}{5",
    "⅘": "4}{5",
    "⅙": "1}{6",
    "⅚": "5}{6",
    "⅛": "1}{8",
    "⅜": "3}{8",
    "⅝": "5}{8",
    "⅞": "7}{8",
}
_GREEK_LETTERS = dict(
    zip(
        "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩ",
        _words(
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon "
            "phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"
        ),
        strict=True,
    )
)

UNICODE: dict[int, str] = {
    **{ord(sign): f"\\frac{{{parts}}}" for sign, parts in _VULGAR.items()},
    **{ord(letter): f"\\{name} " for letter, name in _GREEK_LETTERS.items()},
    **{full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)},
    **{
        ord(sign): plain
        for sign, plain in {
            **{chr(0x2460 + at): f",{at + 1}," for at in range(20)},  # circled: a list of items
            "¢": "\\text{ cents}",
            "或": " or ",
            "且": " and ",
            "和": " and ",
            "、": ",",
            "。": ".",
            "−": "-",
            "–": "-",
            "—": "-",
            "‐": "-",
            "‑": "-",
            "×": "\\times ",
            "·": "\\cdot ",
            "⋅": "\\cdot ",
            "∙": "\\cdot ",
            "÷": "\\div ",
            "∕": "/",
            "⁄": "/",
            "±": "\\pm ",
            "∓": "\\mp ",
            "≤": "\\le ",
            "⩽": "\\le ",
            "≦": "\\le ",
            "≥": "\\ge ",
            "⩾": "\\ge ",
            "≧": "\\ge ",
            "≠": "\\ne ",
            "≈": "\\approx ",
            "≡": "\\equiv ",
            "∈": "\\in ",
            "∪": "\\cup ",
            "∩": "\\cap ",
            "∖": "\\setminus ",
            "∅": "\\emptyset ",
            "∞": "\\infty ",
            "π": "\\pi ",
            "√": "\\sqrt ",
            "°": "\\degree ",
            "º": "\\degree ",
            "∀": "\\forall ",
            "∃": "\\exists ",
            "→": "\\to ",
            "⇒": "\\Rightarrow ",
            "∧": "\\land ",
            "∨": "\\lor ",
            "⌊": "\\lfloor ",
            "⌋": "\\rfloor ",
            "⌈": "\\lceil ",
            "⌉": "\\rceil ",
            "…": "\\dots ",
            "⋯": "\\dots ",
            "′": "'",
            "’": "'",
            "€": "\\euro ",
            "£": "\\pounds ",
            "ℝ": "\\mathbb{R}",
            "ℤ": "\\mathbb{Z}",
            "ℕ": "\\mathbb{N}",
            "ℚ": "\\mathbb{Q}",
            "\u00a0": " ",
            "\u2009": " ",
            "\u202f": " ",
            "\u3000": " ",
            "\u200b": "",
            "\ufeff": "",
        }.items()
    },
}
