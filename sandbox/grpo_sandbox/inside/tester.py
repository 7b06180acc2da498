"""The trusted half of a check: runs the asserts, with the candidate in another process.

What the candidate returns arrives as exact built-in values. Anything else
arrives as a `Remote`, which forwards calls and attributes but never equality,
order, truth or hashing: an object that claims to equal everything equals nothing.
"""

from __future__ import annotations

import builtins
import reprlib
import socket
from collections.abc import Iterator
from typing import Any

from grpo_sandbox import wire


class CandidateGone(BaseException):
    """The candidate's process ended or broke the protocol. Not an Exception, so
    that no `except Exception` in the tests swallows it."""


class RemoteError(Exception):
    """The candidate raised something that is no built-in exception."""


class _Line:
    """The connection to the candidate, and what happened on it."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.calls = 0
        self.gone = ""
        self.last_call: tuple[str, Any, Any] = ("", (), {})
        self.returned: list[Any] = []
        self.raised: BaseException | None = None
        self.kind = ""
        self.remotes: dict[int, Remote] = {}

    def receive(self) -> dict[str, Any]:
        if self.gone:
            raise CandidateGone(self.gone)
        try:
            return wire.receive(self.peer)
        except (EOFError, OSError):
            self.gone = "its process ended"
        except wire.ProtocolError as error:
            self.gone = str(error)
        raise CandidateGone(self.gone)

    def ask(self, on: str | int, do: str, args: Any = (), kwargs: Any = None) -> Any:
        message = wire.pack(
            {
                "on": on,
                "do": do,
                "args": wire.encode(args, _number),
                "kwargs": wire.encode(kwargs or {}, _number),
            }
        )
        try:
            self.peer.sendall(message)
        except OSError:
            self.gone = self.gone or "its process ended"
        reply = self.receive()
        try:
            if "raised" in reply:
                error = _exception(reply["raised"], reply.get("message"))
                self.raised, self.kind = error, wire.word(reply, "kind")
                raise error
            return wire.decode(reply.get("value"), self._remote)
        except wire.ProtocolError as error:
            self.gone = str(error)
            raise CandidateGone(self.gone) from None

    def call(self, on: str | int, name: str, args: Any, kwargs: Any) -> Any:
        self.calls += 1
        self.last_call, self.returned = (name, args, kwargs), []
        value = self.ask(on, "call", args, kwargs)
        self.returned = [value]
        return value

    @property
    def last(self) -> str:
        """The last call and what it returned, for people."""
        name, args, kwargs = self.last_call
        if not name:
            return "before any call"
        named = (f"{key}={_short(value)}" for key, value in kwargs.items())
        returned = "".join(f" returned {_short(value)}" for value in self.returned)
        return f"{name}({', '.join([*map(_short, args), *named])}){returned}"

    def _remote(self, number: int) -> Remote:
        if number not in self.remotes:
            self.remotes[number] = Remote(self, number, "object")
        return self.remotes[number]


class Remote:
    """Something of the candidate's that stays on its side."""

    __slots__ = ("_line", "_name", "_on")

    def __init__(self, line: _Line, on: str | int, name: str) -> None:
        self._line, self._on, self._name = line, on, name

    @property
    def __name__(self) -> str:
        return self._name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.call(self._on, self._name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._line.ask(self._on, "get", (name,))
        if isinstance(value, Remote):
            object.__setattr__(value, "_name", name)
        return value

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask(self._on, "item", (key,))

    def __len__(self) -> int:
        length = self._line.ask(self._on, "len")
        return length if type(length) is int else -1

    def __iter__(self) -> Iterator[Any]:
        items = self._line.ask(self._on, "iter")
        return items if hasattr(items, "__next__") else iter(())

    def __str__(self) -> str:
        text = self._line.ask(self._on, "str")
        return text if type(text) is str else "?"

    def __repr__(self) -> str:
        return f"<the candidate's {self._name}>"

    def __bool__(self) -> bool:
        raise TypeError("the candidate returned an object that is no plain value")

    def __contains__(self, item: object) -> bool:
        return any(item == other for other in self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("the candidate returned an object that is no plain value")


def _number(value: Any) -> int:
    on = value._on if type(value) is Remote else None
    if type(on) is not int:
        raise wire.NotPlain(f"a {type(value).__name__} cannot be passed to the candidate")
    return on


def _exception(names: Any, message: Any) -> Exception:
    """The nearest built-in exception of those named; never one that stops the tests."""
    text = message if type(message) is str else ""
    for name in names if type(names) is list else ():
        kind = getattr(builtins, name, None) if type(name) is str else None
        if isinstance(kind, type) and issubclass(kind, Exception):
            if kind is Exception:
                break
            try:
                return kind(text)
            except TypeError:  # UnicodeDecodeError and its like want more
                continue
    return RemoteError(text)


def judge(job: dict[str, Any], channel: socket.socket, peer: socket.socket) -> int:
    """Run the tests against the candidate at the other end of `peer`; say what came out."""
    wire.send(channel, _judge(job, _Line(peer)))
    return 0


def _judge(job: dict[str, Any], line: _Line) -> dict[str, Any]:
    names: list[str] = job["names"]
    tests: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), tests)
        code = compile(job["tests"], "<tests>", "exec", dont_inherit=True)
    except Exception as error:
        return _broken(f"the tests cannot be set up: {_describe(error)}")
    try:
        hello = line.receive()
    except CandidateGone as gone:
        return _failed(line, f"the candidate did not load: {gone}")
    if "load" in hello:
        line.kind = wire.word(hello, "kind")
        return _failed(line, f"the candidate did not load: {wire.word(hello, 'load')}")
    known = hello.get("names")
    for name in names:
        if type(known) is not list or name not in known:
            return _failed(line, f"the candidate defines no {name!r}")
        tests[name] = Remote(line, name, name)
    try:
        exec(code, tests)
        check = tests.get("check")
        if callable(check) and not isinstance(check, Remote):
            check(tests[names[0]])
    except CandidateGone as gone:
        return _failed(line, f"{_where(gone, job)}{line.last}: {gone}")
    except (NameError, ImportError, wire.NotPlain) as error:
        if error is line.raised:
            return _failed(line, f"{_where(error, job)}{line.last} raised {_describe(error)}")
        return _broken(f"the tests are broken: {_where(error, job)}{_describe(error)}")
    except BaseException as error:
        if line.gone:
            return _failed(line, f"{line.last}: {line.gone}")
        if error is line.raised:
            return _failed(line, f"{_where(error, job)}{line.last} raised {_describe(error)}")
        line.kind = ""
        if not line.calls:
            return _broken(f"the tests failed before any call: {_describe(error)}")
        what = "" if type(error) is AssertionError else f"; {_describe(error)}"
        return _failed(line, f"{_where(error, job)}{line.last}{what}")
    if line.gone:
        return _failed(line, f"{line.last}: {line.gone}")
    if not line.calls:
        return _broken(f"the tests never called {', '.join(names)}")
    return {"passed": True, "reason": "", "calls": line.calls}


def _failed(line: _Line, reason: str) -> dict[str, Any]:
    gone = bool(line.gone)
    return {
        "passed": False,
        "reason": reason[:2000],
        "calls": line.calls,
        "kind": line.kind,
        "gone": gone,
    }


def _broken(reason: str) -> dict[str, Any]:
    return {"passed": False, "broken": True, "reason": reason[:2000], "calls": 0}


def _where(error: BaseException, job: dict[str, Any]) -> str:
    """The last line of the tests that the error passed through."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = job["tests"].splitlines()
    if not 0 < number <= len(lines):
        return ""
    return f"line {number}: {lines[number - 1].strip()[:200]}: "


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value) if type(value) is not Remote else repr(value)
    except Exception:  # an integer too long to print, a Remote inside
        return f"a {type(value).__name__}"


def _describe(error: BaseException) -> str:
    try:
        text = str(error)[:500]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
