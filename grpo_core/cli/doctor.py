"""`grpo doctor`: is everything here that training and judging need, and what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

import grpo_core

EXTRAS = {
    "train": ("torch", "transformers", "accelerate", "datasets", "jaxtyping"),
    "plot": ("matplotlib",),
    "ray": ("ray",),
}


def doctor() -> None:
    """Say what is installed, which plugins are broken, and how well code is sandboxed.

    Exit code 1 when a plugin is broken or nothing isolates.
    """
    from grpo_core.plugins import load_plugins

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    typer.echo(
        f"grpo-core {grpo_core.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {cores} cores"
    )
    for extra, packages in EXTRAS.items():
        typer.echo(f"  [{extra}]  {', '.join(map(_state, packages))}")
    host = load_plugins()
    broken = [record for record in host.plugins if record.status == "broken"]
    names = ", ".join(r.name for r in host.plugins if r.status == "ok") or "none"
    typer.echo(f"  plugins  {names}")
    for record in broken:
        typer.echo(f"  broken   {record.label()}: {record.reason}")
    isolated = _sandbox()
    if broken or not isolated:
        raise typer.Exit(1)


def _state(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def _sandbox() -> bool:
    """Show what the sandbox's own doctor finds; whether something isolates, where installed."""
    if importlib.util.find_spec("grpo_sandbox") is None:
        typer.echo(
            "  sandbox  not installed; the code reward brings it: pip install grpo-reward-code"
        )
        return True
    # by name: the core knows nothing of the sandbox but that it may be there
    found: Any = importlib.import_module("grpo_sandbox.doctor").examine()
    typer.echo(f"\n{found.as_text()}")
    return bool(found.tier)
