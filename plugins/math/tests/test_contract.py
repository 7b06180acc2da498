"""What every reward promises, checked by grpo-core's kit for authors."""

from grpo_core.testing import RewardContract


class TestMath(RewardContract):
    reward = "math"


class TestMathWithEveryExtraction(RewardContract):
    reward = "math"
    options = {"extract": "any"}  # noqa: RUF012  (read, never changed)


class TestMathValues(RewardContract):
    reward = "math"
    options = {"form": "value"}  # noqa: RUF012
