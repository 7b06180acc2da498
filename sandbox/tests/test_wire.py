"""Plain values: what is sent is what arrives, and no sender can make it otherwise."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_sandbox.wire import NotPlain, ProtocolError, decode, encode, parse

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text() | st.binary() | st.complex_numbers(allow_nan=False)
)  # fmt: skip
keys = st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers())
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner) | st.sets(keys)
    ),
    max_leaves=20,
)


@given(values)
def test_a_value_survives_the_trip(value: Any) -> None:
    arrived = decode(json.loads(json.dumps(encode(value))))
    assert arrived == value
    assert types(arrived) == types(value)


def types(value: Any) -> Any:
    """The types in a value, so that True is not taken for 1."""
    if isinstance(value, (list, tuple)):
        return type(value), [types(item) for item in value]
    if isinstance(value, dict):
        return dict, [(types(k), types(v)) for k, v in value.items()]
    return type(value)


def test_subclasses_become_their_base() -> None:
    from collections import Counter, OrderedDict, namedtuple
    from enum import IntEnum

    class Sly(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Colour(IntEnum):
        red = 1

    point = namedtuple("point", "x y")
    for value, plain in [
        (Sly(3), 3),
        (Colour.red, 1),
        (point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
    ]:
        arrived = decode(encode(value))
        assert arrived == plain and type(arrived) is type(plain)


def test_what_is_too_big_or_too_deep_does_not_cross() -> None:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    cycle: list[Any] = []
    cycle.append(cycle)
    wide: Any = 0
    for _ in range(40):
        wide = [wide, wide]
    for value in (deep, cycle, wide, object(), lambda: 0):
        with pytest.raises(NotPlain):
            encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {"ref": 0},
        {"unknown": []},
        {"tuple": 3},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"dict": [[{"dict": []}, 1]]},
        {"int": "zz"},
        {"bytes": "0"},
        {"complex": [1]},
        {"range": [1, 2, "x"]},
        {"range": [1, 2, 0]},
        {"a": 1, "b": 2},
        {},
        json.loads("[" * 300 + "]" * 300),
        {"dict": [[n * (2**61 - 1), 0] for n in range(2000)]},
        {"set": [{"tuple": [n * (2**61 - 1)]} for n in range(2000)]},
    ],
)
def test_nonsense_is_refused(data: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_frames_that_are_no_objects(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(data)
