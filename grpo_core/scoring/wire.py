"""Between a pool and its worker: framed messages, and a shared heartbeat.

The socket carries work and verdicts. The heartbeat is a few numbers in shared
memory in which the worker notes, before each sample, which one it starts and
when: so the pool can enforce a deadline a sample while sending many at a time,
and sees it even when the worker can no longer run a line of Python.
"""

from __future__ import annotations

import mmap
import pickle
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from grpo_core.rewards import Outcome, Sample, Score

_LENGTH = struct.Struct("<Q")

WHOLE = -1
"""Heartbeat index: the whole chunk is being judged by one call."""
RESTING = -2
"""Heartbeat index: no reward is running; the worker reads or writes messages."""
LONGEST_PAUSE_S = 60.0


def frame(message: object) -> bytes:
    """A message as bytes to send. Raises whatever pickling it raises."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def unframe(buffer: bytearray) -> Iterator[Any]:
    """Take the complete messages off the front of `buffer`."""
    at = 0
    try:
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                return
            body = bytes(memoryview(buffer)[at + _LENGTH.size : end])
            at = end
            yield pickle.loads(body)
    finally:
        del buffer[:at]


def receive(connection: socket.socket) -> Any:
    """Wait for the next message. Raises EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = connection.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    return data


class Heartbeat:
    """Five floats in shared memory: which chunk, which sample in it, since when
    (`time.monotonic()`, which all processes of a machine share), up to which
    sample the worker may go on, and since when the clock stands still, if it does."""

    SIZE = 40

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.SIZE)
        self._cells = memoryview(self._memory).cast("d")

    def start(self, index: int, now: float) -> None:
        """Written in this order, a reader that comes between sees a younger start, never an older."""
        cells = self._cells
        cells[2] = now
        cells[1] = index

    def begin(self, serial: int, index: int, now: float) -> None:
        """A new chunk: what the last one noted no longer counts."""
        self.start(index, now)
        self._cells[0] = serial

    def pause(self, now: float) -> None:
        """The time from now on does not count."""
        self._cells[4] = now

    def go_on(self, paused_s: float) -> None:
        """It counts again; in this order a reader never sees too early a start."""
        self._cells[2] += paused_s
        self._cells[4] = 0.0

    def read(self) -> tuple[int, int, float]:
        """Chunk, sample, since when (what does not count taken off)."""
        serial, index, since, _, paused = self._cells
        if paused:
            since += min(time.monotonic() - paused, LONGEST_PAUSE_S)
        return int(serial), int(index), since

    @property
    def limit(self) -> float:
        return self._cells[3]

    @limit.setter
    def limit(self, value: float) -> None:
        self._cells[3] = value

    def close(self) -> None:
        self._cells.release()
        self._memory.close()


def pack_sample(sample: Sample) -> tuple[Any, ...]:
    """A sample without what it has worked out for itself."""
    return (
        sample.prompt,
        sample.completion,
        sample.columns if type(sample.columns) is dict else dict(sample.columns),
        sample.group,
        sample.index,
        sample.truncated,
        sample.id,
        sample.completion_ids,
        sample.trajectory,
        sample.tags,
        sample.prefilled,
    )


def pack_score(score: Score) -> Any:
    """A float where that says it all, else a tuple."""
    if score.value is not None and not score.reason and not score.details and score.steps is None:
        return score.value
    return (score.value, score.outcome.value, score.reason, dict(score.details), score.steps)


def unpack_score(packed: Any) -> Score:
    if type(packed) is float:
        return Score(packed)
    value, outcome, reason, details, steps = packed
    return Score(value, Outcome(outcome), reason, details, steps)
