"""The reward `code`: the program in an answer, run against the sample's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core import hookimpl
from grpo_reward_code.reward import Code

__all__ = ["Code"]
__version__ = "0.1.0"

grpo_core_api = 1


@hookimpl
def register_rewards(register: Callable[[str, Any], None]) -> None:
    register("code", Code)
