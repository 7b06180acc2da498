"""A test bench for one reward: a process that judges, is watched, and is killed when it hangs.

Unlike a `Scorer` it controls exactly which samples stand in one call, in which
order, and in how fresh a process, and it never tries a sample twice. The
process itself is `child`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from grpo_core.rewards import Outcome, Sample, Score
from grpo_core.scoring.judge import Call
from grpo_core.scoring.recipe import Recipe
from grpo_core.scoring.wire import frame, pack_sample, receive, unpack_score
from grpo_core.testing.child import Touched

BUILD_S = 60.0
"""What importing and making the reward may take."""
PATIENCE = 3
"""After so many hangs or deaths a bench judges no more: a check must end."""
MEMORY_MB = 2048
"""What a worker has in training, by default."""

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from grpo_core.testing.child import main; main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)


class CannotBuild(Exception):
    """The reward could not be made in a process of its own."""


@dataclass
class Judged:
    """What came of one call."""

    samples: Sequence[Sample]
    scores: list[Score]
    seconds: float
    grown_mb: float
    """By how much memory rose above where it was."""
    touched: Touched
    lost: bool = False
    """The process hung or died over it, and was replaced."""
    skipped: bool = False
    """Not judged: the bench had run out of patience."""


class Bench:
    """Builds the reward at once; raises CannotBuild where that fails.

    `deadline_s` is what a sample may take. `seed` is PYTHONHASHSEED. `allowed`
    (of `network`, `files`) is noted but not refused.
    """

    def __init__(
        self, recipe: Recipe, deadline_s: float, *, seed: int = 0, allowed: Collection[str] = ()
    ) -> None:
        self._recipe = recipe
        self._deadline_s = deadline_s
        self._seed = seed
        self._allowed = ",".join(allowed)
        self._losses = 0
        self._start()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()
        self._errors.close()

    def judge(self, calls: Sequence[Sequence[Sample]], *, in_thread: bool = False) -> list[Judged]:
        """Judge each call's samples together, one call after another; one answer a call."""
        done: list[Judged] = []
        while len(done) < len(calls):
            left = calls[len(done) :]
            if self._losses >= PATIENCE:
                why = f"not judged: the reward hung or died {PATIENCE} times before"
                score = Score(None, Outcome.error, why)
                return done + [_lost(samples, score, skipped=True) for samples in left]
            self._socket.settimeout(BUILD_S)
            packed = [[pack_sample(sample) for sample in samples] for samples in left]
            try:
                self._socket.sendall(frame(("judge", packed, in_thread)))
                for samples in left:
                    done.append(self._answer(samples))
            except (TimeoutError, EOFError, ConnectionError, pickle.UnpicklingError) as error:
                done.append(_lost(calls[len(done)], self._post_mortem(error)))
                self._losses += 1
                self.close()
                self._start()
        return done

    def _answer(self, samples: Sequence[Sample]) -> Judged:
        self._socket.settimeout(self._deadline_s * self._deadlines(len(samples)) + 0.2)
        packed, seconds, grown_mb, touched = receive(self._socket)
        return Judged(samples, list(map(unpack_score, packed)), seconds, grown_mb, touched)

    def _deadlines(self, count: int) -> int:
        """How many deadlines a call with so many samples may take, as in a worker."""
        if count == 1:
            return 1
        return count if self._kind is Call.single else 2

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
                + [str(number) for number in (theirs.fileno(), MEMORY_MB)]
                + [self._allowed],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={**os.environ, "PYTHONHASHSEED": str(self._seed), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._socket = ours
        ours.settimeout(BUILD_S)
        try:
            ours.sendall(frame(("build", self._recipe)))
            facts, self.build_touched = receive(ours)
        except (TimeoutError, EOFError, ConnectionError) as error:
            facts = {"problem": self._post_mortem(error).reason}
        self.facts: dict[str, Any] = facts
        if facts["problem"]:
            self.close()
            raise CannotBuild(facts["problem"])
        self._kind: Call = facts["kind"]

    def _post_mortem(self, error: Exception) -> Score:
        if isinstance(error, TimeoutError):
            return Score(None, Outcome.timeout, f"no verdict within {self._deadline_s:g} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        code = self._process.poll()
        how = "stopped answering"
        if code is not None:
            how = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
        return Score(None, Outcome.error, f"its process {how}{self._last_words()}")

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


def _lost(samples: Sequence[Sample], score: Score, skipped: bool = False) -> Judged:
    return Judged(
        samples, [score] * len(samples), 0.0, 0.0, Touched(), lost=not skipped, skipped=skipped
    )
