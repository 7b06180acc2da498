"""Who takes how long: what is being judged now, and where a batch's time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_core.rewards import Sample, Score


def label(sample: Sample) -> str:
    """How messages name a sample: its id, else its group and place."""
    return f"{sample.group}/{sample.index}" if sample.id is None else str(sample.id)


@dataclass(frozen=True)
class Running:
    """Something being judged."""

    reward: str
    sample: Sample
    seconds: float
    more: int = 0
    """How many further samples the same call is judging."""

    def __str__(self) -> str:
        more = f" and {self.more} more" if self.more else ""
        return f"{self.reward} on sample {label(self.sample)}{more} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Timing:
    """What one verdict took."""

    reward: str
    sample: Sample
    seconds: float
    score: Score

    def __str__(self) -> str:
        outcome, reason = self.score.outcome.value, self.score.reason
        text = f"{self.reward} on sample {label(self.sample)}: {self.seconds:.2f} s, {outcome}"
        return f"{text} ({reason})" if reason else text


@dataclass(frozen=True)
class Timings:
    """Where the time of a batch went. Seconds of judging, except `wall_s`: from the
    first sample added to the last verdict."""

    wall_s: float
    total_s: Mapping[str, float]
    """By reward."""
    seconds: Mapping[str, Sequence[float]]
    """By reward, one a sample; 0 where a verdict cost nothing."""
    slowest: Sequence[Timing]
    """The ten slowest verdicts, slowest first."""
