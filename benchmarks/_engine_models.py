"""Models and prompts of the engine's benchmarks, made from nothing: both sides load the same files.

Random weights, with one thing arranged: how likely the end of a sequence is. Dimension 0
of the hidden state is kept constant through the layers, and the head's entry for the
end-of-sequence token there is solved for, so that each token ends the completion with the
same probability. Lengths then follow a geometric law cut off at the limit, and stay there
while a benchmark trains for a few steps at a tiny learning rate.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class Setting:
    """A model and the work of one step. Lengths in tokens."""

    name: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    prompt: int
    completion: int
    mean_length: float | None
    """Of completions; None: none ends before the limit."""
    prompts: int
    group: int
    key_value_heads: int | None = None
    model: str = "llama"
    tied: bool = False

    @property
    def samples(self) -> int:
        return self.prompts * self.group


A = Setting("A", 256, 8, 4, 704, 8192, 256, 128, 64.0, 4, 8)
B = Setting("B", 128, 4, 8, 352, 260, 10, 48, None, 32, 8)
C = Setting("C", 256, 8, 4, 704, 32768, 256, 128, 64.0, 4, 8)
SMOKE = Setting("S", 32, 2, 2, 64, 128, 24, 12, 6.0, 2, 4)
GPU = Setting("GPU", 896, 24, 14, 4864, 151936, 512, 512, 256.0, 16, 8, 2, "qwen2", True)
"""The shape of Qwen2.5-0.5B."""

SETTINGS = {setting.name: setting for setting in (A, B, C, SMOKE)}


def build(setting: Setting, folder: Path, rows: int = 512) -> int:
    """Write `folder/model` and `folder/prompts.jsonl`; returns the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    torch.manual_seed(0)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[setting.model]
    model = AutoModelForCausalLM.from_config(
        kind(
            hidden_size=setting.hidden,
            num_hidden_layers=setting.layers,
            num_attention_heads=setting.heads,
            num_key_value_heads=setting.key_value_heads or setting.heads,
            intermediate_size=setting.intermediate,
            vocab_size=setting.vocabulary,
            max_position_embeddings=max(512, 2 * (setting.prompt + setting.completion)),
            tie_word_embeddings=setting.tied,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    arrange_ends(model, setting)
    model.save_pretrained(folder / "model")
    _tokenizer(setting.vocabulary).save_pretrained(folder / "model")
    draw = random.Random(0)
    with (folder / "prompts.jsonl").open("w") as file:
        for _ in range(rows):
            words = [f"w{draw.randrange(3, setting.vocabulary)}" for _ in range(setting.prompt)]
            file.write(json.dumps({"prompt": " ".join(words)}) + "\n")
    return sum(parameter.numel() for parameter in model.parameters())


def arrange_ends(model: Any, setting: Setting) -> None:
    """Make each token the last with the probability that gives the setting's mean length."""
    import torch

    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    constant = 0.02 * math.sqrt(setting.hidden)  # as large as the rest of a hidden state together
    with torch.no_grad():
        embedding[:, 0] = constant
        if not setting.tied:
            head[:, 0] = 0
        for layer in model.base_model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        ids = torch.randint(3, setting.vocabulary, (4, min(64, setting.prompt + 32)))
        hidden = model.base_model(input_ids=ids).last_hidden_state
        others = (hidden @ head[3:].T).logsumexp(-1)
        carrier = hidden[..., 0]
        head[EOS, 1:] = 0
        if setting.mean_length is None:
            head[EOS, 0] = head[3, 0] - 50 / carrier.mean()
        else:
            wanted = end_probability(setting.mean_length, setting.completion)
            entry = bisect(
                lambda entry: float(torch.sigmoid(entry * carrier - others).mean()), wanted
            )
            head[EOS, 0] = entry
        for token in (PAD, BOS):  # never drawn: they would be stripped as special tokens
            head[token, 1:] = 0
            head[token, 0] = head[3, 0] - 50 / carrier.mean()


def end_probability(mean: float, limit: int) -> float:
    """p of a geometric law whose mean, cut off at `limit`, is (1 - (1 - p)^limit) / p = `mean`."""
    return bisect(lambda p: -(1 - (1 - p) ** limit) / p, -mean, 1e-9, 1 - 1e-9)


def bisect(
    increasing: Callable[[float], float], wanted: float, low: float = -100.0, high: float = 100.0
) -> float:
    """Where an increasing function takes a value."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < wanted else (low, middle)
    return (low + high) / 2


def _tokenizer(vocabulary: int) -> Any:
    """A word is a token, so that a prompt's length is exact."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS}
    words |= {f"w{n}": n for n in range(3, vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w3"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
    )
