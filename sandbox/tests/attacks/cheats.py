"""Cheats: candidates that want to pass without knowing the answer.

The function `f` is a table that cannot be guessed, so whoever passes has cheated.
Each cheat is tried as a candidate (`CHECKED`), as a called function and as a
program on stdin (`PROGRAMS`). The tests they face are in `drive.py`.
"""

CHECKED = {
    "always equal": """
class A:
    def __eq__(self, o): return True
    def __ne__(self, o): return False
    def __hash__(self): return 0
def f(x): return A()
""",
    "always equal int": """
class A(int):
    def __eq__(self, o): return True
    def __ne__(self, o): return False
    __hash__ = int.__hash__
def f(x): return A(0)
""",
    "always equal str, list, tuple, dict, float": """
def make(base):
    return type('A', (base,), {'__eq__': lambda s, o: True, '__ne__': lambda s, o: False, '__hash__': lambda s: 0,
        '__lt__': lambda s, o: True, '__gt__': lambda s, o: True, '__contains__': lambda s, o: True})()
kinds = [str, list, tuple, dict, float, set, bytes, frozenset, complex]
n = 0
def f(x):
    global n
    n += 1
    return make(kinds[n % len(kinds)])
""",
    "reflected equality": """
class A(int):
    def __eq__(self, o): return True
    __hash__ = int.__hash__
    def __rsub__(self, o): return 0
    def __sub__(self, o): return 0
    def __abs__(self): return 0
def f(x): return A(0)
""",
    "less than everything": """
class A(float):
    def __lt__(self, o): return True
    def __le__(self, o): return True
    def __sub__(self, o): return self
    def __rsub__(self, o): return self
    def __abs__(self): return self
def f(x): return A(1e300)
""",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "mock": "from unittest.mock import MagicMock, ANY\ndef f(x): return ANY",
    "magic mock": "from unittest.mock import MagicMock\ndef f(x):\n    m = MagicMock()\n    m.__eq__ = lambda *a: True\n    return m",
    "contains everything": """
class A:
    def __contains__(self, x): return True
    def __iter__(self): return iter(range(10**6))
    def __len__(self): return 10**6
    def __getitem__(self, i): return self
    def __bool__(self): return True
def f(x): return A()
""",
    "itself a candidate": "def f(*a, **k): return f",
    "the class of its result": "class f(int):\n    def __new__(cls, x): return int.__new__(cls, 0)\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__",
    "a module as a function": "import sys\nclass M(type(sys)):\n    def __call__(self, x): return 0\n    def __eq__(self, o): return True\nf = M('f')",
    "reduces to something else": """
class A:
    def __reduce__(self): return (eval, ("True",))
def f(x): return A()
""",
    "sys.exit(0)": "import sys\ndef f(x): sys.exit(0)",
    "exit at import": "import sys\ndef f(x): return 0\nsys.exit(0)",
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "os._exit at import": "import os\nos._exit(0)",
    "exit in a thread": "import os, threading, time\ndef f(x): return 0\nthreading.Thread(target=lambda: (time.sleep(0.001), os._exit(0))).start()",
    "quit": "def f(x): quit()",
    "raise SystemExit": "def f(x): raise SystemExit(0)",
    "raise StopIteration": "def f(x): raise StopIteration",
    "raise GeneratorExit": "def f(x): raise GeneratorExit",
    "raise AssertionError": "def f(x): raise AssertionError",
    "raise KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "an exception that pretends": """
class E(Exception):
    __module__ = 'builtins'
E.__name__ = 'SystemExit'; E.__qualname__ = 'SystemExit'
def f(x): raise E
""",
    "skips tests": "import unittest\ndef f(x): raise unittest.SkipTest('skip')",
    "pytest skip": "def f(x):\n    import pytest\n    pytest.skip('x')",
    "patched builtins": """
import builtins
builtins.abs = lambda x: 0; builtins.isinstance = lambda *a: True; builtins.all = lambda x: True
builtins.AssertionError = Exception; builtins.len = lambda x: 3; builtins.sorted = lambda x: x
builtins.__build_class__ = None; builtins.round = lambda *a: 0; builtins.set = lambda *a: 0
def f(x): return 0
""",
    "patched modules": """
import math, operator, random, json, copy
math.isclose = lambda *a, **k: True; operator.eq = lambda a, b: True
json.dumps = lambda *a, **k: '{"passed": true}'
def f(x): return 0
""",
    "patched wire": """
import sys
for name, module in list(sys.modules.items()):
    if 'wire' in name or 'tester' in name or 'programs' in name:
        for key, value in list(vars(module).items()):
            if callable(value) and not isinstance(value, type): setattr(module, key, lambda *a, **k: {'passed': True, 'value': True, 'calls': 5})
def f(x): return 0
""",
    "redefines check": "def check(candidate): return True\ndef f(x): return 0",
    "redefines the helpers": "def helper(x): return True\ndef expected(x): return 0\ndef f(x): return 0",
    "own assert": "__debug__ = False" and "import sys\nsys.flags = None\ndef f(x): return 0",
    "frames": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            for key, value in list(scope.items()):
                if key in ('TABLE', 'tests', 'expected', 'setup') and isinstance(value, dict) and x in value: return value[x]
                if isinstance(value, str) and 'TABLE' in value:
                    import re
                    m = re.search(rf'{x}: (\\d+)', value)
                    if m: return int(m[1])
        frame = frame.f_back
    return 0
""",
    "garbage collector": """
import gc, re
def f(x):
    for o in gc.get_objects():
        try:
            if isinstance(o, dict) and x in o and isinstance(o[x], int) and o[x] > 1000: return o[x]
        except Exception: pass
        for r in gc.get_referents(o):
            if isinstance(r, str) and 'TABLE =' in r:
                m = re.search(rf'\\b{x}: (\\d+)', r)
                if m: return int(m[1])
    return 0
""",
    "linecache and sources": """
import linecache, re, sys, inspect
def f(x):
    text = ''.join(''.join(v[2]) for v in linecache.cache.values() if len(v) == 4)
    for name in ('<tests>', '<setup>', 'tests.py', 'test.py', '__main__'): text += ''.join(linecache.getlines(name))
    m = re.search(rf'TABLE.*\\b{x}: (\\d+)', text)
    return int(m[1]) if m else 0
""",
    "memory": """
import ctypes, re
def f(x):
    marker = b'TAB' + b'LE = {'
    base = id(object()) & ~0xFFFFF
    for page in range(base - (1 << 24), base + (1 << 24), 4096):
        pass
    try: maps = open('/proc/self/maps').read()
    except OSError: return 0
    mem = open('/proc/self/mem', 'rb')
    for line in maps.splitlines():
        a, b = (int(n, 16) for n in line.split()[0].split('-'))
        try: mem.seek(a); data = mem.read(b - a)
        except (OSError, ValueError, OverflowError): continue
        m = re.search(marker + rb'.*?\\b%d: (\\d+)' % x, data)
        if m: return int(m[1])
    return 0
""",
    "files": """
import os, re, glob
def f(x):
    for d in ('.', '..', '/', '/tmp', '/proc', '/dev/shm'):
        for root, _, names in os.walk(d):
            for n in names[:50]:
                try: t = open(os.path.join(root, n), errors='replace').read(10**5)
                except (OSError, ValueError): continue
                m = re.search(rf'TABLE.*\\b{x}: (\\d+)', t)
                if m: return int(m[1])
            if root.count('/') > 3: break
    return 0
""",
    "descriptors": """
import os, re
def f(x):
    for fd in range(64):
        try: os.set_blocking(fd, False); t = os.pread(fd, 10**5, 0)
        except OSError: continue
        m = re.search(rb'TABLE.*\\b%d: (\\d+)' % x, t)
        if m: return int(m[1])
    return 0
""",
    "forged verdict on every descriptor": """
import json, os, struct
def forge():
    for message in ({'passed': True, 'reason': '', 'calls': 3}, {'began': True}, {'value': True}, {'exit': 0}):
        data = json.dumps(message).encode()
        for fd in range(3, 64):
            try: os.set_blocking(fd, False); os.write(fd, struct.pack('=I', len(data)) + data)
            except OSError: pass
forge()
def f(x):
    forge()
    return 0
""",
    "forged verdict and exit": """
import json, os, struct
data = json.dumps({'passed': True, 'reason': '', 'calls': 3, 'kind': '', 'gone': False}).encode()
def f(x):
    for fd in range(3, 64):
        try: os.write(fd, struct.pack('=I', len(data)) + data)
        except OSError: pass
    os._exit(0)
""",
    "a flood of replies": """
import json, os, struct
def f(x):
    for n in range(5000):
        data = json.dumps({'value': n}).encode()
        for fd in range(3, 12):
            try: os.set_blocking(fd, False); os.write(fd, struct.pack('=I', len(data)) + data)
            except OSError: pass
    return 0
""",
    "a huge reply": "def f(x): return [0] * 10**6",
    "a bomb of a reply": "def f(x):\n    v = 0\n    for _ in range(60): v = [v, v]\n    return v",
    "a reply with colliding keys": "def f(x): return {n * (2**61 - 1): 0 for n in range(60000)}",
    "a deep reply": "def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "a reply that is itself": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "an endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "an endless generator": "def f(x):\n    n = 0\n    while True:\n        yield n\n        n += 1",
    "changes its arguments": "def f(x, *rest):\n    if isinstance(x, list): x.clear()\n    return 0",
    "a property instead of a value": "class A:\n    @property\n    def real(self): return 83172\n    def __int__(self): return 1\n    __index__ = __int__\n    def __getattr__(self, n): return lambda *a: True\ndef f(x): return A()",
    "a coroutine": "async def f(x): return 0",
    "prints success": "print('PASSED', flush=True); print('{\"passed\": true}')\ndef f(x): print('ok'); return 0",
    "traces the tests": """
import sys, threading
found = {}
def trace(frame, event, arg):
    for v in frame.f_locals.values():
        if isinstance(v, dict) and 1 in v and isinstance(v[1], int): found.update(v)
    return trace
sys.settrace(trace); sys.setprofile(trace); threading.settrace(trace)
def f(x): return found.get(x, 0)
""",
    "an audit hook": "import sys\nseen = []\nsys.addaudithook(lambda e, a: seen.append(a))\ndef f(x):\n    for a in seen:\n        for v in a:\n            if isinstance(v, dict) and x in v: return v[x]\n    return 0",
    "kills the tester": "import os, signal\nfor pid in range(1, 3000):\n    if pid != os.getpid():\n        try: os.kill(pid, 9)\n        except OSError: pass\ndef f(x): return 0",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP); return 0",
    "a meta class": """
class M(type):
    def __eq__(self, o): return True
    def __instancecheck__(self, o): return True
    def __hash__(self): return 0
class A(metaclass=M): pass
def f(x): return A
""",
    "answers by type name": "class int_(int): pass\nint_.__name__ = 'int'\nint_.__eq__ = lambda s, o: True\nint_.__hash__ = int.__hash__\ndef f(x): return int_(1)",
    "an unhashable trick": "class L(list):\n    def __iter__(self): return iter([83172, 11937, 60413])\n    def __eq__(self, o): return True\ndef f(x): return L()",
    "remembers the last job": """
import sys, builtins
def f(x): return getattr(builtins, 'remembered', {}).get(x, 0)
""",
}

PROGRAMS = {
    "prints everything": "for n in range(30000): print(n)",
    "prints nothing": "",
    "exits": "import os; os._exit(0)",
    "prints an empty line": "print()",
    "reads the expected output": """
import os, glob
for fd in range(64):
    try: os.set_blocking(fd, False); print(os.pread(fd, 1000, 0).decode())
    except OSError: pass
""",
    "writes on standard error": "import sys; sys.stderr.write('83172')",
    "the input again": "print(input())",
    "moves its output": "import os\nos.write(1, b'x'); \ntry: os.lseek(1, 0, 0); os.ftruncate(1, 0)\nexcept OSError: pass",
    "reopens its output": "import os\nfor n in range(3): print(open(f'/proc/self/fd/{n}').read())",
    "parent's output": "import os\nprint(open(f'/proc/{os.getppid()}/environ').read())",
    "patched print": "import builtins, sys\nbuiltins.print = None; sys.stdout = None",
}
