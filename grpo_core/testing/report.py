"""What came of the checks, in words and figures."""

from __future__ import annotations

import statistics

from grpo_core.rewards import Outcome
from grpo_core.testing.check import Result
from grpo_core.testing.lab import Lab


def told(result: Result) -> str:
    """A failed check: what it did, what it saw, why it matters."""
    saw = "\n          ".join(line.replace("\n", " ") for line in result.saw)
    return f"    did   {result.check.did}\n    saw   {saw}\n    why   {result.check.why}"


def line(result: Result) -> str:
    """One line for a check, with the reason where it did not run."""
    word = {"passed": "ok", "failed": "FAIL", "skipped": "skip", "waived": "waived"}[result.status]
    reason = f"  {result.saw[0]}" if result.status in ("skipped", "waived") else ""
    return f"  {word:6}  {result.check.name}{reason}"


def figures(lab: Lab) -> str:
    """What judging costs: time a sample, the slowest hostile one, memory."""
    first, again = lab.base.alone, lab.base.again
    times = sorted(j.seconds / len(j.samples) for j in again if not (j.lost or j.skipped))
    if not times:
        return "latency: none, it hung or died on ordinary samples"
    text = (
        f"latency: first score {_time(first[0].seconds)}, then median "
        f"{_time(statistics.median(times))}, slowest {_time(times[-1])} a sample"
    )
    ended = [(j.seconds, name) for name, j in lab.hostile if not (j.lost or j.skipped)]
    if ended:
        seconds, name = max(ended)
        text += f"; slowest hostile {_time(seconds)} ({name})"
    if lost := sum(j.scores[0].outcome is Outcome.timeout for _, j in lab.hostile):
        text += f"; {lost} hung"
    grown, name = max((judged.grown_mb, name) for name, judged in lab.hostile)
    return text + f"; most memory {grown:.0f} MB ({name})"


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
