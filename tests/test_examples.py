"""The shipped examples run: their own configs, with small models and few steps."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from grpo_core.cli import train as command

EXAMPLES = Path(__file__).parents[1] / "examples"

GSM8K = [
    {
        "question": "Tom has 3 apples and buys 4 more. How many has he?",
        "answer": "Tom has 3 + 4 = <<3+4=7>>7 apples.\n#### 7",
    },
    {
        "question": "A book of 120 pages, half of it read. How many are left?",
        "answer": "120 / 2 = <<120/2=60>>60 pages.\n#### 60",
    },
]


def test_gsm8k_runs_through_a_chat_template(tmp_path, tiny_qwen):
    """The config of the real job, with a tiny random Qwen2 saved to disk."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    command.train(
        EXAMPLES / "gsm8k" / "grpo.yaml",
        [
            f"model.name={tiny_qwen}", f"data.path={rows}", f"eval.path={rows}",
            f"train.output_dir={tmp_path / 'run'}", "train.steps=2", "train.prompts_per_step=2",
            "grpo.group_size=2", "rollout.max_tokens=8", "train.warmup_steps=0",
        ],
    )  # fmt: skip
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    first = json.loads(lines[0])
    assert first["outcomes/math/scored"] == first["outcomes/format/scored"] == 4
