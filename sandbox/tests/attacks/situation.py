"""Runs a command as on a machine that this one is not.

    python situation.py [--plain] [--docker] [--bare] -- COMMAND…

`--plain`: as a user without privileges; `--docker`: as in a container, with the
capabilities that Docker leaves root and its seccomp profile's decisive denials;
`--bare`: with landlock denied too, so that nothing isolates.
"""

import ctypes
import errno
import os
import struct
import sys

from grpo_sandbox.linux import kernel
from grpo_sandbox.linux.filters import ALLOW, Arg, errno_action
from grpo_sandbox.linux.numbers import AUDIT_ARCH, number

# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
# net_raw, sys_chroot, mknod, audit_write, setfcap
_DOCKERS = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
_NAMESPACES = 0x7E02_0000


def become_plain() -> None:
    """A user without privileges, who can nevertheless reach a Python in root's home."""
    if os.getuid() != 0:
        return
    home = os.path.realpath(sys.base_prefix)
    if home.startswith("/root/"):
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        fd = os.open(home, os.O_PATH)
        kernel.mount("tmpfs", "/root", "tmpfs", 0, "mode=755")
        os.makedirs(home)
        kernel.mount(f"/proc/self/fd/{fd}", home, "", kernel.MS_BIND)
        os.close(fd)
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def like_docker(bare: bool) -> None:
    if os.getuid() == 0:
        mask = sum(1 << capability for capability in _DOCKERS)
        drop_bound = 24
        for capability in range(41):
            if capability not in _DOCKERS:
                kernel.prctl(drop_bound, capability)
        header = struct.pack("=Ii", 0x2008_0522, 0)
        low, high = mask & 0xFFFF_FFFF, mask >> 32
        data = struct.pack("=6I", low, low, 0, high, high, 0)
        result = ctypes.CDLL(None).syscall(number("capset"), header, data)
        assert result == 0
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    denied = ["unshare", "setns", "mount", "umount2", "pivot_root", "mount_setattr"]
    if bare:
        denied += ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
    actions = {n: errno_action(errno.EPERM) for name in denied if (n := number(name)) is not None}
    clone, clone3 = number("clone"), number("clone3")
    assert clone is not None and clone3 is not None
    actions[clone3] = errno_action(errno.ENOSYS)
    kernel.load_filter(_program(actions, clone))


def _program(actions: dict[int, int], clone: int) -> bytes:
    """Deny what is in `actions`, allow everything else but clone with new namespaces."""
    from grpo_sandbox.linux.filters import assemble

    allowed = {n: ALLOW for n in range(1024) if n not in actions and n != clone}
    return assemble(
        AUDIT_ARCH,
        {**actions, **allowed},
        {clone: [[Arg(0, 0, mask=_NAMESPACES)]]},
        otherwise=errno_action(errno.EPERM),
        unknown=errno_action(errno.ENOSYS),
        unknown_from=1024,
    )


def main() -> None:
    at = sys.argv.index("--")
    wishes, command = sys.argv[1:at], sys.argv[at + 1 :]
    if "--plain" in wishes:
        become_plain()
    if "--docker" in wishes or "--bare" in wishes:
        like_docker("--bare" in wishes)
    os.environ["HOME"] = "/"
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
