"""Sentences of short mathematical reasoning in many languages, and a way to count letters
that shares nothing with the plugin's."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reasoning() -> dict[str, list[str]]:
    data = json.loads((Path(__file__).parent / "reasoning.json").read_text(encoding="utf-8"))
    return {code: sentences for code, sentences in data.items() if code != "source"}


@pytest.fixture(scope="session")
def letters() -> Callable[[str], int]:
    return lambda text: sum(unicodedata.category(c)[0] in "LM" for c in text)
