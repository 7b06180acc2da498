"""Running rewards: isolation, deadlines, killable workers, streaming."""

from grpo_core.scoring.scorer import Scorer as Scorer
from grpo_core.scoring.scorer import score as score

__all__ = ["Scorer", "score"]
