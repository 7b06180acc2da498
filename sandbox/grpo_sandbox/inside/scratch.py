"""Removing a directory that an enemy filled.

Left out: symlinks are removed, never followed.
"""

from __future__ import annotations

import contextlib
import os
import stat


def remove(path: str) -> None:
    """Remove a tree, however deep, whatever its modes. Raises nothing for what is gone.

    Directories are moved up to the top one by one, so that neither the depth nor
    the length of a path matters.
    """
    with contextlib.suppress(OSError):
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    moved, token = 0, os.urandom(8).hex()  # a name that nobody inside could take first
    while True:
        with os.scandir(top) as entries:
            names = [entry.name for entry in entries]
        if not names:
            return
        for name in names:
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
                continue
            _unlock(name, top)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=top)
            try:
                with os.scandir(inner) as entries:
                    below = [entry.name for entry in entries]
                for entry in below:
                    if _is_directory(entry, inner):
                        moved += 1
                        _unlock(entry, inner)  # or it may not be moved
                        os.rename(entry, f"{token}-{moved}", src_dir_fd=inner, dst_dir_fd=top)
                    else:
                        os.unlink(entry, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _unlock(name: str, at: int) -> None:
    """Give a directory its owner's rights; through a descriptor, so never a link's target."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def used_bytes(path: str, enough: int) -> int:
    """Bytes that the files of a tree take up; stops counting beyond `enough`."""
    total, waiting = 0, [path]
    while waiting and total <= enough:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                total += 4096 + entry.stat(follow_symlinks=False).st_blocks * 512
                if total > enough:
                    break
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return total
