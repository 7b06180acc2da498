"""`grpo plugins`: what is installed, what is broken and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the reward plugins found, with distribution, version and rewards."""
    from grpo_core.plugins import load_plugins

    host = load_plugins()
    if as_json:
        typer.echo(json.dumps({"plugins": [asdict(record) for record in host.plugins]}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    if not host.plugins:
        typer.echo("No plugins are installed. First ones: pip install 'grpo-core[rewards]'")
        return
    table = Table(box=None, header_style="bold")
    for column in ("plugin", "distribution", "version", "status", "rewards"):
        table.add_column(column, overflow="fold")
    for record in host.plugins:
        colour = {"ok": "green", "broken": "red", "blocked": "yellow"}[record.status]
        table.add_row(
            record.name,
            record.distribution,
            record.version,
            f"[{colour}]{record.status}[/]",
            ", ".join(record.rewards),
        )
    console = Console()
    console.print(table)
    for record in host.plugins:
        if record.reason:
            console.print(
                f"{record.name} ({record.entry_point}): {record.reason}", markup=False, style="dim"
            )
