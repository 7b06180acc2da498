"""Where a character of a completion lies among its tokens.

Rewards speak of characters, the policy learns from tokens. Pure: any callable
that decodes will do. Left out: what is learnt at a place
(`algorithm.step_advantages`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence


def token_offsets(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], offsets: Sequence[int]
) -> list[int]:
    """For each character offset, how many tokens it takes to write the text up to there.

    `offsets` do not decrease and are 0 to the length of `decode(ids)`. The answer k of
    an offset is the first number of tokens of which `decode(ids[:k])` agrees with the
    whole text up to the offset, so the character before it is written in token k - 1.
    A character of several tokens is there with its last one: what a decoder puts
    for an incomplete one (U+FFFD) does not agree.

    Takes a number of decodings of the order of (offsets) x log(tokens), mostly far
    fewer, since tokens are of about one length. Raises ValueError for an offset
    outside the text, or after a greater one.
    """
    text = decode(ids)
    known = {0: 0, len(ids): len(text)}

    def reach(count: int) -> int:
        """Characters that the first `count` tokens have right."""
        if count not in known:
            known[count] = _agreement(decode(ids[:count]), text)
        return known[count]

    found: list[int] = []
    before = 0
    for offset in offsets:
        if not 0 <= offset <= len(text):
            raise ValueError(f"offset {offset} is outside of the text, which has {len(text)}")
        if offset < before:
            raise ValueError(f"offset {offset} comes after {before}; they must not decrease")
        before = offset
        if offset == 0:
            found.append(0)
            continue
        # `low` tokens fall short, `high` reach it; what was decoded for earlier offsets helps.
        high = min(count for count, length in known.items() if length >= offset)
        low = max(count for count, length in known.items() if count < high and length < offset)
        guess = True
        while high - low > 1:
            middle = (low + high) // 2
            if guess:  # in proportion to the characters
                share = (offset - reach(low)) / (reach(high) - reach(low))
                middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
            guess = not guess  # every second time by halves, which bounds what bad guesses cost
            if reach(middle) >= offset:
                high = middle
            else:
                low = middle
        found.append(high)
    return found


def _agreement(part: str, text: str) -> int:
    """Length of the longest beginning that both share."""
    return bisect_left(range(len(part)), True, key=lambda n: not text.startswith(part[: n + 1]))
