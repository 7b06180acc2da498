"""`grpo train`: check everything that can be checked without torch, then run the trainer.

What the terminal shows of a run is here; what is written to disk is `metrics`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grpo_core.config import Config
    from grpo_core.data import Row
    from grpo_core.metrics import RunFolder
    from grpo_core.plugins import Host
    from grpo_core.rubric import Rubric

NEEDS = ("torch", "transformers", "accelerate", "datasets", "jaxtyping")
FIXED = ("model.name", "model.lora.rank", "model.lora.alpha", "model.lora.targets")
"""Settings without which a checkpoint does not fit."""


@dataclass
class Job:
    """A checked config with everything it names, ready to run."""

    config: Config
    base_dir: Path
    host: Host
    rubric: Rubric
    rows: list[Row]
    eval_rows: list[Row]


def train(
    config: Annotated[Path, typer.Argument(help="The config, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in train.steps=10.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = False,
) -> None:
    """Train a policy by GRPO; writes metrics, samples and checkpoints to runs/NAME."""

    job = prepare(config, overrides or [])
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"grpo: training needs {', '.join(missing)}: pip install 'grpo-core[train]'",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    import transformers
    from rich.console import Console

    from grpo_core import distributed
    from grpo_core.errors import ConfigError, RolloutError
    from grpo_core.plugins import PATHS
    from grpo_core.rubric import ScoringError
    from grpo_core.stopping import Interrupted, TrainingStopped
    from grpo_core.trainer import Trainer

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = Console(stderr=True, highlight=False)
    say = functools.partial(console.print, markup=False, soft_wrap=True)
    world = distributed.launched()
    if world > job.config.train.prompts_per_step:
        raise ConfigError(
            f"a group is never split, so {world} processes need as many prompts a step, and it is "
            f"{job.config.train.prompts_per_step}",
            ("train", "prompts_per_step"),
            str(config),
        )
    plugins = [
        word
        for path in filter(None, os.environ.get(PATHS, "").split(os.pathsep))
        for word in ("--plugin", path)
    ]
    again = shlex.join(["grpo", *plugins, "train", str(config), *(overrides or ()), "--resume"])
    deadline = max(term.deadline_s for term in job.rubric.terms)
    stall = job.config.train.stall_s or (300.0 if job.config.train.compile else 40.0)
    try:
        run = _run_folder(job, config, say)
        with distributed.join(stall + 2 * deadline) as ranks, contextlib.ExitStack() as held:
            if ranks.main:
                held.enter_context(run.claimed())
            # rank 0 makes the folder, and only then do the others look
            found = _start(job, run, resume, say) if ranks.main else None
            found = ranks.gather(found)[0]
            with Display(console, job.config.train.steps, hidden=not ranks.main) as display:
                summary = Trainer(
                    job.config,
                    job.base_dir,
                    job.rubric,
                    job.rows,
                    job.eval_rows,
                    run,
                    display,
                    job.host,
                    resume=found,
                    ranks=ranks,
                ).train()
    except Interrupted as stopped:
        if ranks.main:
            say(f"{stopped}. Go on with: {again}")
        raise typer.Exit(128 + stopped.signal) from None
    except (TrainingStopped, ScoringError, RolloutError) as stopped:
        if ranks.main or not isinstance(stopped, TrainingStopped):  # that, all have
            console.print("[bold red]stopped[/]:", end=" ")
            say(str(stopped))
        raise typer.Exit(1) from None
    if ranks.main:
        show_summary(summary, run)


def _run_folder(job: Job, path: Path, say: Callable[[str], None]) -> RunFolder:
    from grpo_core.metrics import RunFolder

    output = job.config.train.output_dir
    return RunFolder(Path(output) if output else Path("runs") / (job.config.name or path.stem), say)


def _start(job: Job, run: RunFolder, resume: bool, say: Callable[[str], None]) -> Path | None:
    """Make the run's folder, or take it up again; the checkpoint to go on from."""
    from grpo_core import checkpoint
    from grpo_core.errors import ConfigError

    found = None
    if resume:
        if not run.path.is_dir():
            raise ConfigError(f"nothing to resume: there is no run in {run.path}")
        _compare_config(job.config, run, say)
        found = checkpoint.latest(run.checkpoints_path, say)
    if found is not None:
        run.rewind(checkpoint.read_state(found)["step"])
        say(f"resuming from {found}")
    else:
        aside = run.start()
        if resume:
            say("the run had no checkpoint yet; starting from the first step")
        if aside is not None:
            say(f"{run.path} held a run; it is now {aside}")
    _write_config(job.config, run)
    return found.resolve() if found else None


