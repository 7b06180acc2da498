"""Limits, outcomes and results: what goes into a job and what comes out.

Left out: running anything (`sandbox`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class SandboxError(Exception):
    """The sandbox itself failed or cannot be had; it says nothing about a program."""


class SandboxUnavailable(SandboxError):
    """This machine lacks what isolation needs; the message says what, and the remedy.

    `reasons` holds the step that was refused, by tier.
    """

    def __init__(self, message: str, reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class Outcome(StrEnum):
    """How one job ended. A word about the process, never a verdict."""

    finished = "finished"
    """It ended by itself, whatever its exit code."""
    timeout = "timeout"
    """It was killed at its deadline, or used up its processor time."""
    memory = "memory"
    """It ran out of memory."""
    output = "output"
    """It was killed for writing more than the limit."""
    crashed = "crashed"
    """It died of a signal."""
    denied = "denied"
    """It ended on something that the sandbox does not allow."""
    error = "error"
    """Reserved: the sandbox, or the trusted tests, failed. Never the program's fault."""


@dataclass(frozen=True)
class Limits:
    """What one job may use. Raises ValueError on a limit that is not positive."""

    wall_s: float = 5.0
    """Seconds from the start of the job to its kill; absolute, whatever the job does."""
    memory_mb: int = 256
    """Private writable memory beyond what the interpreter itself holds."""
    threads: int = 16
    files: int = 64
    """Open file descriptors."""
    scratch_mb: int = 16
    """Files in the working directory, all together; gone when the job ends."""
    output_kb: int = 256
    """Standard output and standard error, each."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"Limits.{f.name} must be a positive number, not {value!r}")
        if self.files < 16:
            raise ValueError(f"Limits.files must be at least 16, not {self.files}")


@dataclass(frozen=True)
class Run:
    """One program, run. `outcome` and `exit` describe the process; whether the
    program was right is for whoever knows the expected output to say."""

    outcome: Outcome
    stdout: str
    stderr: str
    exit: int | None
    """Exit code; a signal's negative number; None when there was no process."""
    wall_s: float
    cpu_s: float
    memory_mb: float
    """Peak resident memory, the interpreter's own included."""
    truncated: bool
    """Whether output was cut off at the limit."""
    reason: str
    """One line a person can read; empty for a program that just finished."""
    tier: int
    """1: namespaces + landlock + seccomp + rlimits. 2: the same without namespaces. 0: unsafe."""
    unsafe: bool

    @property
    def output(self) -> str:
        """Both streams, standard output first."""
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Reply:
    """One function call: a plain value, or why there is none."""

    value: Any
    exception: str | None
    """`Type: message` of what the function raised; None when it returned."""
    outcome: Outcome
    """`finished` when the function returned or raised; else how its process ended."""
    reason: str
    tier: int
    unsafe: bool

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.finished and self.exception is None


@dataclass(frozen=True)
class Verdict:
    """What the tests said of a candidate.

    `outcome` is `finished` whenever the tests ran to their end or to a failure;
    `error` when they could not judge (broken tests, a broken sandbox): then
    `passed` is False and means nothing.
    """

    passed: bool
    outcome: Outcome
    reason: str
    """Which assert failed and how. It may hold expected values: log it, and
    never show it to the candidate."""
    calls: int
    """How often the tests called the candidate."""
    wall_s: float
    cpu_s: float
    """Of the candidate's process."""
    memory_mb: float
    tier: int
    unsafe: bool
