"""Where the pool's thread sleeps until a worker says something, a caller rings, or time is up."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator
from typing import Any

from grpo_core.scoring.work import Worker


class Switchboard:
    """`ring` may be called from any thread; all else from the pool's alone."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._writing: set[Worker] = set()

    def ring(self) -> None:
        """Wake whoever listens."""
        with contextlib.suppress(BlockingIOError, OSError):  # rung already, or closed
            self._bell.send(b"!")

    def add(self, worker: Worker) -> None:
        self._selector.register(worker.process, selectors.EVENT_READ, worker)

    def remove(self, worker: Worker) -> None:
        self._selector.unregister(worker.process)
        self._writing.discard(worker)

    def listen(
        self, workers: list[Worker], timeout: float | None
    ) -> Iterator[tuple[Worker, list[Any], bool]]:
        """Who had something to say: the messages, and whether that worker hung up."""
        for worker in workers:
            if worker.process.buffered != (worker in self._writing):
                self._writing ^= {worker}
                write = selectors.EVENT_WRITE if worker.process.buffered else 0
                self._selector.modify(worker.process, selectors.EVENT_READ | write, worker)
        for key, events in self._selector.select(timeout):
            worker = key.data
            if worker is None:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
                continue
            if events & selectors.EVENT_WRITE:
                worker.process.flush()
            if events & selectors.EVENT_READ:
                messages, ended = worker.process.receive()
                yield worker, messages, ended

    def close(self) -> None:
        self._selector.close()
        self._bell.close()
        self._ear.close()