def prepare(path: Path, overrides: Sequence[str]) -> Job:
    """Read and check a config and all that it names, without torch.

    Raises ConfigError with file and key path on the first mistake.
    """
    from grpo_core import config as configs
    from grpo_core.data import PromptTemplate, common_columns, read_rows
    from grpo_core.errors import ConfigError, nearest
    from grpo_core.plugins import PluginError

    config = configs.load(path, overrides)
    base_dir = path.resolve().parent
    _check_model(config, base_dir, path)
    host = configs.host_for(config.plugins)
    rubric = configs.rubric_of(config, path, host)

    def registered(registry: Any, name: str | None, *key: str) -> Any:
        try:
            return registry[name] if name is not None else None
        except PluginError as error:
            raise ConfigError(str(error), key, str(path)) from None

    def rows_of(section: str, chosen: Any) -> list[Row]:
        try:
            rows = read_rows(
                chosen.path,
                base_dir,
                split=chosen.split,
                subset=chosen.subset,
                limit=chosen.limit,
                load=registered(host.data, chosen.loader, section, "loader"),
            )
            columns = common_columns(rows)
            PromptTemplate(chosen.prompt or config.data.prompt).check(columns)
        except ConfigError as error:
            raise error.within(section, file=str(path)) from None
        try:
            rubric.check_columns(columns)
        except ConfigError as error:
            raise error.within("rubric", file=f"{path} with {section}.path {chosen.path}") from None
        return rows

    rows = rows_of("data", config.data)
    eval_rows: list[Row] = []
    if config.eval is not None:
        eval_rows = rows_of("eval", config.eval)
        if config.eval.pass_ is not None and config.eval.pass_ not in rubric.names:
            raise ConfigError(
                f"no reward is called {config.eval.pass_!r}"
                f"{nearest(config.eval.pass_, rubric.names)}",
                ("eval", "pass"),
                str(path),
            )
    objective = config.grpo.objective
    if objective not in (*configs.OBJECTIVES, *host.objectives):
        known = (*configs.OBJECTIVES, *host.objectives)
        raise ConfigError(
            f"there is no objective {objective!r}{nearest(objective, known)}",
            ("grpo", "objective"),
            str(path),
        )
    if config.rollout.backend not in configs.BACKENDS:
        registered(host.rollouts, config.rollout.backend, "rollout", "backend")
    needed: list[tuple[str, str, tuple[str | int, ...]]] = [
        (tracker, tracker, ("train", "trackers", i))
        for i, tracker in enumerate(config.train.trackers)
    ]
    if config.scoring.executor == "ray":
        needed.append(("ray", "ray", ("scoring", "executor")))
    if config.model.lora:
        needed.append(("peft", "lora", ("model", "lora")))
    if config.rollout.backend == "vllm":
        needed.append(("httpx2", "vllm", ("rollout", "backend")))
    for module, extra, key in needed:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{module} is not installed: pip install 'grpo-core[{extra}]'", key, str(path)
            )
    return Job(config, base_dir, host, rubric, rows, eval_rows)


def _check_model(config: Config, base_dir: Path, path: Path) -> None:
    from grpo_core.errors import ConfigError

    name = config.model.name
    local = base_dir / name
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ConfigError(
                f"{local} holds no model (no config.json)", ("model", "name"), str(path)
            )
    elif name.startswith((".", "/")) or name.count("/") > 1:
        raise ConfigError(f"there is no directory {local}", ("model", "name"), str(path))


