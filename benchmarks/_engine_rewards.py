"""The rewards of the engine's benchmark: the same plain functions for TRL and for this engine.

Hashes of the token ids: cheap, deterministic, different for nearly every completion, so
that every group has something to learn from and no scoring time blurs the comparison.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import Any


def hashed(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A number in [0, 1) a completion."""
    return [zlib.crc32(array("q", ids).tobytes()) / 2**32 for ids in completion_ids]


def half_silent(
    prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
) -> list[float]:
    """The same, but 0 for all completions of every other prompt: groups without signal."""
    values = hashed(completion_ids)
    return [
        0.0 if zlib.crc32(prompt.encode()) % 2 else value
        for prompt, value in zip(prompts, values, strict=True)
    ]
