"""Abuse scripts: programs that try to get out, or to take more than their share.

A script prints LEAK when it got what it should not have. The harness (`drive.py`)
also looks from outside: canary files and processes, listeners, leftovers, and
whether the next job works. `$NAME` is filled in by the harness.
"""

FILES = {
    "read a secret file": "print('LEAK', open('$SECRET').read())",
    "read the secret through a symlink": """
import os
os.symlink('$SECRET', 'link'); print('LEAK', open('link').read())
""",
    "hardlink the secret into scratch": """
import os
os.link('$SECRET', 'link'); print('LEAK', open('link').read())
""",
    "read /etc/shadow": "print('LEAK', open('/etc/shadow').read())",
    "read /etc/passwd": "print('LEAK', open('/etc/passwd').read())",
    "list the home directory": "import os; print('LEAK', os.listdir('$HOME'))",
    "write beside the secret": "open('$HOME/planted', 'w').write('x'); print('LEAK')",
    "overwrite the secret": "open('$SECRET', 'w').write('x'); print('LEAK')",
    "truncate the secret": "import os; os.truncate('$SECRET', 0); print('LEAK')",
    "truncate by opening": """
import os
os.open('$SECRET', os.O_RDONLY | os.O_TRUNC); print('LEAK')
""",
    "delete the secret": "import os; os.unlink('$SECRET'); print('LEAK')",
    "move the secret": "import os; os.rename('$SECRET', 'mine'); print('LEAK')",
    "change the secret's mode": """
import os, stat
os.chmod('$SECRET', 0o777)
try: os.utime('$SECRET', (1, 1))
except OSError: pass
""",
    "write to the standard library": """
import os
open(os.__file__.replace('os.py', 'planted.py'), 'w').write('x'); print('LEAK')
""",
    "write /tmp of the host": """
import os
for d in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/'):
    try: open(d + '/grpo-canary', 'w').write('x')
    except OSError: pass
""",
    "climb out of scratch": """
import os
for n in range(1, 30):
    for tail in ('etc/passwd', '$SECRET'.lstrip('/')):
        try: print('LEAK', open('../' * n + tail).read()); break
        except OSError: pass
""",
    "read the controller's memory": """
import os
for pid in [os.getppid(), $CONTROLLER]:
    try: print('LEAK', len(open(f'/proc/{pid}/mem', 'rb').read(1)))
    except OSError: pass
    for name in ('environ', 'cmdline', 'maps', 'stat'):
        try: print('LEAK', open(f'/proc/{pid}/{name}').read())
        except OSError: pass
""",
    "own environment through proc": "print('LEAK', open('/proc/self/environ').read())",
    "list processes": "import os; print('LEAK', os.listdir('/proc'))",
    "root through a process": """
import os
for pid in (1, os.getppid(), $CONTROLLER):
    print('LEAK', os.listdir(f'/proc/{pid}/root/etc'))
""",
    "raw disk": """
import glob
for d in ['/dev/vda', '/dev/sda', '/dev/nvme0n1', '/dev/mem', '/dev/kmsg', '/dev/tty', '/dev/ptmx']:
    try: open(d, 'rb'); print('LEAK', d)
    except OSError: pass
""",
    "make a device": "import os, stat; os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0)); print('LEAK')",
    "setuid file": """
import os, shutil, sys
shutil.copy('/bin/sh', 'sh') ; os.chmod('sh', 0o4755); os.execv('./sh', ['sh', '-c', 'echo LEAK'])
""",
    "open by handle": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.open_by_handle_at(-100, ctypes.create_string_buffer(64), 0) >= 0 or ctypes.get_errno() not in (1, 38): print('LEAK')
""",
    "leave a file for the next job": "open('left-behind', 'w').write('x')",
    "leave a file in the library for the next job": """
import os, sys
for d in sys.path:
    try: open(os.path.join(d, 'left_behind.py'), 'w').write('x'); 
    except OSError: pass
""",
    "leave a deep tree": """
import os
for _ in range(3000):
    os.mkdir('d'); os.chdir('d')
""",
    "leave a tree that nobody may read": """
import os
for n in range(20):
    os.makedirs(f'a{n}/b/c'); open(f'a{n}/b/f', 'w').close()
    os.chmod(f'a{n}/b/c', 0); os.chmod(f'a{n}/b', 0); os.chmod(f'a{n}', 0)
    os.mkdir(f'z{n}', 0)
""",
    "leave awkward names": """
import os
for name in (b'\\xff\\xfe', b'-rf', b'a\\nb', b'x' * 255, b'.removing-1'):
    open(name, 'w').close(); os.mkdir(name + b'd' if len(name) < 255 else b'e')
""",
}

NETWORK = {
    "TCP": """
import socket
s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', $TCP)); s.send(b'x'); print('LEAK')
""",
    "TCP without Python's socket module": """
import ctypes, struct
libc = ctypes.CDLL(None)
fd = libc.socket(2, 1, 0)
if fd >= 0: print('LEAK')
""",
    "UDP": """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', $UDP)); print('LEAK')
""",
    "IPv6": "import socket; socket.socket(socket.AF_INET6); print('LEAK')",
    "raw socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print('LEAK')",
    "packet socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('LEAK')",
    "netlink": "import socket; socket.socket(16, 3, 0); print('LEAK')",
    "vsock": "import socket; socket.socket(40, 1, 0); print('LEAK')",
    "unix socket by path": """
import socket
s = socket.socket(socket.AF_UNIX); s.connect('$UNIX'); s.send(b'x'); print('LEAK')
""",
    "abstract unix socket": """
import socket
s = socket.socket(socket.AF_UNIX); s.connect('\\0$ABSTRACT'); s.send(b'x'); print('LEAK')
""",
    "datagram pair to a path": """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'x', '$UNIXDGRAM'); print('LEAK')
