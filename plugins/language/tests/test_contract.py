"""What every reward promises, checked by grpo-core's kit for authors."""

from grpo_core.testing import RewardContract


class TestLanguage(RewardContract):
    reward = "language"
