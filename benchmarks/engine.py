"""How much faster than TRL the engine is, with how much less memory; what each lever brings.

    python benchmarks/engine.py [--settings A B C] [--repeats 3] [--json OUT] [--quick]
    python benchmarks/engine.py --gpu [--json OUT]

TRL's GRPOTrainer with transformers generation, and `grpo train`, on the same model files,
prompts, lengths, rewards and number of threads. Each run is a process of its own; the two
sides take turns and swap who goes first, and every ratio is the median of the ratios of
neighbouring runs. `_engine_sides.py` says what is measured, `_engine_models.py` what on.

| setting | model | a step |
| --- | --- | --- |
| A | 11M parameters, vocabulary 8,192 | 4 prompts of 256 tokens x 8, up to 128 tokens, 64 on average |
| B | 0.9M, vocabulary 260 | 32 prompts of 10 tokens x 8, 48 tokens each |
| C | 23M: A with a vocabulary of 32,768 | as A |

A second table switches each lever of the engine off in turn (A, and C for the head).
Exits with 1 when a bar is not held. Needs Linux, an idle machine, and the extra `dev`.
Not measured: several processes, vLLM, anything on the Hub.

With `--gpu`: a random model of Qwen2.5-0.5B's shape in bfloat16. Tokens a second are
completion tokens over the whole step. The share of the card's peak is F / (seconds x peak),
with the floating-point operations of a step (PaLM, arXiv 2204.02311, appendix B)

    F = sum over sequences of  2 N c + 6 N c + (4 + 12) L d c s / 2

for N parameters (without the input embedding, a look-up), L layers, d the width of all
heads, c tokens of which each attends to s / 2 on average in a sequence of s: 2 N to draw a
token, 6 N to learn from it. Padding is not counted, nor what is computed twice. "With
every completion" counts a prompt once for each of its completions, the work as TRL does
it; "once a group" counts it as often as this engine reads it. The first compares speeds,
the second says what our kernels reach.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).parent))
from _engine_models import GPU, SETTINGS, Setting, build
from _engine_report import Comparison, as_json, comparison_table, comparisons, lever_table, on_gpu
from _engine_sides import Spec, Steps

HERE = Path(__file__).parent
OFF = {
    "shared prompt": "engine.shared_prompt=plain",
    "fused head": "engine.fused_head=false",
    "shared prefill": "engine.shared_prefill=false",
    "drop finished": "engine.drop_finished=false",
    "packed weights": "engine.packed_weights=false",
    "sort by length": "engine.sort_by_length=false",
}
SKIP_OFF = "engine.skip_silent=false"
LEVERS: dict[str, list[str]] = {
    "shared prompt: mask": ["engine.shared_prompt=mask"],
    "shared prompt: key/value": ["engine.shared_prompt=key_value"],
    **{f"{lever}: off": [key] for lever, key in OFF.items()},
    "all off": [*OFF.values(), SKIP_OFF],
}
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "4090": 165, "B200": 2250}
"""Dense bfloat16, from NVIDIA's data sheets (SXM where there are several)."""


# --- running ---------------------------------------------------------------------------