def _write_config(config: Config, run: RunFolder) -> None:
    import yaml

    run.write_config(yaml.safe_dump(_resolved(config), sort_keys=False))


def _resolved(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


def _compare_config(config: Config, run: RunFolder, say: Callable[[str], None]) -> None:
    """Say which settings are not those that the run was last started with.

    Raises ConfigError when it was of another model.
    """
    import yaml

    from grpo_core.config import flat
    from grpo_core.errors import ConfigError

    before, now = flat(yaml.safe_load(run.read_config()) or {}), flat(_resolved(config))
    for key in FIXED if before else ():
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key} was {before.get(key, 'not set')} in {run.path} and is "
                f"{now.get(key, 'not set')} here: its checkpoints are of another model. Start "
                "without --resume, or under another name",
                ("model",),
            )
    changed = [
        key
        for key in now
        if key in before and before[key] != now[key] and key != "train.output_dir"
    ]
    if changed:
        listed = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in changed)
        say(f"resuming with other settings than before: {listed}")


class Display:
    """A progress bar with what matters; plain lines where the output is no terminal."""

    def __init__(self, console: Any, steps: int, hidden: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console, self.steps = console, steps
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[phase]}"),
            console=console,
            disable=hidden or not console.is_terminal,
        )
        self.task = self.progress.add_task("train", total=steps, figures="", phase="loading")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def phase(self, what: str, step: int) -> None:
        self.progress.update(self.task, phase=what)
        if not self.console.is_terminal and what.startswith("evaluating"):
            self.say(f"step {step}: {what}")

    def step(self, line: dict[str, Any]) -> None:
        figures = f"reward {_figure(line['reward'])}  length {line['completions/mean_length']:.0f}"
        if line["kl"] is not None:
            figures += f"  kl {line['kl']:.4f}"
        if "eval/pass@1" in line:
            figures += f"  pass@1 {line['eval/pass@1']:.3f}"
        self.progress.update(self.task, completed=line["step"], figures=figures)
        if not self.console.is_terminal and (line["step"] % 10 == 0 or line["step"] == self.steps):
            self.say(f"step {line['step']}/{self.steps}  {figures}  {line['step_time']:.2f} s")

    def say(self, text: str) -> None:
        """A line. A log that goes to a full disk, or to nobody any more, ends no run."""
        with contextlib.suppress(OSError):
            self.console.print(text, markup=False, soft_wrap=True)


def show_summary(summary: dict[str, Any], run: RunFolder) -> None:
    """The closing table: held-out figures before and after, outcomes, where things are."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    before, after = summary["before"], summary["after"]
    if before and after:  # `eval` may have come or gone with a resumed run
        table = Table(title=f"held-out data, n = {after['n']}", box=None, header_style="bold")
        for column in ("", "before", "after", "change"):
            table.add_column(column, justify="left" if not column else "right")
        labels = {"pass@1": "pass@1, sampled", "greedy_pass@1": "pass@1, greedy"}
        both = [key for key in before if key in after]
        for key in [k for k in both if k.endswith("pass@1")] + [
            k for k in both if k == "reward" or k.startswith(("rewards/", "completions/"))
        ]:
            table.add_row(
                labels.get(key, key),
                _with_interval(before, key),
                _with_interval(after, key),
                "" if None in (before[key], after[key]) else f"{after[key] - before[key]:+.3f}",
            )
        console.print(table)
    counts = {
        name: ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items() if number)
        for name, outcomes in summary["outcomes"].items()
    }
    for name, text in counts.items():
        console.print(f"{name}: {text}")
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["seconds"].items())
    console.print(f"time: {spent}")
    console.print(f"written to {run.path}: metrics.jsonl, samples/, checkpoints/, summary.json")


def _with_interval(figures: dict[str, Any], key: str) -> str:
    text = _figure(figures[key])
    if f"{key}_interval" in figures:
        low, high = figures[f"{key}_interval"]
        text += f" [{low:.3f}, {high:.3f}]"
    return text


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
