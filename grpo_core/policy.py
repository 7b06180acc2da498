"""The model being trained and its tokenizer.

Drawing completions is `rollout`'s part, log-probabilities of given tokens are `passes`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_core.config import LoraConfig
from grpo_core.errors import ConfigError

Prompt = str | Sequence[Mapping[str, Any]]

REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a model raises for a mask, a cache or an argument it was not written for."""


@dataclass
class Policy:
    """A causal language model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def eos_ids(self) -> list[int]:
        """Token ids that end a completion: the model's and the tokenizer's."""
        eos = getattr(self.model.generation_config, "eos_token_id", None)
        ids = set(eos if isinstance(eos, list) else [eos]) | {self.tokenizer.eos_token_id}
        return sorted(token for token in ids if token is not None)

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.eos_ids[0])

    def render(self, prompt: Prompt) -> str:
        """The text the model sees: a plain prompt as it is, messages through the
        tokenizer's chat template with the assistant's turn opened."""
        if isinstance(prompt, str):
            return prompt
        return str(
            self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. A chat template writes its own special tokens;
        a plain prompt gets those the tokenizer adds to a text."""
        ids = self.tokenizer(
            self.render(prompt), add_special_tokens=isinstance(prompt, str)
        ).input_ids
        if not ids:
            raise ConfigError(f"a prompt has no tokens: {prompt!r}", ("data", "prompt"))
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def save(self, directory: Path) -> None:
        """Write model and tokenizer, loadable with `from_pretrained`."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def load_policy(
    name: str,
    base_dir: Path,
    dtype: str = "float32",
    *,
    attention: str | None = None,
    lora: LoraConfig | None = None,
    checkpoint: Path | None = None,
) -> Policy:
    """Load a model directory (relative to `base_dir`) or a model of the Hub, as it is or with
    the weights, or the adapters, of a checkpoint.

    Raises ConfigError with the key `model.name` when it cannot be had.
    """
    start = name if lora or checkpoint is None else str(checkpoint)
    model = load_model(start, base_dir, dtype, attention)
    tokenizer = _pretrained(AutoTokenizer, start, base_dir)
    policy = Policy(model, tokenizer)
    if not policy.eos_ids:
        raise ConfigError(f"{start!r} has no end-of-sequence token", ("model", "name"))
    if lora:
        policy.model = _with_adapters(model, lora, checkpoint)
    for layer in policy.model.modules():
        # drawing sees no dropout; in training it would only be noise on r
        rates = [name for name, value in vars(layer).items() if isinstance(value, float)]
        for name in rates:
            if "drop" in name or isinstance(layer, torch.nn.Dropout):
                setattr(layer, name, 0.0)
    return policy


def load_model(
    name: str, base_dir: Path, dtype: str = "float32", attention: str | None = None
) -> Any:
    """A model alone. Raises ConfigError with the key `model.name` when it cannot be had."""
    return _pretrained(
        AutoModelForCausalLM,
        name,
        base_dir,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
    )


def _pretrained(auto: Any, name: str, base_dir: Path, **how: Any) -> Any:
    local = base_dir / name
    try:
        return auto.from_pretrained(str(local.resolve()) if local.is_dir() else name, **how)
    except (OSError, ValueError, ImportError) as error:  # a bad name or folder, no such attention
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name!r} cannot be loaded: {reason}", ("model", "name")) from None


def _with_adapters(model: Any, lora: LoraConfig, checkpoint: Path | None) -> Any:
    """The model behind low-rank adapters: fresh ones, or those of a checkpoint."""
    import peft

    if checkpoint is not None:
        return peft.PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    adapters = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
    )
    try:
        return peft.get_peft_model(model, adapters)
    except ValueError as error:  # targets that are not there
        reason = " ".join(str(error).split())
        raise ConfigError(reason, ("model", "lora", "targets")) from None
