"""The command `grpo`: one module a command, each imported when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import grpo_core
from grpo_core.cli import check, doctor, new, plot, schema, score, show, train


class Commands(TyperGroup):
    """Our commands, then those that plugins register. Plugins are only looked through
    when a command is not ours, or for the list in `--help`."""

    def list_commands(self, ctx: Any) -> list[str]:
        from grpo_core.plugins import load_plugins

        return [*super().list_commands(ctx), *sorted(load_plugins().commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (ours := super().get_command(ctx, cmd_name)) is not None:
            return ours
        from grpo_core.plugins import load_plugins

        commands = load_plugins().commands
        if cmd_name not in commands:
            return None
        wrapper = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        wrapper.command(cmd_name)(commands[cmd_name])
        return typer.main.get_command(wrapper)


app = typer.Typer(
    name="grpo",
    cls=Commands,
    help="Train language models by GRPO from reward plugins, and judge completions with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"grpo-core {grpo_core.__version__}")
        raise typer.Exit


def _add_plugins(paths: list[Path] | None) -> None:
    from grpo_core.plugins import PATHS, PluginError

    for path in paths or []:
        if not path.exists():
            raise PluginError(f"--plugin: there is no {path}")
        known = os.environ.get(PATHS)
        os.environ[PATHS] = os.pathsep.join(filter(None, [known, str(path.resolve())]))


@app.callback()
def _root(
    plugin: Annotated[
        list[Path] | None,
        # eager: what it adds may be the very command that is called
        typer.Option(
            callback=_add_plugins,
            is_eager=True,
            help="A plugin's file, or a folder of them, that is not installed.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("score")(score.score)
app.add_typer(show.group, name="plugins")
app.command("plot")(plot.plot)
app.command("check")(check.check)
app.add_typer(new.group, name="new")
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point: a mistake in a config or a plugin is one line and exit code 2."""
    from grpo_core.errors import ConfigError
    from grpo_core.plugins import PluginError

    try:
        app()
    except (ConfigError, PluginError) as error:
        print(f"grpo: {error}", file=sys.stderr)
        sys.exit(2)
