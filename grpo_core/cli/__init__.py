"""The command `grpo`: one module a command, each imported when it is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import grpo_core

app = typer.Typer(
    name="grpo",
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


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a mistake in a config or a plugin is one line and exit code 2."""
    from grpo_core.errors import ConfigError
    from grpo_core.plugins import PluginError

    try:
        app()
    except (ConfigError, PluginError) as error:
        print(f"grpo: {error}", file=sys.stderr)
        sys.exit(2)


from grpo_core.cli import plot, plugins, score, train  # noqa: E402  (they need nothing from here)

app.command("train")(train.train)
app.command("score")(score.score)
app.command("plugins")(plugins.plugins)
app.command("plot")(plot.plot)
