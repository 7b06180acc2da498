"""Checkpoints: a model loadable with `from_pretrained`, and what it takes to go on.

A checkpoint is written under another name, synced, and renamed when it is whole;
a manifest holds size and checksum of every file. Loading one runs no code from it
(safetensors, `weights_only`, JSON). Random numbers, the data's order and the
learning rate need no state: they follow from seed and step (docs/resume.md).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from grpo_core.disk import Say, rename, sync, when_there_is_space
from grpo_core.errors import ConfigError
from grpo_core.policy import Policy

_NAME = re.compile(r"step-(\d{6,})")
_MANIFEST = "manifest.json"


def save(
    directory: Path,
    step: int,
    policy: Policy,
    optimizer: Any,
    state: dict[str, Any],
    keep: int,
    *,
    reference: Any = None,
    say: Say = print,
) -> Path:
    """Write `directory/step-000100` and remove all but the newest `keep`.

    `state` is what JSON can hold; `reference` a model that has moved since the start and
    cannot be had elsewhere. On a full disk this waits for space, and `say` is told.
    """
    path = directory / f"step-{step:06d}"
    partial = directory / f"partial-{path.name}"

    def write() -> None:
        for left in directory.glob("partial-*"):  # by a crash
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        try:
            policy.save(partial)
            if reference is not None:
                reference.save_pretrained(partial / "reference")
            # through a handle of ours: torch's own writer hides that a disk is full
            with (partial / "optimizer.pt").open("wb") as file:
                torch.save(optimizer.state_dict(), file)
            _write_json(partial / "parameters.json", _trained(policy.model, optimizer))
            _write_json(partial / "trainer_state.json", {"step": step, **state})
            files = _measure(partial)
            _write_json(partial / _MANIFEST, {"files": files, "sha256": _digest_of(files)})
            for each in partial.rglob("*"):
                sync(each)
            if path.exists():
                _remove(path)  # damaged: this run went on from an earlier one
            rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    when_there_is_space(write, path, say)
    mine = [each for each in _all(directory) if _step(each) <= step]
    for other in _all(directory):
        if other not in mine[-keep:]:  # too old, or of a future that did not happen
            _remove(other)
    return path


def latest(directory: Path, say: Say = print) -> Path | None:
    """The newest whole checkpoint; None when there is none at all.

    A damaged one is passed over, and `say` is told which of its files is wrong.
    Raises ConfigError when all are damaged.
    """
    found = _all(directory)
    for path in reversed(found):
        wrong = fault(path)
        if wrong is None:
            return path
        say(f"{path} is damaged and left out: {wrong}")
    if found:
        raise ConfigError(
            f"none of the {len(found)} checkpoints in {directory} is whole; "
            "start anew without --resume (this run's folder is then moved aside)"
        )
    return None


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, None when all are as they were written."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        files, digest = manifest["files"], manifest["sha256"]
        if digest != _digest_of(files):
            return f"{_MANIFEST} has been altered"
        for name, recorded in files.items():  # sizes first: they cost nothing to read
            if not (path / name).is_file():
                return f"{name} is missing"
            size = (path / name).stat().st_size
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes instead of {recorded['bytes']}"
        measured = _measure(path)
    except FileNotFoundError:
        return f"there is no {_MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is torn"
    except OSError as error:  # as from a failing disk
        return f"{error.filename or _MANIFEST} cannot be read: {error.strerror}"
    for name in files:
        if measured.get(name) != files[name]:
            return f"{name} has another checksum than when it was written"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The trainer's state: `step` and whatever was saved beside it."""
    return dict(json.loads((path / "trainer_state.json").read_text()))


def reference_folder(path: Path) -> Path | None:
    """Where the reference was saved, None when it was not."""
    folder = path / "reference"
    return folder if folder.is_dir() else None


def restore(path: Path, optimizer: Any) -> None:
    """Load the optimizer's state.

    Raises ConfigError when it belongs to other parameters, naming the first that differs,
    or holds more than tensors and plain values.
    """
    saved: dict[str, list[int]] = json.loads((path / "parameters.json").read_text())
    here = [list(p.shape) for group in optimizer.param_groups for p in group["params"]]
    for (name, shape), there in zip(saved.items(), here, strict=False):
        if shape != there:
            raise ConfigError(
                f"{path} is of another model: it trained {name} of shape {shape}, "
                f"where this one has {there}",
                ("model",),
            )
    if len(saved) != len(here):
        raise ConfigError(
            f"{path} is of another model: it trained {len(saved)} parameters, this one has "
            f"{len(here)} to train",
            ("model",),
        )
    try:
        state = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path / 'optimizer.pt'} was not written by grpo: {reason}") from None
    optimizer.load_state_dict(state)


def _all(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _remove(path: Path) -> None:
    """Renamed first: what a crash leaves of it is no checkpoint."""
    shutil.rmtree(path.rename(path.with_name(f"partial-{path.name}-old")))


def _trained(model: Any, optimizer: Any) -> dict[str, list[int]]:
    """Shapes of the parameters that the optimizer holds, in its order, by their names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {names[id(parameter)]: list(parameter.shape) for parameter in held}


def _measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file but the manifest, by its path in the folder."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _MANIFEST)
    with ThreadPoolExecutor() as threads:  # hashing gives up the GIL
        digests = list(threads.map(_digest, paths))
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
