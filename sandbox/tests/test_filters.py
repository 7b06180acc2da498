"""The seccomp programs: the numbers are libseccomp's, and each call gets what the policy says."""

import errno
import struct

import pytest

from grpo_sandbox.linux.filters import ALLOW, KILL_PROCESS, Arg, assemble, errno_action
from grpo_sandbox.linux.numbers import AUDIT_ARCH, NUMBERS, number
from grpo_sandbox.linux.policy import job_filter

EPERM, ENOSYS = errno_action(errno.EPERM), errno_action(errno.ENOSYS)


def result(program: bytes, call: int, *args: int, arch: int = AUDIT_ARCH) -> int:
    """What the kernel would answer: the program interpreted, as its manual describes."""
    data = struct.pack("=IIQ6Q", call, arch, 0, *(args + (0,) * 6)[:6])
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, value = 0, 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif op == 0x54:
            value &= k
        elif op == 0x15:
            at += yes if value == k else no
        elif op == 0x05:
            at += k
        elif op == 0x35:
            at += yes if value >= k else no
        else:
            assert op == 0x06
            return k


@pytest.mark.parametrize("column", [0, 1], ids=["x86-64", "arm64"])
def test_the_numbers_are_those_of_libseccomp(column: int) -> None:
    pyseccomp = pytest.importorskip("pyseccomp")
    arch = (pyseccomp.Arch.X86_64, pyseccomp.Arch.AARCH64)[column]
    for name, numbers in NUMBERS.items():
        theirs = pyseccomp.resolve_syscall(arch, name)
        assert numbers[column] == (theirs if theirs >= 0 else None), name


def call(name: str) -> int:
    found = number(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("read", (), ALLOW),
        ("execve", (), EPERM),
        ("socket", (2, 1), EPERM),
        ("socket", (1, 1), EPERM),
        ("ptrace", (), EPERM),
        ("clone3", (), ENOSYS),
        ("clone", (0x3D0F00,), ALLOW),  # what a thread of glibc asks for
        ("clone", (17,), EPERM),
        ("clone", (0x3D0F00 | 0x10000000,), EPERM),
        ("clone", (0x4111,), EPERM),
        ("kill", (77, 9), ALLOW),
        ("kill", (78, 9), EPERM),
        ("kill", (2**64 - 1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("tgkill", (77, 78, 9), ALLOW),
        ("tgkill", (1, 1, 9), EPERM),
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 3, 0x21), EPERM),
        ("mmap", (0, 4096, 3, 0x01), ALLOW),
        ("openat", (0, 0, 0o1000), EPERM),
        ("openat", (0, 0, 0o1101), ALLOW),
        ("fcntl", (3, 8, 1), EPERM),
        ("fcntl", (3, 10, 9), EPERM),
        ("fcntl", (3, 4, 0), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),  # TIOCSTI: typing into the terminal
        ("prctl", (1, 0), EPERM),
        ("prctl", (15, 0), ALLOW),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), EPERM),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 0x80801), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (2, 1), EPERM),
        ("sendto", (3, 0, 0, 0, 0, 0), ALLOW),
        ("sendto", (3, 0, 0, 0, 1 << 40, 0), EPERM),
        ("getxattr", (), errno_action(errno.EOPNOTSUPP)),
    ],
)
def test_the_policy(name: str, args: tuple[int, ...], answer: int) -> None:
    for metadata in (True, False):
        assert result(job_filter(77, metadata=metadata), call(name), *args) == answer


def test_metadata_changes_do_nothing_where_they_would_be_real() -> None:
    assert result(job_filter(1, metadata=True), call("fchmodat")) == ALLOW
    assert result(job_filter(1, metadata=False), call("fchmodat")) == errno_action(0)


def test_other_architectures_and_newer_calls() -> None:
    program = job_filter(1, metadata=True)
    assert result(program, call("read"), arch=0x40000003) == KILL_PROCESS
    assert result(program, 0x40000000 | call("read")) == EPERM  # x32
    assert result(program, 425) == ENOSYS and result(program, 9999) == ENOSYS


def test_every_alternative_and_every_condition_counts() -> None:
    program = assemble(
        AUDIT_ARCH,
        {},
        {7: [[Arg(0, 1), Arg(1, 2)], [Arg(2, 5 << 32, wide=True)]]},
        otherwise=EPERM,
        unknown=ENOSYS,
        unknown_from=100,
    )
    for args, answer in [
        ((1, 2), ALLOW),
        ((1, 3), EPERM),
        ((0, 2), EPERM),
        ((0, 0, 5 << 32), ALLOW),
        ((0, 0, 5), EPERM),
    ]:
        assert result(program, 7, *args) == answer
