"""One side of the engine's benchmark, in a process of its own: TRL, or this engine.

    python _engine_sides.py SPEC.json RESULT.json

Both sides measure alike. A step's time is the whole cycle, from the end of one step to
the end of the next, whatever is done in it. Memory is the growth of this process above
what it held when the model had just been loaded: the kernel's own high-water mark
(VmHWM), reset at that moment; on a GPU, torch's. What our reward workers hold on top is
counted apart (TRL runs rewards inside).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MB = 2**20


@dataclass
class Spec:
    """What one side is to do."""

    side: str
    """`trl` or `ours`."""
    folder: str
    """As `_engine_models.build` wrote it."""
    prompts: int
    group: int
    completion: int
    warmup: int
    """Steps that are not measured."""
    steps: int
    """Steps that are."""
    threads: int = 2
    precision: str = "float32"
    """Of the arithmetic in training: float32, or bfloat16 (autocast)."""
    dtype: str = "float32"
    """Of the weights."""
    accumulation: int = 1
    """Parts that TRL cuts a step's samples into."""
    gpu: bool = False
    overrides: list[str] = field(default_factory=list)
    """`key=value` for our config."""
    reward: str = "hashed"
    seed: int = 0
    processes: int = 1
    """Started by torchrun; what rank 0 measures is kept."""


@dataclass
class Steps:
    """What was measured; a list has an entry a measured step. Seconds, tokens, MB."""

    total: list[float]
    generate: list[float]
    update: list[float]
    """Forward, backward, clipping, optimizer."""
    mean_length: list[float]
    silent: list[float]
    """The share of groups without signal."""
    peak: float
    baseline: float
    workers: float = 0.0
    """Memory that only the reward workers hold."""
    notes: list[str] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        names = ("total", "generate", "update")
        return {name: statistics.median(getattr(self, name)) for name in names} | {
            "peak": self.peak,
            "mean_length": statistics.fmean(self.mean_length),
        }


class Memory:
    """Growth of this process (or of the GPU's memory) since `start`."""

    def __init__(self, gpu: bool) -> None:
        self.gpu, self.baseline = gpu, 0.0

    def start(self) -> None:
        if self.gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.baseline = torch.cuda.memory_allocated() / MB
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
            self.baseline = _status("VmRSS")

    def peak(self) -> float:
        if self.gpu:
            import torch

            return torch.cuda.max_memory_allocated() / MB - self.baseline
        return _status("VmHWM") - self.baseline


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}; the benchmark needs Linux")


def children_mb() -> float:
    """Memory that only this process's children hold (resident minus shared)."""
    total, me = 0.0, os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == me:
                pages = (stat.parent / "statm").read_text().split()
                total += (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE") / MB
    return total


def on_load(call: Callable[[Any], None]) -> None:
    """Have `call` told of the first causal language model that transformers loads."""
    from transformers import AutoModelForCausalLM

    original, done = AutoModelForCausalLM.from_pretrained, []

    def load(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if not done:
            done.append(True)
            call(model)
        return model

    AutoModelForCausalLM.from_pretrained = load


# --- TRL -------------------------------------------------------------------------------


def run_trl(spec: Spec) -> Steps:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from _engine_rewards import half_silent, hashed

    folder = Path(spec.folder)
    arguments = trl_arguments(
        output_dir=str(folder / "trl"),
        max_steps=spec.warmup + spec.steps,
        per_device_train_batch_size=spec.prompts * spec.group // spec.accumulation,
        gradient_accumulation_steps=spec.accumulation,
        num_generations=spec.group,
        max_completion_length=spec.completion,
        learning_rate=1e-6,
        bf16=spec.precision == "bfloat16",
        use_cpu=not spec.gpu,
        seed=spec.seed,
    )
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    memory, clock = Memory(spec.gpu), TrlClock()
    trainer_class = clock.trainer_class()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, spec.dtype))
    if spec.gpu:
        model.to("cuda")
    memory.start()
    trainer = trainer_class(
        model=model,
        reward_funcs={"hashed": hashed, "half_silent": half_silent}[spec.reward],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[clock.callback()],
    )
    trainer.train()
    names = ("total", "generate", "update", "mean_length", "silent")
    measured = {name: clock.column(name)[spec.warmup :] for name in names}
    return Steps(**measured, peak=memory.peak(), baseline=memory.baseline)


def trl_arguments(**arguments: Any) -> Any:
    """GRPOConfig with what both benchmarks want: the same algorithm as ours, nothing extra."""
    from trl import GRPOConfig

    common = {
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "temperature": 1.0,
        "beta": 0.0,
        "num_iterations": 1,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
    }
    return GRPOConfig(**common | arguments)


