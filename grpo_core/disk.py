"""Writing so that neither a crash nor a full disk leaves half of a thing.

What is written where is `metrics` (a run's folder) and `checkpoint`. No torch here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Say = Callable[[str], None]

RETRY_S = 5.0
"""Between attempts to write to a full disk."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def when_there_is_space(write: Callable[[], T], path: Path, say: Say) -> T:
    """What `write` returns; while the disk of `path` is full, wait and call it again.

    `write` must leave nothing behind when it fails. `say` is told once what to do,
    and when it goes on. Raises whatever `write` raises for another reason.
    """
    waiting = False
    while True:
        try:
            result = write()
            break
        except Exception as error:  # safetensors and torch wrap the OSError in types of their own
            if not _is_full(error):
                raise
        if not waiting:
            _say_anyway(
                say,
                f"the disk is full: cannot write {path.name} in {path.parent} ({_free(path)} free). "
                "The run is paused and loses nothing: make space there, and it goes on by itself",
            )
        waiting = True
        time.sleep(RETRY_S)
    if waiting:
        _say_anyway(say, f"{path} is written; going on")
    return result


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        rename(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append(path: Path, line: str) -> None:
    """Add a line to a file, wholly or not at all, and see it on the disk."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(line + "\n")
        sync(path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(path, before)
        raise


def rename(old: Path, new: Path) -> None:
    """Give a file, written and closed, its final name; both survive a power cut from here on."""
    sync(old)
    os.replace(old, new)
    sync(new.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(f"(os error {code})" in str(error) for code in _FULL):  # as Rust writes it
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(path: Path) -> str:
    folder = next(folder for folder in path.parents if folder.is_dir())
    return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"


def _say_anyway(say: Say, text: str) -> None:
    """The terminal's output may go to a file on the very disk that is full."""
    with contextlib.suppress(OSError):
        say(text)
