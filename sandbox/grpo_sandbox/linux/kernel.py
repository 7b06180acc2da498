"""System calls that Python 3.11 does not offer, each as one thin function.

Every function raises OSError whose message names the call. Left out: what to
call when (`landlock`, `namespaces`, `inside.isolate`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from grpo_sandbox.linux.numbers import number

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_holding = ctypes.PyDLL(None, use_errno=True)  # for calls that wait for nothing
_holding.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


Call = tuple[str, tuple[object, ...]]


def call(name: str, *arguments: object) -> Call:
    """A system call, ready for `make`. Integers go as C longs; bytes and ctypes arrays
    as pointers; text as the bytes of a path."""
    converted = [
        ctypes.c_long(a) if isinstance(a, int) else os.fsencode(a) if isinstance(a, str) else a
        for a in arguments
    ]
    return name, (ctypes.c_long(number(name) or -1), *converted)


def make(calls: Iterable[Call]) -> int:
    """Make one call after another, and return what the last one did. What a child does
    that way was prepared before it was forked, and costs it little memory of its own.
    Raises OSError naming the call that was refused."""
    result = 0
    for name, arguments in calls:
        result = _holding.syscall(*arguments)
        if result < 0:
            _checked(result, name)
    return result


def _syscall(name: str, *arguments: object) -> int:
    result: int = _libc.syscall(*call(name, *arguments)[1])
    return _checked(result, name)


def fork() -> int:
    """`os.fork`, for a process with one thread, without the handlers that Python runs in
    the child: they put right what other threads may have left, and cost as much as the
    fork itself."""
    return _checked(_holding.fork(), "fork")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _checked(result, f"mount {target}")


def unmount(target: str) -> None:
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    _syscall("pivot_root", os.fsencode(new), os.fsencode(old))


def set_mount_flags(path: str, flags: int) -> None:
    """Add MOUNT_ATTR flags (equal to MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC) to
    every mount at and below `path` (Linux 5.12)."""
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
    recursive, here = 0x8000, -100
    _syscall("mount_setattr", here, os.fsencode(path), recursive, attributes, len(attributes))


def prctl(option: int, argument: int = 0, second: int = 0) -> None:
    result = _libc.prctl(
        ctypes.c_int(option),
        ctypes.c_ulong(argument),
        ctypes.c_ulong(second),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    _checked(result, f"prctl {option}")


def dropping_capabilities() -> list[Call]:
    """Calls that give up every effective, permitted, inheritable and ambient capability."""
    header = struct.pack("=Ii", 0x2008_0522, 0)
    return [
        call("capset", header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)),
        call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
    ]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def loading_filter(program: bytes) -> list[Call]:
    """The call that loads a seccomp program (8 bytes an instruction) for this thread, for
    good."""
    filled = ctypes.pointer(_Program(len(program) // 8, program))
    set_mode_filter = 1
    return [call("seccomp", set_mode_filter, 0, filled)]


def load_filter(program: bytes) -> None:
    make(loading_filter(program))
