"""The kit plugin authors test with: conformance checks, hostile inputs, a pytest plugin.

>>> from grpo_core.testing import RewardContract
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.testing.checks import CHECKS as CHECKS
    from grpo_core.testing.contract import RewardContract as RewardContract
    from grpo_core.testing.lab import Lab as Lab

_HOME = {"CHECKS": "checks", "Lab": "lab", "RewardContract": "contract"}

__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name in _HOME:  # so that the pytest plugin beside it starts without pulling all this in
        return getattr(_import_module(f"grpo_core.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'grpo_core.testing' has no attribute {name!r}")
