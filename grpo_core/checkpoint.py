"""Checkpoints: a model loadable with `from_pretrained`, and what it takes to go on.

A checkpoint is written under another name and renamed when it is whole. Loading
one runs no code from it (safetensors and `weights_only`). Random numbers and
the learning rate need no state: they follow from seed and step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from grpo_core.errors import ConfigError
from grpo_core.policy import Policy

_NAME = re.compile(r"step-(\d{6,})")


def save(
    directory: Path,
    step: int,
    policy: Policy,
    optimizer: Any,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `directory/step-000100` and remove all but the newest `keep`."""
    path = directory / f"step-{step:06d}"
    partial = directory / f"partial-{path.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.save(partial)
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    (partial / "trainer_state.json").write_text(json.dumps({"step": step, **state}, indent=2))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    for old in _all(directory)[:-keep]:
        shutil.rmtree(old)
    return path


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = _all(directory)
    return found[-1] if found else None


def read_state(path: Path) -> dict[str, Any]:
    """The trainer's state: `step` and whatever was saved beside it."""
    return dict(json.loads((path / "trainer_state.json").read_text()))


def restore(path: Path, optimizer: Any) -> None:
    """Load the optimizer's state. Raises ConfigError when it does not fit the model."""
    state = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise ConfigError(f"{path} is of another model: {error}", ("model",)) from None


def _all(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))
