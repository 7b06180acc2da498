"""What a job may ask of the kernel: a list of what is allowed, all else is refused.

Refused calls return EPERM, so that programs that merely try go on; calls newer
than this list return ENOSYS, which libraries take as a hint to use an older one.
Left out: how a list becomes a program (`filters`).
"""

from __future__ import annotations

import errno
import functools
import struct

from grpo_sandbox.linux.filters import ALLOW, Alternatives, Arg, assemble, errno_action
from grpo_sandbox.linux.numbers import AUDIT_ARCH, number


def _words(text: str) -> list[str]:
    return text.split()


# What a Python program needs for computing, threads, event loops and files. Not
# here, on purpose: other processes, programs, sockets to anywhere, memory that no
# limit counts (memfd, shm), ptrace, mounts, namespaces, keys, bpf, io_uring.
_ALLOWED = _words("""
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range
lseek dup dup2 dup3 flock stat fstat lstat newfstatat statx access faccessat faccessat2
readlink readlinkat getdents getdents64 statfs fstatfs getcwd chdir fchdir umask
rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlink symlinkat
ftruncate fallocate fadvise64 fsync fdatasync sendfile copy_file_range
mprotect munmap mremap brk madvise mincore msync membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend
sigaltstack alarm pause restart_syscall
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
epoll_pwait2 eventfd eventfd2 pipe pipe2 timerfd_create timerfd_settime timerfd_gettime
recvfrom recvmsg shutdown getsockname getpeername getsockopt
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid
getpgrp getsid uname sysinfo times getrusage getrlimit setrlimit getpriority capget
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getitimer setitimer
sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min getcpu futex futex_waitv set_tid_address set_robust_list
get_robust_list rseq exit exit_group getrandom
""")

_METADATA = _words("""
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
utime utimes utimensat futimesat
""")

_XATTR = _words("getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr")

_CLONE_THREAD, _CLONE_VM = 0x1_0000, 0x100
_NEW_NAMESPACES = 0x7E02_0080
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_AF_UNIX, _SOCK_STREAM = 1, 1
_O_ACCMODE, _O_WRONLY, _O_RDWR, _O_TRUNC = 3, 1, 2, 0o1000

# Duplicating, flags, record locks; not the commands that send signals to others
# (F_SETOWN, F_SETSIG), grow pipes or take leases.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032, 1034)
# TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TIOCGWINSZ
_IOCTL = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451, 0x5413)
# PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_PRCTL = (2, 3, 15, 16, 0x53564D41)

_FIRST_NEW = 424
_PID = 0x7FED_0123
"""Stands in a template for the process id, which only the child knows."""


def job_filter(pid: int, *, metadata: bool) -> bytes:
    """The program for one job whose process id is `pid`."""
    program = template(metadata=metadata)
    return program.replace(struct.pack("=I", _PID), struct.pack("=I", pid))


@functools.cache
def template(*, metadata: bool) -> bytes:
    """The program for any job, still without its process id.

    `metadata`: whether changing modes, owners and times is real. It is where the
    file system around the job is read-only anyway; elsewhere, because landlock
    does not govern it, these calls succeed and do nothing.
    """
    actions = {n: ALLOW for name in _ALLOWED if (n := number(name)) is not None}
    change = ALLOW if metadata else errno_action(0)
    actions |= {n: change for name in _METADATA if (n := number(name)) is not None}
    no_support = errno_action(errno.EOPNOTSUPP)
    actions |= {n: no_support for name in _XATTR if (n := number(name)) is not None}
    conditional = {
        n: alternatives
        for name, alternatives in _conditions(_PID).items()
        if (n := number(name)) is not None
    }
    return assemble(
        AUDIT_ARCH,
        actions,
        conditional,
        otherwise=errno_action(errno.EPERM),
        unknown=errno_action(errno.ENOSYS),
        unknown_from=_FIRST_NEW,
    )


def _opens(flags_at: int) -> Alternatives:
    """Opening, but for truncating through a read-only descriptor, which landlock
    before version 3 lets pass."""
    return [
        [Arg(flags_at, 0, mask=_O_TRUNC)],
        [Arg(flags_at, _O_WRONLY, mask=_O_ACCMODE)],
        [Arg(flags_at, _O_RDWR, mask=_O_ACCMODE)],
    ]


def _conditions(pid: int) -> dict[str, Alternatives]:
    return {
        "open": _opens(1),
        "openat": _opens(2),
        # threads, and nothing else
        "clone": [
            [
                Arg(
                    0,
                    _CLONE_THREAD | _CLONE_VM,
                    mask=_CLONE_THREAD | _CLONE_VM | _NEW_NAMESPACES,
                )
            ]
        ],
        # memory that is shared and of no file is not counted by RLIMIT_DATA
        "mmap": [[Arg(3, 0, mask=_MAP_SHARED)], [Arg(3, 0, mask=_MAP_ANONYMOUS)]],
        "kill": [[Arg(0, pid)]],
        "tgkill": [[Arg(0, pid)]],
        "prlimit64": [[Arg(0, 0)], [Arg(0, pid)]],
        "fcntl": [[Arg(1, command)] for command in _FCNTL],
        "ioctl": [[Arg(1, command)] for command in _IOCTL],
        "prctl": [[Arg(0, option)] for option in _PRCTL],
        # asyncio's self-pipe; a datagram pair could be sent to any path
        "socketpair": [[Arg(0, _AF_UNIX), Arg(1, _SOCK_STREAM, mask=0xF)]],
        "sendto": [[Arg(4, 0, wide=True)]],
    }
