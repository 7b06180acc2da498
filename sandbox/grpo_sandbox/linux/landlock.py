"""Landlock: which files a process may still open, and whom it may still reach.

Landlock binds a process and its descendants, needs no privilege, and works
where namespaces are refused. Left out: changing metadata (modes, owners), which
landlock does not govern; `policy` refuses that.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct

from grpo_sandbox.linux.kernel import PR_SET_NO_NEW_PRIVS, _syscall, prctl

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


def restrict(rules: list[tuple[int, int]], version: int) -> None:
    """Allow this process nothing but `rules`: (open directory or file, rights).

    TCP, and from version 6 signals and abstract sockets beyond this process, are
    refused whole. Open descriptors keep working. A rule counts for what the
    descriptor shows, so open it after mounting. Raises OSError.
    """
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("=Q", files)
    if version >= 4:
        attributes += struct.pack("=Q", 0b11)
    if version >= 6:
        attributes += struct.pack("=Q", 0b11)
    ruleset = _syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for fd, rights in rules:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights & files, fd)
            _syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def open_rules(readable: list[str], devices: list[str]) -> list[tuple[int, int]]:
    """Rules for paths: trees that may be read, devices that may be read and written.
    What does not exist is left out."""
    rules = []
    for paths, rights in ((readable, READ), (devices, READ | _WRITE_FILE)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                rules.append((os.open(path, os.O_PATH | os.O_CLOEXEC), rights))
    return rules
