"""Landlock: which files a process may still open, and whom it may still reach.

Landlock binds a process and its descendants, needs no privilege, and works
where namespaces are refused. Left out: changing metadata (modes, owners), which
landlock does not govern; `policy` refuses that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct

from grpo_sandbox.linux.kernel import PR_SET_NO_NEW_PRIVS, _syscall, call, make

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = _READ_FILE | _READ_DIR
WRITE = (
    READ
    | _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SYM
    | _REFER
    | _TRUNCATE
)
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_VERSION_QUERY = 1
_RULE_PATH_BENEATH = 1


def abi() -> int:
    """The landlock version of this kernel, 0 where there is none."""
    try:
        return _syscall("landlock_create_ruleset", 0, 0, _VERSION_QUERY)
    except OSError:
        return 0


class Ruleset:
    """Allows nothing but `rules` (open directory or file, rights) and one place more.

    Prepared once, put on by many. TCP, and from version 6 signals and abstract sockets
    beyond the process, are refused whole. Open descriptors keep working.
    """

    def __init__(self, rules: list[tuple[int, int]], version: int) -> None:
        files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
        attributes = struct.pack("=Q", files)
        if version >= 4:
            attributes += struct.pack("=Q", 0b11)
        if version >= 6:
            attributes += struct.pack("=Q", 0b11)
        self._fd, self._place = ctypes.c_long(), ctypes.create_string_buffer(12)
        beneath = "landlock_add_rule", self._fd, _RULE_PATH_BENEATH
        self._create = [call("landlock_create_ruleset", attributes, len(attributes), 0)]
        self._rules = [
            call(*beneath, struct.pack("=Qi", rights & files, fd), 0) for fd, rights in rules
        ]
        self._write = [call(*beneath, self._place, 0)]
        struct.pack_into("=Q", self._place, 0, WRITE & files)
        self._enforce = [
            call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            call("landlock_restrict_self", self._fd, 0),
            call("close", self._fd),
        ]

    def enforce(self, place: int = -1) -> None:
        """Restrict this process, which may write below the open directory `place`.
        Raises OSError."""
        self._fd.value = make(self._create)
        make(self._rules)
        if place >= 0:
            struct.pack_into("=i", self._place, 8, place)
            make(self._write)
        make(self._enforce)


def open_rules(readable: list[str], devices: list[str]) -> list[tuple[int, int]]:
    """Rules for paths: trees that may be read, devices that may be read and written.
    What does not exist is left out. A rule counts for what the descriptor shows, so
    this comes after mounting."""
    rules = []
    for paths, rights in ((readable, READ), (devices, READ | _WRITE_FILE)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                folder = stat.S_ISDIR(os.fstat(fd).st_mode)
                rules.append((fd, rights if folder else rights & _OF_FILES))
    return rules
