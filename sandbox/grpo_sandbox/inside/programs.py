"""The jobs that hold untrusted code: a program, a list of calls, a candidate on call.

This code shares its process with the enemy, so nothing it reports is believed
further than a printed line would be. Left out: the trusted tests (`tester`).
"""

from __future__ import annotations

import atexit
import builtins
import errno
import linecache
import os
import socket
import sys
import threading
import traceback
from types import ModuleType, TracebackType
from typing import Any

from grpo_sandbox import wire

_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS)
_NOTE = "denied by the sandbox's policy"


def run_program(job: dict[str, Any], channel: socket.socket) -> int:
    """Run a program as `python program.py` would. Returns its exit code."""
    module = _module("__main__", "program.py")
    sys.argv[:] = ["program.py", *job.get("argv", [])]
    code = 0
    try:
        exec(_compiled(job["source"], "program.py"), module.__dict__)
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException as error:
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        _report(error)
        wire.send(channel, {"raised": type(error).__name__, "kind": _kind(error)})
    return _leave(code, module)


def answer_calls(job: dict[str, Any], channel: socket.socket) -> int:
    """Load the source, call the function for each arguments, reply to each."""
    module = _module("solution", "solution.py")
    try:
        exec(_compiled(job["source"], "solution.py"), module.__dict__)
        function = _entry(module, job["function"])
    except Exception as error:
        wire.send(channel, {"load": _describe(error), "kind": _kind(error)})
        return 1
    for arguments in job["calls"]:
        args, kwargs = wire.decode(arguments[0]), wire.decode(arguments[1])
        try:
            reply = {"value": wire.encode(function(*args, **kwargs))}
        except Exception as error:
            reply = {"raised": _describe(error), "kind": _kind(error)}
        wire.send(channel, reply)
    return 0


def serve_candidate(job: dict[str, Any], peer: socket.socket) -> int:
    """Load the candidate and do what the tests on the other side of `peer` ask."""
    module = _module("solution", "solution.py")
    objects: list[Any] = []
    numbers: dict[int, int] = {}

    def refer(value: Any) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = len(objects)
            objects.append(value)  # kept alive, so the id stays its own
        return numbers[id(value)]

    try:
        exec(_compiled(job["source"], "solution.py"), module.__dict__)
    except Exception as error:
        wire.send(peer, {"load": _describe(error), "kind": _kind(error)})
        return 1
    wire.send(peer, {"names": [name for name in job["names"] if _has(module, name)]})
    while True:
        try:
            request = wire.receive(peer)
        except EOFError:
            return 0
        try:
            target = request["on"]
            value = _entry(module, target) if isinstance(target, str) else objects[target]
            args = wire.decode(request["args"], objects.__getitem__)
            kwargs = wire.decode(request["kwargs"], objects.__getitem__)
            result = _do(request["do"], value, args, kwargs)
            reply = {"value": wire.encode(result, refer)}
        except Exception as error:
            reply = {
                "raised": [t.__name__ for t in type(error).__mro__ if t.__module__ == "builtins"],
                "message": _message(error),
                "kind": _kind(error),
            }
        wire.send(peer, reply)


def _do(what: str, value: Any, args: Any, kwargs: Any) -> Any:
    if what == "call":
        return value(*args, **kwargs)
    if what == "get":
        return getattr(value, *args)
    if what == "item":
        return value[args[0]]
    if what == "len":
        return len(value)
    if what == "iter":
        return iter(list(value))
    if what == "str":
        return str(value)
    raise ValueError(f"cannot {what}")


def _module(name: str, path: str) -> ModuleType:
    module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    module.__file__ = path
    sys.modules[name] = module
    return module


def _compiled(source: str, path: str) -> Any:
    linecache.cache[path] = (len(source), None, source.splitlines(True), path)
    return compile(source, path, "exec", dont_inherit=True)


def _entry(module: ModuleType, name: str) -> Any:
    """A function by name; a method of a class named `Solution` where there is no such."""
    if name in module.__dict__:
        return module.__dict__[name]
    solution = module.__dict__.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"the program defines no {name!r}")


def _has(module: ModuleType, name: str) -> bool:
    solution = module.__dict__.get("Solution")
    return name in module.__dict__ or (isinstance(solution, type) and hasattr(solution, name))


def _message(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:
        return ""


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_message(error)}"[:1000]


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _DENIED:
        return "denied"
    return ""


def _report(error: BaseException) -> None:
    """What the interpreter does with an error that nobody caught, plus one line."""
    trace: TracebackType | None = error.__traceback__
    trace = trace.tb_next if trace is not None else None
    try:
        sys.stdout.flush()
        if sys.excepthook is sys.__excepthook__:  # which would look for the file on disk
            traceback.print_exception(type(error), error, trace)
        else:
            sys.excepthook(type(error), error.with_traceback(trace), trace)
        if _kind(error) == "denied" and _NOTE not in str(error):
            print(f"({_NOTE})", file=sys.stderr)
    except BaseException:
        os.write(2, f"{type(error).__name__}\n".encode())


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    try:
        print(stop.code, file=sys.stderr)
    except BaseException:
        return 1
    return 1


def _leave(code: int, module: ModuleType) -> int:
    """The interpreter's own way out: threads, exit handlers, globals, streams."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        module.__dict__.clear()
    except BaseException:
        code = code or 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            code = code or 120
    return code
