"""Seccomp programs: rules in, classic BPF out. Pure; loading is `kernel.load_filter`.

libseccomp would do this as well, but is not on every machine; the tests hold
these programs against it and against the kernel. Left out: which calls to
allow (`policy`).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALLOW = 0x7FFF_0000
KILL_PROCESS = 0x8000_0000


def errno_action(code: int) -> int:
    """The call returns this error; 0 makes it do nothing and succeed."""
    return 0x0005_0000 | code


@dataclass(frozen=True)
class Arg:
    """A condition: argument `index`, after `mask`, equals `value`.

    The low 32 bits are compared, which is what the kernel reads of an int; with
    `wide` all 64, for pointers.
    """

    index: int
    value: int
    mask: int = 0xFFFF_FFFF
    wide: bool = False


Alternatives = Sequence[Sequence[Arg]]
"""Any of these, each a list of conditions that must all hold."""

_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x4000_0000

Instruction = tuple[int, int, int, int]


def assemble(
    arch: int,
    actions: Mapping[int, int],
    conditional: Mapping[int, Alternatives],
    otherwise: int,
    unknown: int,
    unknown_from: int,
) -> bytes:
    """A program that takes `actions[number]`, allows a `conditional` call when one of
    its alternatives holds, answers `unknown` to numbers at or above `unknown_from`,
    and `otherwise` to the rest. Another architecture's calls kill the process.
    """
    leaves: dict[int, list[Instruction]] = {0: _returning(otherwise)}
    for number in sorted({*actions, *conditional}):
        if number in actions:
            leaves[number] = _returning(actions[number])
        else:
            alternatives = [_all_of(conditions) for conditions in conditional[number]]
            leaves[number] = [*itertools.chain(*alternatives), *_returning(otherwise)]
        leaves.setdefault(
            number + 1, _returning(unknown if number + 1 >= unknown_from else otherwise)
        )
    leaves.setdefault(unknown_from, _returning(unknown))
    leaves[_X32] = _returning(otherwise)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_search(_merged(leaves)),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _returning(action: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, action)]


def _merged(leaves: Mapping[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """In order of their first number, neighbours that do the same as one."""
    merged: list[tuple[int, list[Instruction]]] = []
    for number in sorted(leaves):
        if not merged or merged[-1][1] != leaves[number]:
            merged.append((number, leaves[number]))
    return merged


def _search(leaves: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search: loading a program makes the kernel run it for every number there
    is, so its length on the way to an answer is what loading costs."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    lower, upper = _search(leaves[:middle]), _search(leaves[middle:])
    return [
        (_JUMP_AT_LEAST, 1, 0, leaves[middle][0]),
        (_JUMP, 0, 0, len(upper)),
        *upper,
        *lower,
    ]


def _all_of(conditions: Sequence[Arg]) -> list[Instruction]:
    """Allow when every condition holds, else fall through to what follows."""
    tests: list[list[Instruction]] = []
    for arg in conditions:
        at = _ARGUMENTS_AT + 8 * arg.index
        test: list[Instruction] = [(_LOAD, 0, 0, at)]
        if arg.mask != 0xFFFF_FFFF:
            test.append((_AND, 0, 0, arg.mask))
        test.append((_JUMP_EQUAL, 0, -1, arg.value & 0xFFFF_FFFF))
        tests.append(test)
        if arg.wide:
            tests.append([(_LOAD, 0, 0, at + 4), (_JUMP_EQUAL, 0, -1, arg.value >> 32)])
    flat = [instruction for test in tests for instruction in test]
    flat.append((_RETURN, 0, 0, ALLOW))
    return [
        (op, yes, len(flat) - 1 - at if no == -1 else no, k)
        for at, (op, yes, no, k) in enumerate(flat)
    ]