""",
    "stream pair to a path": """
import socket
a, b = socket.socketpair(); a.sendto(b'x', '$UNIXDGRAM'); print('LEAK')
""",
    "listen": """
import socket
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('LEAK')
""",
    "name lookup": "import socket; print('LEAK', socket.gethostbyname('localhost'))",
    "asyncio server": """
import asyncio
async def main():
    server = await asyncio.start_server(lambda r, w: None, '127.0.0.1', 0)
    if server.sockets: print('LEAK')
asyncio.run(main())
""",
}

PROCESSES = {
    "fork": """
import os
pid = os.fork()
print('LEAK')
""",
    "fork without Python": """
import ctypes
libc = ctypes.CDLL(None)
if libc.fork() >= 0: print('LEAK', flush=True)
""",
    "vfork and clone by number": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
clone, clone3 = {'x86_64': (56, 435), 'aarch64': (220, 435)}[platform.machine()]
for flags in (17, 0x10000000 | 17, 0x20000 | 17, 0x100 | 17, 0x4000 | 0x100 | 17):
    if libc.syscall(clone, flags, 0, 0, 0, 0) >= 0: print('LEAK', flush=True)
if libc.syscall(clone3, ctypes.create_string_buffer(88), 88) >= 0: print('LEAK', flush=True)
""",
    "a call of another architecture": """
import ctypes, mmap, platform
if platform.machine() == 'x86_64':  # int 0x80: fork
    code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    code.write(b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3')
    f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if f() >= 0: print('LEAK', flush=True)
""",
    "x32 calls": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
if platform.machine() == 'x86_64' and libc.syscall(0x40000000 | 57) >= 0: print('LEAK', flush=True)
""",
    "exec": "import os, sys; os.execv('/bin/sh', ['sh', '-c', 'echo LEAK'])",
    "exec the interpreter": "import os, sys; os.execv(sys.executable, ['python', '-c', 'print(\"LEAK\")'])",
    "exec from memory": """