@dataclass
class Bench:
    """Starts runs; knows where the models are."""

    folder: Path
    threads: int
    warmup: int
    steps: dict[str, int]
    overrides: list[str]
    progress: Progress | None = None
    task: Any = None
    parameters: dict[str, int] = field(default_factory=dict)

    def build(self, setting: Setting) -> None:
        if setting.name not in self.parameters:
            place = self.folder / setting.name
            place.mkdir()
            self.parameters[setting.name] = build(setting, place)

    def run(
        self,
        side: str,
        setting: Setting,
        what: str,
        repeat: int,
        *,
        gpu: bool = False,
        **options: Any,
    ) -> Steps:
        """One side, once, in a process of its own."""
        if self.progress is not None:
            self.progress.update(self.task, what=f"{what}, {side}, repeat {repeat + 1}")
        overrides = [*self.overrides, *options.pop("overrides", ())]
        spec = Spec(
            side,
            str(self.folder / setting.name),
            setting.prompts,
            setting.group,
            setting.completion,
            self.warmup,
            self.steps[side],
            self.threads,
            gpu=gpu,
            overrides=overrides if side == "ours" else [],
            seed=repeat,
            **options,
        )
        found = self.start(spec)
        if self.progress is not None:
            self.progress.advance(self.task)
        return found

    def start(self, spec: Spec) -> Steps:
        given, result = self.folder / "spec.json", self.folder / "result.json"
        given.write_text(json.dumps(asdict(spec)))
        threads = {
            name: str(spec.threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        if not spec.gpu:
            quiet["CUDA_VISIBLE_DEVICES"] = ""
        python = [sys.executable]
        if spec.processes > 1:
            several = ["--standalone", f"--nproc-per-node={spec.processes}"]
            python += ["-m", "torch.distributed.run", *several]
        ended = subprocess.run(
            [*python, str(HERE / "_engine_sides.py"), str(given), str(result)],
            env=os.environ | threads | quiet,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            sys.exit(f"{spec.side} failed on {spec.folder}:\n{ended.stderr[-4000:]}")
        for side in ("trl", "ours"):  # checkpoints of many runs would fill a disk
            shutil.rmtree(Path(spec.folder) / side, ignore_errors=True)
        return Steps(**json.loads(result.read_text()))


def compare(bench: Bench, comparison: Comparison, repeats: int, gpu: bool = False) -> None:
    """Both sides in turn, `repeats` times, swapping who goes first."""
    for repeat in range(repeats):
        for side in ("trl", "ours") if repeat % 2 == 0 else ("ours", "trl"):
            run = bench.run(
                side,
                comparison.setting,
                comparison.name,
                repeat,
                gpu=gpu,
                precision=comparison.precision,
                dtype=comparison.dtype,
                accumulation=comparison.accumulation,
            )
            getattr(comparison, side).append(run)


def levers_of(setting: Setting) -> dict[str, list[str]]:
    """What is switched off in a setting: C is there for its vocabulary."""
    return {"fused head: off": LEVERS["fused head: off"]} if setting.name == "C" else LEVERS


def levers(bench: Bench, setting: Setting, repeats: int) -> dict[str, dict[str, float]]:
    """Each lever off in turn against all on, neighbouring runs; ratios to all on.

    For the skipping of silent groups the reward is one that leaves half of them silent.
    """
    chosen = levers_of(setting)
    runs: dict[str, list[tuple[Steps, Steps]]] = {}
    for repeat in range(repeats):
        alone = bench.run("ours", setting, "levers: all on", repeat)
        for name, overrides in chosen.items():
            off = bench.run("ours", setting, name, repeat, overrides=overrides)
            runs.setdefault(name, []).append((off, alone))
        if chosen is not LEVERS:
            continue
        silent = {"reward": "half_silent"}
        on = bench.run("ours", setting, "half the groups silent", repeat, **silent)
        off = bench.run("ours", setting, "skip silent: off", repeat, overrides=[SKIP_OFF], **silent)
        runs.setdefault("skip silent: off (half the groups silent)", []).append((off, on))
    found = {}
    for name, pairs in runs.items():
        found[name] = {
            figure: statistics.median(
                off.medians()[figure] / on.medians()[figure] for off, on in pairs
            )
            for figure in ("total", "generate", "update", "peak")
        }
        found[name]["seconds"] = statistics.median(off.medians()["total"] for off, _ in pairs)
        found[name]["peak_mb"] = statistics.median(off.peak for off, _ in pairs)
    return found


def machine(threads: int, gpu: bool) -> dict[str, Any]:
    """Where and with what it was measured."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    found: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trl", "accelerate")},
    }
    if gpu:
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


# --- the command ------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["A", "B", "C"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    parser.add_argument("--quick", action="store_true", help="one repeat of few steps: a look")
    parser.add_argument("--no-levers", action="store_true", help="only the comparison with TRL")
    parser.add_argument("--no-peer", action="store_true", help="only the levers")
    parser.add_argument("--ours", nargs="*", default=[], metavar="KEY=VALUE", help="our config")
    parser.add_argument("--gpu", action="store_true", help="a 0.5B-size model on a GPU")
    group = parser.add_argument_group("with --gpu")
    group.add_argument("--prompts", type=int, default=GPU.prompts)
    group.add_argument("--prompt-tokens", type=int, default=GPU.prompt)
    group.add_argument("--completion-tokens", type=int, default=GPU.completion)
    group.add_argument("--accumulation", type=int, default=8, help="parts of a step, for TRL")
    group.add_argument("--peak-tflops", type=float, help="of the card, dense bfloat16")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    console = Console(width=None if sys.stdout.isatty() else 120)
    about = machine(arguments.threads, arguments.gpu)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    if about["load"] > 0.5:
        console.print(f"[yellow]the machine is not idle: load {about['load']:.1f}")
    repeats = 1 if arguments.quick else arguments.repeats
    steps = {"trl": 2, "ours": 4} if arguments.quick else {"trl": 4, "ours": 12}
    with (
        tempfile.TemporaryDirectory(prefix="grpo-engine-") as folder,
        Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as progress,
    ):
        bench = Bench(Path(folder), arguments.threads, 1, steps, arguments.ours, progress)
        if arguments.gpu:
            return gpu_main(arguments, bench, console, about, repeats)
        return cpu_main(arguments, bench, console, about, repeats)


def cpu_main(
    arguments: argparse.Namespace,
    bench: Bench,
    console: Console,
    about: dict[str, Any],
    repeats: int,
) -> int:
    done = [] if arguments.no_peer else comparisons(arguments.settings)
    switched = (
        [] if arguments.no_levers else [n for n in arguments.settings if n in ("A", "C", "S")]
    )
    chosen = [levers_of(SETTINGS[name]) for name in switched]
    alone = sum(3 if levers is LEVERS else 1 for levers in chosen)
    runs = repeats * (2 * len(done) + sum(map(len, chosen)) + alone)
    assert bench.progress is not None
    bench.task = bench.progress.add_task("", total=runs, what="building models")
    for name in arguments.settings:
        bench.build(SETTINGS[name])
    for comparison in done:
        compare(bench, comparison, repeats)
    bench.steps = bench.steps | {"ours": max(4, bench.steps["ours"] // 2)}
    found = {name: levers(bench, SETTINGS[name], repeats) for name in switched}
    if done:
        console.print(comparison_table(done, bench.parameters))
        said = {(c.name, note) for c in done for run in c.ours for note in run.notes}
        for name, note in sorted(said):
            if not note.startswith("step "):  # waits are those of this machine
                console.print(f"{name}: {note}", highlight=False)
        workers = max(run.workers for c in done for run in c.ours)
        console.print(
            f"Our reward workers held {workers:.0f} MB besides; TRL runs rewards inside. "
            f"Medians of {repeats} runs a side.",
            highlight=False,
        )
    for name, ratios in found.items():
        console.print(lever_table(SETTINGS[name], ratios))
    for comparison in done:
        for warning in comparison.warnings():
            console.print(f"[yellow]{warning}", highlight=False)
    missed = [] if arguments.quick else [text for c in done for text in c.missed()]
    for text in missed:
        console.print(f"[red]bar missed:[/] {text}", highlight=False)
    if arguments.json:
        write(
            arguments.json,
            {
                "machine": about,
                "repeats": repeats,
                "parameters": bench.parameters,
                "comparisons": [as_json(comparison) for comparison in done],
                "levers": found,
            },
        )
    return 1 if missed else 0


def gpu_main(
    arguments: argparse.Namespace,
    bench: Bench,
    console: Console,
    about: dict[str, Any],
    repeats: int,
) -> int:
    setting = replace(
        GPU,
        prompts=arguments.prompts,
        prompt=arguments.prompt_tokens,
        completion=arguments.completion_tokens,
        mean_length=arguments.completion_tokens / 2,
    )
    peak = arguments.peak_tflops or next(
        (tflops for card, tflops in PEAK_TFLOPS.items() if card in about["gpu"]), None
    )
    if peak is None:
        sys.exit(f"the peak of {about['gpu']} is not known here: give --peak-tflops")
    repeats = min(2, repeats)
    bench.steps = {"trl": 2, "ours": 4}
    cases = {"bf16 weights": "bfloat16", "bf16 autocast": "float32"}
    done = [
        Comparison(name, setting, (), "bfloat16", arguments.accumulation, dtype)
        for name, dtype in cases.items()
    ]
    assert bench.progress is not None
    bench.task = bench.progress.add_task("", total=2 * repeats * len(done), what="building models")
    bench.build(setting)
    for comparison in done:
        compare(bench, comparison, repeats, gpu=True)
        # a lease may end early: what there is, is shown and written
        table, results = on_gpu(done[: done.index(comparison) + 1], bench.parameters, peak)
        target = arguments.json or HERE / "results" / "engine-gpu.json"
        found = {"machine": about, "peak_tflops": peak, "setting": asdict(setting)}
        write(target, found | {"parameters": bench.parameters, "results": results})
    console.print(table)
    for comparison in done:
        for warning in comparison.warnings():
            console.print(f"[yellow]{warning}", highlight=False)
    console.print(f"{peak:g} TFLOP/s dense bfloat16; written to {target}", highlight=False)
    return 0


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
