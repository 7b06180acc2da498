"""Training passes: log-probabilities, with gradient, of the completions of whole groups.

`pack` lays tokens out, `forms` runs the model over them, `head` turns hidden states into
log-probabilities, `check` finds the fastest form that holds for a model, `batching` cuts a
step into passes. The loss is `algorithm`'s, the loop the trainer's.
"""

from grpo_core.passes.batching import deal, default_budget, micro_batches, padded_tokens
from grpo_core.passes.check import self_check
from grpo_core.passes.forms import Passes, TokenLogps
from grpo_core.passes.pack import Form, Group

__all__ = [
    "Form",
    "Group",
    "Passes",
    "TokenLogps",
    "deal",
    "default_budget",
    "micro_batches",
    "padded_tokens",
    "self_check",
]
