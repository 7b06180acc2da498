"""What the scoring tests share: a rubric of unruly rewards, and samples for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core import Rubric, Sample, load_plugins

HERE = Path(__file__).parent
HOST = load_plugins(only=())


@pytest.fixture
def unruly():
    """`unruly("Length", "lengths", Length={"deadline_s": 1})` is a rubric of those."""

    def rubric(*names, **settings):
        entries = [
            {"use": f"unruly.py:{name}", "deadline_s": 0.3, **settings.get(name, {})}
            for name in names
        ]
        return Rubric.from_config({"rewards": entries}, base_dir=HERE, host=HOST)

    return rubric


@pytest.fixture
def samples():
    """Samples with these completions, each with a row of its own."""

    def make(*completions, **columns):
        return [
            Sample("p", completion, {"row": i, **columns}, index=i)
            for i, completion in enumerate(completions)
        ]

    return make