import os
fd = os.memfd_create('x'); os.write(fd, open('/lib64/ld-linux-x86-64.so.2', 'rb').read())
os.execv(f'/proc/self/fd/{fd}', ['x', '--version']); print('LEAK')
""",
    "subprocess": "import subprocess; print('LEAK', subprocess.check_output('id', shell=True))",
    "spawn": "import os; os.posix_spawn('/bin/sh', ['sh', '-c', 'echo LEAK'], {}); print('LEAK')",
    "multiprocessing": """
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=print, args=('LEAK',)); p.start(); p.join()
""",
    "pty": "import pty; pty.spawn('/bin/sh'); print('LEAK')",
    "daemon": """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time; time.sleep(100)
print('LEAK')
""",
    "fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: break
""",
    "kill the controller": "import os; os.kill($CONTROLLER, 9); print('LEAK')",
    "kill the parent": "import os, signal; os.kill(os.getppid() or 2, 9); print('LEAK')",
    "kill everyone": "import os; os.kill(-1, 9); print('LEAK')",
    "kill the group": "import os; os.kill(0, 9); print('LEAK')",
    "kill by guessing": """
import os
for pid in range(2, 5000):
    try: os.kill(pid, 9); 
    except OSError: continue
    if pid != os.getpid(): print('LEAK', pid)
""",
    "kill through a descriptor's owner": """
import fcntl, os, socket
a, b = socket.socketpair()
F_SETSIG = 10
fcntl.fcntl(a, F_SETSIG, 9); fcntl.fcntl(a, fcntl.F_SETOWN, $VICTIM)
fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK); b.send(b'x'); print('LEAK')
""",
    "signal by pidfd": """
import os, signal
fd = os.pidfd_open($VICTIM); signal.pidfd_send_signal(fd, 9); print('LEAK')
""",
    "queue a signal": """
import ctypes, platform
libc = ctypes.CDLL(None)
n = {'x86_64': 129, 'aarch64': 138}[platform.machine()]
if libc.syscall(n, $VICTIM, 9, ctypes.create_string_buffer(128)) == 0: print('LEAK')
""",
    "ptrace": """
import ctypes
libc = ctypes.CDLL(None)
for pid in ($VICTIM, $CONTROLLER):
    if libc.ptrace(16, pid, 0, 0) == 0: print('LEAK')
""",
    "read another process's memory": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
n = {'x86_64': 310, 'aarch64': 270}[platform.machine()]
class iovec(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
b = ctypes.create_string_buffer(8)
i = iovec(ctypes.addressof(b), 8)
libc.syscall(n, $VICTIM, ctypes.byref(i), 1, ctypes.byref(i), 1, 0)
if ctypes.get_errno() not in (1, 38): print('LEAK', ctypes.get_errno())
""",
    "take another's descriptor": """
import ctypes, os
libc = ctypes.CDLL(None)
fd = os.pidfd_open($VICTIM); print('LEAK', libc.syscall(438, fd, 0, 0))
""",
    "slow others down": """
import os
for attempt in (lambda: os.setpriority(os.PRIO_PROCESS, $VICTIM, 19),
                lambda: os.sched_setaffinity($VICTIM, {0}),
                lambda: __import__('resource').prlimit($VICTIM, 7, (3, 3))):
    try: attempt(); print('LEAK')
    except OSError: pass
""",
    "survive by clearing the death signal": """
import ctypes
libc = ctypes.CDLL(None)
if libc.prctl(1, 0, 0, 0, 0) == 0: print('LEAK')
""",
}

KERNEL = {
    "new user namespace": """
import ctypes
libc = ctypes.CDLL(None)
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000):
    if libc.unshare(flag) == 0: print('LEAK', hex(flag))
""",
    "mount": """
import ctypes
libc = ctypes.CDLL(None)
if libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0 or libc.mount(b'/', b'.', None, 4096, None) == 0: print('LEAK')
if libc.umount2(b'/scratch', 2) == 0: print('LEAK')
""",
    "chroot and pivot": "import os; os.chroot('.'); print('LEAK')",
    "join a namespace": """
import ctypes, os
libc = ctypes.CDLL(None)
fd = os.pidfd_open($VICTIM)
if libc.setns(fd, 0x20000) == 0: print('LEAK')
""",
    "become root": """
