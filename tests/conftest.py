"""Small models, tokenizers and rewards that several tests share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ALPHABET = "0123456789+-*/=.<>\\{} abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n?,:"
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def char_tokenizer():
    """One token a character; `[` and `]` for the chat template's roles."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", "[", "]", *ALPHABET]
    tokenizer = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def save_tiny_model(directory: Path, family: str = "llama") -> Path:
    """A randomly initialised two-layer model and a character tokenizer, on disk."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = char_tokenizer()
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model_class(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "qwen", "qwen2")


REWARDS = '''
"""Rewards with values a tiny random model can move."""

def digits(prompts, completions, **columns):
    return [sum(c.isdigit() for c in text) / max(1, len(text)) for text in completions]


def brevity(prompts, completions, **columns):
    return [max(0.0, 1 - len(text) / 40) for text in completions]
'''


@pytest.fixture
def project(tmp_path, tiny_model) -> Path:
    """A folder with rows, rewards and a config that trains the tiny model."""
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(6) for b in range(6)]
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    (tmp_path / "grpo.yaml").write_text(
        f"""
model: {{name: {tiny_model}}}
data: {{path: train.jsonl, prompt: "{{question}}"}}
rubric:
  rewards:
    - {{use: "my_rewards.py:digits", weight: 1.0}}
    - {{use: "my_rewards.py:brevity", weight: 0.1}}
grpo: {{group_size: 4}}
rollout: {{max_tokens: 8}}
train: {{prompts_per_step: 3, steps: 4, learning_rate: 1.0e-3, save_every: 2}}
eval: {{path: test.jsonl, pass: digits, every: 2}}
scoring: {{workers: 1}}
"""
    )
    return tmp_path
