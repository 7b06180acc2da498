"""The `math` reward: 1.0 when the answer in the box equals the gold answer, else 0.0.

Importing this loads no sympy and no math-verify; a pair that needs them does.
"""

from collections.abc import Callable
from typing import Any

from grpo_core import hookimpl
from grpo_reward_math.reward import Math as Math

grpo_core_api = 1


@hookimpl
def register_rewards(register: Callable[[str, Any], None]) -> None:
    register("math", Math)