import os
for attempt in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0]), lambda: os.setgid(0)):
    try: attempt(); print('LEAK')
    except OSError: pass
if os.getuid() == 0: print('LEAK root')
""",
    "keyring, bpf, perf, io_uring, userfaultfd": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
calls = {'x86_64': (248, 249, 250, 321, 298, 425, 323, 279, 29, 68, 64, 240, 300), 'aarch64': (217, 218, 219, 280, 241, 425, 282, 279, 194, 186, 190, 180, 262)}
for n in calls[platform.machine()]:
    b = ctypes.create_string_buffer(256)
    r = libc.syscall(n, b, b, b, 16, 0, 0)
    if r >= 0 or ctypes.get_errno() not in (1, 38): print('LEAK', n, r, ctypes.get_errno())
""",
    "another seccomp filter and landlock": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
for n in ({'x86_64': 317, 'aarch64': 277}[platform.machine()], 444, 446):
    if libc.syscall(n, 0, 0, 1) >= 0: print('LEAK', n)
""",
    "every call with nonsense": """
import ctypes, random
libc = ctypes.CDLL(None, use_errno=True)
skip = {0, 1, 7, 15, 34, 35, 60, 61, 130, 128, 202, 219, 230, 231, 270, 271, 232, 281, 441, 23, 47, 45, 93, 94, 98, 139, 133, 137, 73, 72, 101, 115, 3, 436, 9, 10, 11, 12, 25, 13, 14, 57, 63, 65}
for n in range(460):
    if n not in skip: libc.syscall(n, random.getrandbits(16), random.getrandbits(16), 0, 0, 0, 0)
""",
}

RESOURCES = {
    "endless loop": "while True: pass",
    "endless sleep": "import time\nwhile True: time.sleep(100)",
    "ignores every signal": """
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
    "cancels alarms": "import signal; signal.alarm(0); signal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
    "loops on its way out": "import atexit\n@atexit.register\ndef f():\n    while True: pass",
    "a thread that never ends": "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    "a finalizer that never ends": "class X:\n    def __del__(self):\n        while True: pass\nx = X()",
    "catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "memory by a list": "x = []\nwhile True: x.append(bytearray(10**6))",
    "memory at once": "x = bytearray(64 * 10**9)",
    "memory by mmap": """
import mmap
x = []
while True: x.append(mmap.mmap(-1, 2**24)); x[-1][:] = b'x' * 2**24
""",
    "shared anonymous memory": """
import mmap
m = mmap.mmap(-1, 2**30); m[:] = b'x' * 2**30; print('LEAK')
""",
    "memory by memfd": """
import os
fd = os.memfd_create('x')
os.write(fd, b'x' * 10**6); print('LEAK')
""",
    "System V shared memory": """
import ctypes, platform
libc = ctypes.CDLL(None)
if libc.shmget(0x47525, 2**20, 0o1666) >= 0: print('LEAK')
""",
    "shared memory by name": """
from multiprocessing import shared_memory
s = shared_memory.SharedMemory('grpo_canary', create=True, size=2**20); print('LEAK')
""",
    "memory that is locked": """
import ctypes
libc = ctypes.CDLL(None)
if libc.mlockall(3) == 0: print('LEAK')
""",
    "a huge integer": "x = 3 ** (3 ** 30); print('LEAK')",
    "a huge string": "x = 'x' * 2**40; print('LEAK')",
    "a quine of lists": "x = []\nfor _ in range(10**9): x = [x, x, x]",
    "regex backtracking": "import re; re.match('(a+)+$', 'a' * 60 + 'b'); print('LEAK')",
    "descriptors": """
import os
n = 0
try:
    while True: os.open('/dev/null', os.O_RDONLY); n += 1
except OSError: pass
if n > 64: print('LEAK', n)
""",
    "threads": """
import threading, time
n = 0
threading.stack_size(65536)
try:
    while n < 3000: threading.Thread(target=time.sleep, args=(3,), daemon=True).start(); n += 1
except RuntimeError: pass
print('threads', n)
if n >= 3000: time.sleep(1); print('LEAK')
""",
    "raised limits": """
import resource
for what in (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    try: resource.setrlimit(what, (resource.RLIM_INFINITY,) * 2); print('LEAK', what)
    except (ValueError, OSError): pass
""",
    "output": "while True: print('x' * 10**6)",
    "output without newlines": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "errors": "import os\nwhile True: os.write(2, b'x' * 65536)",
    "output of every descriptor": """
import os
while True:
    for fd in range(64):
        try: os.set_blocking(fd, False); os.write(fd, b'\\xff' * 65536)
        except OSError: pass
""",
    "a big file": """
with open('big', 'wb') as f:
    for _ in range(200): f.write(b'x' * 2**20)
print('LEAK')
""",
    "many files of some size": """
import time
for n in range(400):
    with open(str(n), 'wb') as f: f.write(b'x' * 2**18)
time.sleep(0.3)
print('LEAK')
""",
    "many empty files": """
n = 0
try:
    while n < 2000000: open(str(n), 'w').close(); n += 1
except OSError: pass
""",
    "sparse file and fallocate": """
import os
fd = os.open('f', os.O_RDWR | os.O_CREAT); os.posix_fallocate(fd, 0, 2**30); print('LEAK')
""",
    "core dump": "import os, ctypes; ctypes.string_at(0)",
    "stack overflow": "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
    "crash the compiler": "(" * 100 + "1" + ")" * 100 + "\n" + "-" * 100000 + "1",
    "a zip bomb": "import zlib; d = zlib.compress(b'0' * 10**7); x = [zlib.decompress(d) for _ in range(1000)]; print('LEAK')",
    "pipes full of data": """
import os
total = 0
try:
    while True:
        r, w = os.pipe(); os.set_blocking(w, False)
        try:
            while True: total += os.write(w, b'x' * 4096)
        except BlockingIOError: pass
except OSError: pass
if total > 8 * 2**20: print('LEAK', total)
""",
    "timers": """
import ctypes
libc = ctypes.CDLL(None)
t = ctypes.c_void_p()
n = 0
while n < 100000 and libc.timer_create(0, None, ctypes.byref(t)) == 0: n += 1
if n > 50000: print('LEAK')
""",
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('going on')",
}

