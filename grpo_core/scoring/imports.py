"""Time spent importing does not count against a sample's deadline.

Rewards import what is heavy on first use, so the first sample in each new worker
would pay for it, and on a busy machine be charged a timeout it did not cause.
"""

from __future__ import annotations

import builtins
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import ModuleType

from grpo_core.scoring.wire import LONGEST_PAUSE_S, Heartbeat


class ImportClock:
    """Stands in for `__import__` in a worker, and stops the sample's clock meanwhile:
    for `LONGEST_PAUSE_S` in the life of a worker, after which imports count too."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._import = builtins.__import__
        self._thread = threading.get_ident()
        self._inside = False
        self._credit_s = LONGEST_PAUSE_S

    def install(self) -> None:
        builtins.__import__ = self

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if (
            self._inside
            or _loaded(name, fromlist, level)
            or self._credit_s <= 0
            or threading.get_ident() != self._thread
        ):
            return self._import(name, globals, locals, fromlist or (), level)
        started = time.monotonic()
        self._inside = True
        self._heartbeat.pause(started)
        try:
            return self._import(name, globals, locals, fromlist or (), level)
        finally:
            took = time.monotonic() - started
            self._heartbeat.go_on(took)
            self._inside = False
            self._credit_s -= took


def _loaded(name: str, fromlist: Sequence[str] | None, level: int) -> bool:
    if level or name not in sys.modules:
        return False
    return not fromlist or all(hasattr(sys.modules[name], part) for part in fromlist)
