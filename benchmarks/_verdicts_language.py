"""The language reward on mixtures of real sentences at known shares, and its speed.

`data` holds `language_sentences/<iso>.txt`, one sentence a line. A text is about
1,200 letters of sentences of two languages in any order, with maths and code
between them; the true share is of its letters. Where Django is installed, its
translations into some seventy languages are mixed as well: short messages of
languages that are often close to one another. The constants in `identify` were
chosen looking at both.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import time
import unicodedata
from collections import Counter
from itertools import permutations
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

LETTERS = 1_200
NOISE = (
    "$x^2 + 3x = 4$",
    "48 / 2 = 24",
    "```python\nfor i in range(10):\n    total += values[i]\nprint(total)\n```\n",
    "`x = y + 2`",
    r"\[ \frac{a}{b} = \sqrt{2} \]",
    r"\boxed{24}",
    "https://example.com/some/path?q=1",
)
PAIRS = 600  # of the translations, drawn at random


def tables(console: Console, data: Path) -> None:
    """Print the tables; says so when the sentences are not there."""
    folder = data / "language_sentences"
    if not folder.is_dir():
        console.print(f"language: no {folder}, nothing measured")
        return
    sentences = {
        path.stem: [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for path in sorted(folder.glob("*.txt"))
    }
    console.print(shares("sentences", sentences, list(permutations(sentences, 2))))
    if translations := django_translations():
        pairs = random.Random(2).sample(list(permutations(translations, 2)), PAIRS)
        console.print(shares("Django's translations", translations, pairs))
    console.print(speed(sentences, data))


def shares(title: str, sentences: dict[str, list[str]], pairs: list[tuple[str, str]]) -> Table:
    """The mean absolute error of the share, over the pairs and shares from 0 to 100% in tens."""
    from grpo_reward_language import count

    rng = random.Random(0)
    scripts = {code: script(some) for code, some in sentences.items()}
    errors: dict[bool, dict[tuple[str, str], list[float]]] = {True: {}, False: {}}
    for target, other in pairs:
        same = scripts[target] == scripts[other]
        for tenth in range(11):
            text, true = mixture(rng, sentences[target], sentences[other], tenth / 10)
            error = count(text, target).share(target) - true
            errors[same].setdefault((target, other), []).append(error)
    table = Table(
        title=f"language: mixtures of {title} ({len(sentences)} languages), error of the share"
    )
    table.add_column("scripts")
    for column in ("texts", "mean absolute", "95% below", "bias"):
        table.add_column(column, justify="right")
    table.add_column("worst pairs")
    for same, by_pair in errors.items():
        every = [error for some in by_pair.values() for error in some]
        worst = sorted(by_pair, key=lambda pair: -mean(map(abs, by_pair[pair])))[:3]
        table.add_row(
            "same" if same else "different",
            f"{len(every):,}",
            f"{mean(map(abs, every)):.3f}",
            f"{sorted(map(abs, every))[int(0.95 * len(every))]:.3f}",
            f"{mean(every):+.3f}",
            ", ".join(f"{a} in {b} {mean(map(abs, by_pair[a, b])):.3f}" for a, b in worst),
        )
    return table


def speed(sentences: dict[str, list[str]], data: Path) -> Table:
    """Megabytes of UTF-8 a second of processor time, in texts of about 3 kB, nothing twice."""
    table = Table(title="language: megabytes a second of one core, texts of 3 kB")
    table.add_column("text")
    table.add_column("expected")
    table.add_column("MB/s", justify="right")
    rows = [
        ("en", "en", sentences["en"]),
        ("en and de", "en", sentences["en"] + sentences["de"]),
        ("zh and en", "zh", sentences["zh"] + sentences["en"]),
        ("ru", "ru", sentences["ru"]),
        ("hi", "hi", sentences["hi"]),
        ("all twelve", "en", [line for some in sentences.values() for line in some]),
    ]
    solutions = data / "gsm8k_test.jsonl"
    if solutions.is_file():
        lines = solutions.read_text(encoding="utf-8").splitlines()
        rows.append(("GSM8K's solutions", "en", [json.loads(line)["answer"] for line in lines]))
    for name, target, lines in rows:
        table.add_row(name, target, f"{megabytes_a_second(lines, target):.1f}")
    return table


def megabytes_a_second(lines: list[str], target: str) -> float:
    """The best of three runs over all lines in any order, with an empty cache."""
    from grpo_reward_language import count, identify

    count("the first call loads the model", "en")
    lines = random.Random(1).sample(lines, len(lines))
    texts, text = [], ""
    for line in lines:
        text += line + "\n"
        if len(text.encode()) > 3_000:
            texts.append(text)
            text = ""
    seconds = []
    for _ in range(3):
        identify._identified.cache_clear()
        start = time.process_time()
        for text in texts:
            count(text, target)
        seconds.append(time.process_time() - start)
    return sum(len(text.encode()) for text in texts) / 1e6 / min(seconds)


def mixture(
    rng: random.Random, mine: list[str], other: list[str], share: float
) -> tuple[str, float]:
    """(a text, the target's true share of its letters), near the share asked for."""
    parts: list[tuple[bool, str]] = []
    counts = {True: 0, False: 0}
    for target, pool, wanted in (
        (True, mine, share * LETTERS),
        (False, other, (1 - share) * LETTERS),
    ):
        while counts[target] < wanted - 30:
            sentence = _cut(rng.choice(pool), int(wanted - counts[target]) + 30)
            parts.append((target, sentence))
            counts[target] += letters(sentence)
    rng.shuffle(parts)
    text = ""
    for _, sentence in parts:
        text += sentence + rng.choice((" ", " ", "\n"))
        if rng.random() < 0.4:
            text += rng.choice(NOISE) + " "
    return text, counts[True] / sum(counts.values())


def letters(text: str) -> int:
    """Letters and marks by Unicode's categories, not by the plugin's own count."""
    return sum(unicodedata.category(character)[0] in "LM" for character in text)


def script(sentences: list[str]) -> str:
    """The script of most letters, as Unicode names them."""
    names = Counter(
        unicodedata.name(character, "?").split()[0]
        for character in "".join(sentences[:50])
        if character.isalpha()
    )
    most = names.most_common(1)[0][0]
    return "CJK" if most in ("HIRAGANA", "KATAKANA") else most


def django_translations() -> dict[str, list[str]]:
    """Messages of 30 letters and more by language code; empty where Django is not installed."""
    from grpo_reward_language.languages import find

    spec = importlib.util.find_spec("django")
    if spec is None or spec.origin is None:
        return {}
    root, found = Path(spec.origin).parent, dict[str, list[str]]()
    for folder in sorted((root / "conf" / "locale").iterdir()):
        code = find(folder.name)
        if code is None or code in found or "_" in folder.name.removesuffix("_Hans"):
            continue
        messages: dict[str, None] = {}
        for file in sorted(root.glob(f"**/locale/{folder.name}/LC_MESSAGES/django.po")):
            for match in _MESSAGE.finditer(file.read_text(encoding="utf-8")):
                text = "".join(re.findall(r'"(.*)"', match.group(1)))
                text = _PLACEHOLDER.sub("", text).strip()
                if letters(text) >= 30 and "Content-Type" not in text:
                    messages[text] = None
        if len(messages) >= 40:
            found[code] = list(messages)
    return found


_MESSAGE = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n)+)', re.MULTILINE)
_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w+\}|<[^>]*>|\\[n\"]")


def _cut(sentence: str, most: int) -> str:
    """The sentence, or as many of its words (characters, where it has no spaces) as fit."""
    if letters(sentence) <= most:
        return sentence
    units = sentence.split(" ") if sentence.count(" ") > 3 else list(sentence)
    joint, kept = (" " if len(units) < len(sentence) else ""), units[:1]
    size = letters(units[0])
    for unit in units[1:]:
        size += letters(unit)
        if size > most:
            break
        kept.append(unit)
    return joint.join(kept)


if __name__ == "__main__":
    import sys

    tables(Console(), Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
