"""The outer walls of tier 1: an unprivileged user in namespaces of its own, whose
file system is a read-only handful of directories.

Made once, around the zygote. Left out: what each job adds (`inside.isolate`).
"""

from __future__ import annotations

import contextlib
import os

from grpo_sandbox.linux import kernel
from grpo_sandbox.linux.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
)

_UID_BASE = 0x7000_0000
_NOBODY = 65534
INSIDE_ID = 1000
SCRATCH = "/scratch"


def world_reaches(path: str) -> bool:
    """Whether everybody may pass through a directory and all those above it."""
    path = os.path.realpath(path)
    while os.path.isdir(path) and os.stat(path).st_mode & 0o001:
        if path == "/":
            return True
        path = os.path.dirname(path)
    return False


def become_unprivileged(directory: str = "") -> None:
    """As root, take a user id that nobody else has, and `directory` along; as anyone
    else, do nothing.

    The kernel enforces limits on processes for every user but root, and root's
    files are root's even without a capability.
    """
    if os.geteuid() != 0:
        return
    own = _UID_BASE + os.getpid()
    with contextlib.suppress(PermissionError):
        os.setgroups([])
    for user in (own, _NOBODY):  # a container may have no more than 65536 ids
        try:
            if directory:
                os.chown(directory, user, user)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError:
            continue
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        return


def enter(readable: list[str], devices: list[str]) -> None:
    """Move this process into its namespaces; its next child is the first in the pid
    namespace. Raises OSError naming the step that was refused.
    """
    me = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    spaces = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if os.geteuid() == 0:
        # Root builds the file system first: it can show a Python that lies where
        # an unprivileged user could not look.
        kernel.unshare(CLONE_NEWNS)
        _build_root(readable, devices)
        become_unprivileged()
        if os.geteuid() == 0:
            raise PermissionError(1, "setresuid: root may not become another user")
        _unshare_user(me, spaces | CLONE_NEWNS)
    else:
        _unshare_user(me, spaces | CLONE_NEWNS)
        _build_root(readable, devices)
    os.close(me)


def _unshare_user(me: int, spaces: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(spaces)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {uid} 1"),
        ("gid_map", f"{INSIDE_ID} {gid} 1"),
    ):
        fd = os.open(name, os.O_WRONLY, dir_fd=me)
        os.write(fd, text.encode())
        os.close(fd)


def _build_root(readable: list[str], devices: list[str]) -> None:
    kernel.mount("none", "/", "", MS_REC | MS_PRIVATE)
    # Opened before anything is covered, and bound from the descriptor afterwards.
    sources: list[tuple[str, int]] = []
    links: list[tuple[str, str]] = []
    for path in [*readable, *devices]:
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        else:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                sources.append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
    # Any directory will do to build on; what it held is reached by descriptor.
    stage = next(place for place in ("/tmp", "/var/tmp", "/mnt", "/run") if os.path.isdir(place))
    kernel.mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path, fd in sources:
        target = stage + path
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.mount(f"/proc/self/fd/{fd}", target, "", MS_BIND | MS_REC)
        if path not in devices:
            kernel.set_mount_flags(target, MS_NODEV)
        os.close(fd)
    for path, target in links:
        os.makedirs(os.path.dirname(stage + path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(target, stage + path)
    os.makedirs(stage + SCRATCH, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # a Python that lies in /tmp stays visible
        os.symlink(SCRATCH, stage + "/tmp")
    kernel.set_mount_flags(stage, MS_RDONLY | MS_NOSUID)
    os.chdir(stage)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
