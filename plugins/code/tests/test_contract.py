"""The code reward keeps the contract that every reward keeps."""

from grpo_core.testing import RewardContract


class TestCode(RewardContract):
    reward = "code"
    options = {"wall_s": 1.0}  # noqa: RUF012
