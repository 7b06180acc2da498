"""Running rewards: isolation, deadlines, killable workers, streaming."""

from grpo_core.scoring.batch import Batch as Batch
from grpo_core.scoring.batch import Timing as Timing
from grpo_core.scoring.batch import Timings as Timings
from grpo_core.scoring.pool import Running as Running
from grpo_core.scoring.scorer import Scorer as Scorer
from grpo_core.scoring.scorer import score as score

__all__ = ["Batch", "Running", "Scorer", "Timing", "Timings", "score"]
