"""The gold answer, as it stands in a dataset column.

A number, a short text, a worked solution that ends in `#### 24`, or a text with
a box. Left out: what the answer means (`verdict`).
"""

from __future__ import annotations

import math

from grpo_reward_math.extract import find_answer

_MISSING = {"", "nan", "null", "n/a", "na", "?", "??", "???", "unknown"}


def gold_text(value: object) -> str | None:
    """The gold answer's text, or None when the column holds none.

    >>> gold_text("48/2 = <<48/2=24>>24 clips\\n#### 24")
    '24'
    """
    if isinstance(value, bool) or value is None:
        return str(value) if isinstance(value, bool) else None
    if isinstance(value, int):
        return str(value) if abs(value) < 10**1000 else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return gold_text(value[0])
    if not isinstance(value, str):
        return None
    text = value
    if "####" in text:
        text = text[text.rfind("####") + 4 :]
    elif "\\boxed" in text or "\\fbox" in text:
        text = find_answer(text, "boxed").text or ""
    text = text.rstrip().lstrip(" \n")  # a form feed may be what is left of a broken \frac
    return None if text.lower() in _MISSING else text
