"""One worker process, seen from its parent: start, talk to, kill.

Every call here returns at once, whatever state the child is in: the pool that
makes them must keep every other worker's deadline. Not safe for use by several
threads; the pool's thread alone holds these.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

from grpo_core.scoring.wire import Heartbeat, unframe

# The child takes over this process's sys.path before it imports anything, so it
# finds the same modules; it never sees this process's __main__.
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from grpo_core.scoring.worker import main; main(*map(int, sys.argv[2:]))"
)
_THREAD_COUNTS: tuple[str, ...] = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


class WorkerProcess:
    """Spawned by its constructor. `buffered` says whether bytes wait to be sent."""

    def __init__(self, memory_mb: int = 0) -> None:
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as shared, theirs:
            os.ftruncate(shared.fileno(), Heartbeat.SIZE)
            self.heartbeat = Heartbeat(shared.fileno())
            fds = (theirs.fileno(), shared.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
                + [str(number) for number in (*fds, memory_mb, os.getpid())],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),  # what a reward prints must not land in ours
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; and kill() takes its children along
            )
        ours.setblocking(False)
        self._socket = ours
        self._in = bytearray()
        self._out = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def buffered(self) -> bool:
        return bool(self._out)

    def send(self, data: bytes) -> None:
        """Send, or keep what the socket does not take for `flush`."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # it is dead; `receive` will say so

    def receive(self) -> tuple[list[Any], bool]:
        """The messages that have come, and whether the worker has hung up."""
        ended = False
        try:
            while True:
                data = self._socket.recv(2**18)
                if not data:
                    ended = True
                    break
                self._in += data
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        return list(unframe(self._in)), ended or self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL for the worker and whatever it started; `dead` says when it is done."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._socket.close()
        self.heartbeat.close()

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def how_it_died(self) -> str:
        """For a worker that hung up: by which signal or exit status."""
        self.wait(0.5)
        code = self._process.poll()
        if code is None:
            return "its worker stopped answering"
        if code >= 0:
            return f"its worker exited with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"its worker was killed by {name}{hint}"


def _environment() -> dict[str, str]:
    """Ours, with one thread a worker: the workers are the parallelism, and cores
    that numeric libraries grab here are taken from the model."""
    return {**os.environ, **dict.fromkeys(_THREAD_COUNTS, "1"), "TOKENIZERS_PARALLELISM": "false"}


def _stderr() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
