"""A slow, obvious reference parser and a generator of damaged completions.

The reference shares no code and no method with the plugin: it reads one
character at a time, writes down what it meets, and compares the list with the
one list that is right. `benchmarks/` uses both functions as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

INVISIBLE = " \t\n\r\f\v\x00\x1c\x85\xa0\u2003\u2028\u200b\u200d\u2060\u3000\ufeff"
"""What the generator uses of the characters that nobody sees."""


def reference(
    text: str, think: str = "think", answer: str = "answer", prefilled: bool = False
) -> bool:
    """Whether the text is well formed, found out one character at a time."""
    if prefilled:
        text = f"<{think}>" + text
    met: list[str] = []  # tags, and "text" or "space" for what stands between them
    at = 0
    while at < len(text):
        for tag in (f"<{think}>", f"</{think}>", f"<{answer}>", f"</{answer}>"):
            if text[at : at + len(tag)] == tag:
                met.append(tag)
                at += len(tag)
                break
        else:
            kind = "space" if text[at].isspace() else "unseen" if text[at] in INVISIBLE else "text"
            if met and met[-1] in ("space", "unseen", "text"):
                kinds = (met[-1], kind)
                met[-1] = next(k for k in ("text", "unseen", "space") if k in kinds)
            else:
                met.append(kind)
            at += 1
    inside = [met[i - 1] for i, tag in enumerate(met) if tag.startswith("</") and i]
    outside = [
        kind
        for i, kind in enumerate(met)
        if kind in ("text", "unseen") and (i == 0 or met[i - 1].startswith("</"))
    ]
    tags = [tag for tag in met if tag.startswith("<")]
    right = [f"<{think}>", f"</{think}>", f"<{answer}>", f"</{answer}>"]
    return tags == right and not outside and inside == ["text", "text"]


def damaged(count: int, seed: int) -> Iterator[str]:
    """Well-formed completions, near-misses and rubble, about half of them well formed."""
    rng = random.Random(seed)
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    words = [
        "so 48/2 = 24",
        "a < b > c",
        "\\boxed{24}",
        "<b>",
        "</",
        "<thin",
        "think>",
        "日本",
        ".",
    ]
    near = ["<Think>", "< think>", "<think >", "<answer/>", "</think", "answer>", "<<think>>"]

    def spaces() -> str:
        return "".join(rng.choice(" \n\t") for _ in range(rng.choice((0, 0, 1, 3))))

    def words_() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, 4)))

    for _ in range(count):
        parts = [
            spaces(),
            tags[0],
            words_(),
            tags[1],
            spaces(),
            tags[2],
            words_(),
            tags[3],
            spaces(),
        ]
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
            place = rng.randrange(len(parts))
            match rng.randrange(6):
                case 0:
                    parts[place] = ""
                case 1:
                    parts.insert(place, rng.choice(tags))
                case 2:
                    other = rng.randrange(len(parts))
                    parts[place], parts[other] = parts[other], parts[place]
                case 3:
                    parts[place] = "".join(rng.choice(INVISIBLE) for _ in range(rng.randint(1, 3)))
                case 4:
                    parts.insert(place, rng.choice(near + words))
                case _:
                    text = parts[place]
                    cut = rng.randint(0, len(text))
                    parts[place] = (
                        text[:cut] + rng.choice(["", *INVISIBLE, "<", ">", "/"]) + text[cut + 1 :]
                    )
        yield "".join(parts)


@pytest.fixture(name="reference")
def reference_fixture() -> Callable[..., bool]:
    return reference


@pytest.fixture(name="damaged")
def damaged_fixture() -> Callable[[int, int], Iterator[str]]:
    return damaged