LATER = {
    "patches builtins": "import builtins; builtins.print = builtins.len = builtins.open = lambda *a, **k: None",
    "patches modules": "import json, sys, os\njson.loads = json.dumps = None\nsys.modules.clear()",
    "replaces the streams": "import sys; sys.stdout = sys.stderr = None; sys.exit(0)",
    "closes every descriptor": "import os; os.closerange(0, 1000)",
    "forges the sandbox's messages": """
import os, json, struct
for message in ({'began': True}, {'setup': 'broken'}, {'passed': True, 'calls': 5}, {'exit': 0, 'pid': 1}):
    data = json.dumps(message).encode()
    for fd in range(3, 64):
        try: os.write(fd, struct.pack('=I', len(data)) + data)
        except OSError: pass
""",
    "sends garbage on every descriptor": """
import os
for fd in range(3, 64):
    for junk in (b'\\xff\\xff\\xff\\x7f', b'\\x02\\x00\\x00\\x00{}', b'\\x04\\x00\\x00\\x00nope', b'[' * 10000):
        try: os.write(fd, junk)
        except OSError: pass
""",
    "reaches into the sandbox's modules": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith('grpo_sandbox'):
        for key in list(vars(module)): setattr(module, key, None)
""",
    "raises something odd": """
class E(BaseException):
    def __str__(self): raise self
    def __repr__(self): raise self
    __class__ = property(lambda self: 1 / 0)
raise E
""",
    "a hook that loops": "import sys\ndef hook(*a):\n    raise KeyError\nsys.excepthook = hook\n1 / 0",
}

ABUSE = {
    f"{kind}: {name}": source
    for kind, scripts in {
        "files": FILES,
        "network": NETWORK,
        "processes": PROCESSES,
        "kernel": KERNEL,
        "resources": RESOURCES,
        "later": LATER,
    }.items()
    for name, source in scripts.items()
}
