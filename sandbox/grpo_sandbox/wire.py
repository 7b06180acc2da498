"""What crosses a wall: frames, and plain values as JSON.

Never pickle or marshal: decoding makes exact built-in types and nothing else,
so what arrives has no methods of the sender's. Both sides use this module; the
receiving functions assume that the sender is an enemy.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME = 4 << 20
_MAX_DEPTH = 200
_MAX_NODES = 1_000_000
_SMALL_INT = 1 << 63


class NotPlain(ValueError):
    """The value cannot cross: it is of no plain type, too big or too deep."""


class ProtocolError(Exception):
    """The other side sent what the protocol does not allow."""


def pack(message: Any) -> bytes:
    """A JSON value as one frame: its length in four bytes, and itself."""
    data = json.dumps(message, separators=(",", ":")).encode()
    return struct.pack("=I", len(data)) + data


def parse(data: bytes) -> dict[str, Any]:
    """The object in one frame. Raises ProtocolError."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame is no JSON: {type(error).__name__}") from None
    if type(message) is not dict:
        raise ProtocolError("a frame is no JSON object")
    return message


def word(message: dict[str, Any], key: str) -> str:
    """The text under `key`; empty where an enemy put something else."""
    value = message.get(key)
    return value if type(value) is str else ""


def send(sock: socket.socket, message: Any) -> None:
    sock.sendall(pack(message))


def receive(sock: socket.socket) -> dict[str, Any]:
    """The next frame, waiting for it. Raises EOFError at the end, ProtocolError."""
    (length,) = struct.unpack("=I", _exactly(sock, 4))
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame of {length} bytes; the most is {MAX_FRAME}")
    return parse(_exactly(sock, length))


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = sock.recv(min(length, 1 << 18))
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


# --- plain values ---------------------------------------------------------------


def encode(value: Any, refer: Callable[[Any], int] | None = None) -> Any:
    """A value as JSON. None, bool, int, float, complex, str, bytes, list, tuple, dict,
    set, frozenset, range and iterators of these; a subclass becomes its base.

    Anything else becomes the number that `refer` gives it; without `refer`, and for
    what is too big or too deep, raises NotPlain.
    """
    left = _MAX_NODES

    def walk(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise NotPlain(f"more than {_MAX_NODES} values in one")
        if depth > _MAX_DEPTH:
            raise NotPlain(f"nested deeper than {_MAX_DEPTH}")
        kind: Any = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if kind is int:
            return value if -_SMALL_INT < value < _SMALL_INT else {"int": hex(value)}
        if kind is list:
            return [walk(item, depth + 1) for item in value]
        if kind in _SEQUENCES:
            return {_SEQUENCES[kind]: [walk(item, depth + 1) for item in value]}
        if kind is dict:
            pairs = [[walk(k, depth + 1), walk(v, depth + 1)] for k, v in value.items()]
            return {"dict": pairs}
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is bytearray:
            return {"bytearray": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [walk(n, depth + 1) for n in (value.start, value.stop, value.step)]}
        base = _plain_base(value)
        if base is not None:
            return walk(base, depth + 1)
        if kind in _ITERATORS:
            return {"iter": [walk(item, depth + 1) for item in value]}
        if kind in _VIEWS:
            return walk(list(value), depth)
        if refer is not None:
            return {"ref": refer(value)}
        raise NotPlain(f"a {kind.__name__} is not a plain value")

    try:
        return walk(value, 0)
    except RecursionError:
        raise NotPlain("nested too deep") from None


_SEQUENCES = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_SOME_ITERATORS: tuple[Any, ...] = (
    (_ for _ in ()),
    iter([]),
    iter(()),
    iter({}),
    iter({}.values()),
    iter({}.items()),
    iter(set()),
    iter(""),
    iter(range(0)),
    map(str, ()),
    filter(None, ()),
    zip(),
    enumerate(()),
    reversed([]),
)
_ITERATORS = frozenset(type(iterator) for iterator in _SOME_ITERATORS)
_SOME_DICT: dict[Any, Any] = {}
_VIEWS = tuple(type(view) for view in (_SOME_DICT.keys(), _SOME_DICT.values(), _SOME_DICT.items()))


def _plain_base(value: Any) -> Any:
    """An instance of a subclass as its base, bool and numpy's scalars included."""
    base: Any
    for base in (str, bytes, list, tuple, dict, set, frozenset, bytearray):
        if isinstance(value, base):
            if base is str:
                return str.__str__(value)[:]
            return dict(dict.items(value)) if base is dict else base(base.__iter__(value))
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return complex(value.real, value.imag)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return None


def decode(data: Any, resolve: Callable[[int], Any] | None = None) -> Any:
    """The value that `encode` wrote. References go through `resolve`.

    Raises ProtocolError on anything else, on keys chosen to collide, and on
    references without `resolve`.
    """
    try:
        return _decode(data, resolve)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"no plain value: {type(error).__name__}") from None


def _decode(data: Any, resolve: Callable[[int], Any] | None, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ProtocolError("nested too deep")
    kind = type(data)
    if data is None or kind in (bool, int, float, str):
        return data
    if kind is list:
        return [_decode(item, resolve, depth + 1) for item in data]
    if kind is not dict or len(data) != 1:
        raise ProtocolError("no plain value")
    ((tag, body),) = data.items()
    if tag == "ref":
        if resolve is None or type(body) is not int:
            raise ProtocolError("a reference where none may be")
        return resolve(body)
    if type(body) is str:
        if tag == "int":
            return int(body, 16)
        if tag == "bytes":
            return bytes.fromhex(body)
        if tag == "bytearray":
            return bytearray.fromhex(body)
    if type(body) is not list:
        raise ProtocolError("no plain value")
    if tag == "dict":
        pairs = [(_decode(k, resolve, depth + 1), _decode(v, resolve, depth + 1)) for k, v in body]
        _refuse_collisions([k for k, _ in pairs])
        return dict(pairs)
    items = [_decode(item, resolve, depth + 1) for item in body]
    if tag == "tuple":
        return tuple(items)
    if tag in ("set", "frozenset"):
        _refuse_collisions(items)
        return set(items) if tag == "set" else frozenset(items)
    if tag == "iter":
        return iter(items)
    if tag == "complex" and len(items) == 2:
        return complex(*items)
    if tag == "range" and len(items) == 3:
        return range(*items)
    raise ProtocolError("no plain value")


def _refuse_collisions(keys: list[Any]) -> None:
    """Numbers that all hash alike make a dict of them take forever to build."""
    if len(keys) > 256 and len({hash(key) for key in keys}) * 4 < len(keys):
        raise ProtocolError("keys that collide")
