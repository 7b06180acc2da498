"""What the tests of the code reward share."""

from typing import Any

import pytest

from grpo_core import Sample, Score, load_plugins


class Judge:
    """Score a completion against columns, with options: `judge("code", inputs=…)`."""

    def __call__(
        self,
        completion: Any,
        columns: dict[str, Any],
        prompt: Any = "Write it.",
        **options: Any,
    ) -> Score:
        code = load_plugins(only=["code"]).rewards["code"](**options)
        score = code.score(Sample(prompt=prompt, completion=completion, columns=columns))
        assert isinstance(score, Score)
        return score


@pytest.fixture
def judge() -> Judge:
    return Judge()
