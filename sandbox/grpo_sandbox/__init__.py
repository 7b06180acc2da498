"""grpo-sandbox: run model-written Python and believe nothing it says.

The public names and nothing else; each is loaded on first use, because the
processes inside the sandbox import this package too and must stay small.
What the sandbox does not cover is the first section of docs/sandbox.md.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_sandbox.results import Limits as Limits
    from grpo_sandbox.results import Outcome as Outcome
    from grpo_sandbox.results import Reply as Reply
    from grpo_sandbox.results import Run as Run
    from grpo_sandbox.results import SandboxError as SandboxError
    from grpo_sandbox.results import SandboxUnavailable as SandboxUnavailable
    from grpo_sandbox.results import Verdict as Verdict
    from grpo_sandbox.sandbox import Sandbox as Sandbox

__version__ = "0.1.0"

_HOME = {
    "Limits": "results",
    "Outcome": "results",
    "Reply": "results",
    "Run": "results",
    "Sandbox": "sandbox",
    "SandboxError": "results",
    "SandboxUnavailable": "results",
    "Verdict": "results",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(_import_module(f"grpo_sandbox.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'grpo_sandbox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
