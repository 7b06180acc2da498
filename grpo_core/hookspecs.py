"""Every hook a plugin can implement, on one screen.

A plugin is a module named by an entry point in the group `grpo_core`. It marks
its functions with `hookimpl`; pluggy matches them to the signatures below.
"""

from collections.abc import Callable
from typing import Any

import pluggy

API_VERSION = 1
"""The plugin API this host speaks. A plugin states its own as `grpo_core_api = 1`."""

hookspec = pluggy.HookspecMarker("grpo_core")
hookimpl = pluggy.HookimplMarker("grpo_core")


@hookspec
def register_rewards(register: Callable[[str, Any], None]) -> None:
    """Register rewards: `register(name, RewardClass)` or `register(name, function)`."""