class TrlClock:
    """Times a GRPOTrainer by wrapping three of its methods; changes nothing it does."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = {}
        self.ended = 0.0

    def trainer_class(self) -> Any:
        from trl import GRPOTrainer

        clock = self

        class Timed(GRPOTrainer):  # type: ignore[misc]
            def _generate(self, prompts: list[Any]) -> Any:
                with clock.timing("generate"):
                    found = super()._generate(prompts)
                clock.now["tokens"] = clock.now.get("tokens", 0) + sum(map(len, found[1]))
                clock.now["samples"] = clock.now.get("samples", 0) + len(found[1])
                return found

            def _calculate_rewards(self, *args: Any) -> Any:
                with clock.timing("score"):
                    found = super()._calculate_rewards(*args)
                groups = found.nansum(-1).view(-1, self.num_generations)
                clock.now["silent"] = float((groups.amax(1) == groups.amin(1)).float().mean())
                return found

            def _generate_and_score_completions(self, inputs: Any) -> Any:
                with clock.timing("rollout"):
                    return super()._generate_and_score_completions(inputs)

        return Timed

    @contextlib.contextmanager
    def timing(self, name: str) -> Any:
        started = self.read()
        yield
        self.now[name] = self.now.get(name, 0.0) + self.read() - started

    def read(self) -> float:
        synchronize()
        return time.perf_counter()

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Ends(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock.ended = clock.read()

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock.now["began"] = clock.read()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                ended, now = clock.read(), clock.now
                now["total"], now["ended"] = ended - clock.ended, ended
                now["update"] = ended - now["began"] - now["rollout"]
                now["mean_length"] = now["tokens"] / now["samples"]
                clock.steps.append(now)
                clock.now, clock.ended = {}, ended

        return Ends()

    def column(self, name: str) -> list[float]:
        return [step[name] for step in self.steps]


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


# --- ours ------------------------------------------------------------------------------


def run_ours(spec: Spec) -> Steps:
    import pandas  # noqa: F401  with pyarrow: what writes samples. Imported late otherwise, and
    import pyarrow.parquet  # noqa: F401  code is no training memory; TRL's side has both by now
    import yaml

    folder = Path(spec.folder)
    run = folder / "ours"
    config = {
        "name": "ours",
        "model": {"name": str(folder / "model"), "dtype": spec.dtype},
        "data": {"path": str(folder / "prompts.jsonl")},
        "rubric": {
            "rewards": [{"use": f"{Path(__file__).with_name('_engine_rewards.py')}:{spec.reward}"}]
        },
        "grpo": {"group_size": spec.group},
        "rollout": {"max_tokens": spec.completion},
        "train": {
            "prompts_per_step": spec.prompts,
            "steps": spec.warmup + spec.steps,
            "learning_rate": 1e-6,
            "precision": spec.precision,
            "save_every": 0,
            "output_dir": str(run),
            "seed": spec.seed,
        },
    }
    path = folder / f"ours{os.environ.get('RANK', '')}.yaml"  # a rank reads while another writes
    path.write_text(yaml.safe_dump(config))
    memory = Memory(spec.gpu)
    on_load(lambda model: (model.to("cuda") if spec.gpu else None, memory.start()))
    clock = train_ours(path, spec.overrides, memory)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = lines[spec.warmup :]
    return Steps(
        [now - before for before, now in zip(clock.ends, clock.ends[1:], strict=False)][
            spec.warmup - 1 :
        ],
        [line["time/rollout"] for line in lines],
        [line["time/update"] for line in lines],
        [line["completions/mean_length"] for line in lines],
        [line["frac_reward_zero_std"] for line in lines],
        clock.peak,
        memory.baseline,
        clock.workers_mb,
        clock.said,
    )


@dataclass
class OurClock:
    """What `grpo train` showed, and when (`time.perf_counter`)."""

    began: float = 0.0
    """The first step's begin, after loading and the evaluation before training."""
    ends: list[float] = field(default_factory=list)
    """Each step's end, its metrics and samples written."""
    said: list[str] = field(default_factory=list)
    workers_mb: float = 0.0
    peak: float = 0.0
    """After the last step: the checkpoint written then is not training (TRL writes none)."""


def train_ours(config: Path, overrides: list[str], memory: Memory | None = None) -> OurClock:
    """`grpo train CONFIG OVERRIDES...`, in this process."""
    from grpo_core.cli import train as command

    clock = OurClock()

    class Display(command.Display):
        def phase(self, what: str, step: int) -> None:
            if not clock.began and step >= 1:
                clock.began = time.perf_counter()
            super().phase(what, step)

        def step(self, line: dict[str, Any]) -> None:
            synchronize()
            clock.ends.append(time.perf_counter())
            clock.peak = memory.peak() if memory is not None else 0.0
            if len(clock.ends) == 1:
                clock.workers_mb = children_mb()
            super().step(line)

        def say(self, text: str) -> None:
            clock.said.append(text)
            super().say(text)

    command.Display = Display  # type: ignore[misc]
    command.train(config, overrides, resume=False)
    return clock


def main() -> None:
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    import torch

    torch.set_num_threads(spec.threads)
    found = run_trl(spec) if spec.side == "trl" else run_ours(spec)
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
