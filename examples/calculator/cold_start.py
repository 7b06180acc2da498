"""Make the calculator's policy from nothing: a character tokenizer and a tiny Llama.

Supervised training on the noisy demonstrations of `demonstrations.py`, over the sums
of train.jsonl and others of the same make; no sum of test.jsonl is ever shown. What
comes out can be right and well-formed, but is not sure of either: that is what
reinforcement is for.

    python cold_start.py --out policy
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from demonstrations import Noise, demonstration, similar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
IGNORED = -100


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character (a byte, so that every text round-trips), and pad, bos, eos."""
    vocabulary = {PAD: 0, BOS: 1, EOS: 2}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=400,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def lessons(
    train: dict[str, str], test: set[str], synthetic: float, noise: Noise, random: Random
) -> Iterator[tuple[str, str]]:
    """Endless (prompt, completion) pairs; the share `synthetic` is not from the file."""
    expressions = list(train)
    while True:
        expression = random.choice(expressions)
        answer = train[expression]
        if random.random() < synthetic:
            drawn = similar(expression, random)
            if drawn is None or drawn[0] in test:
                continue
            expression, answer = drawn
        yield f"{expression}=", demonstration(expression, answer, noise, random)


def batches(
    pairs: Iterator[tuple[str, str]], size: int, random: Random, pool: int = 16
) -> Iterator[list[tuple[str, str]]]:
    """Batches of similar length, so that little is padding: `pool` batches sorted at a time."""
    while True:
        drawn = sorted((next(pairs) for _ in range(size * pool)), key=lambda p: len(p[0] + p[1]))
        chunks = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        random.shuffle(chunks)
        yield from chunks


def batch(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both [pairs, T], padded on the right; the prompt is not a label."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    completions = tokenizer([completion + EOS for _, completion in pairs])["input_ids"]
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, : len(p) + len(c)] = torch.tensor(p + c)
        labels[row, len(p) : len(p) + len(c)] = torch.tensor(c)
    return ids, labels


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Iterator[list[tuple[str, str]]],
    *,
    steps: int,
    learning_rate: float,
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05, div_factor=20
    )
    columns = (
        TextColumn("cold start"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    model.train()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=steps, loss=float("nan"))
        for step in range(1, steps + 1):
            ids, labels = batch(next(lessons), tokenizer)
            with torch.autocast("cpu", torch.bfloat16):
                # Right padding under a causal mask: nothing a label sees is padding.
                logits = model(input_ids=ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, loss=loss.item())
            if step % max(1, steps // 10) == 0:
                progress.console.print(f"step {step}: loss {loss.item():.3f}")


def sums(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["expression"]: row["answer"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "policy", help="folder to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--synthetic", type=float, default=0.67, help="share not from train.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = character_tokenizer()
    model = tiny_llama(tokenizer)
    random = Random(arguments.seed)
    pairs = lessons(
        sums(HERE / "train.jsonl"),
        set(sums(HERE / "test.jsonl")),
        arguments.synthetic,
        Noise(),
        random,
    )
    started = time.perf_counter()
    train(
        model,
        tokenizer,
        batches(pairs, arguments.batch_size, random),
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
    )
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    parameters = sum(p.numel() for p in model.parameters())
    minutes = (time.perf_counter() - started) / 60
    print(f"{arguments.out}: {parameters:,} parameters, trained in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
