"""`grpo schema`: the JSON Schema of a config, so that editors complete and check it."""

from __future__ import annotations

import json
from typing import Any

import typer


def schema() -> None:
    """Print the JSON Schema of a config, options of the installed rewards included."""
    typer.echo(json.dumps(config_schema(), indent=2))


def config_schema() -> dict[str, Any]:
    """The whole config's schema; each reward's options are checked by its `use`."""
    from grpo_core.config import Config
    from grpo_core.plugins import PluginError, load_plugins

    found = Config.model_json_schema(by_alias=True)
    reward = found["$defs"]["RewardConfig"]
    host = load_plugins()
    names, rules = [], []
    for name in host.rewards:
        try:
            options = host.rewards[name].cls.Options.model_json_schema()
        except PluginError:  # two plugins have it: only `distribution/name` is valid
            continue
        names.append(name)
        found["$defs"] |= options.pop("$defs", {})
        rules.append(
            {
                "if": {"properties": {"use": {"const": name}}},
                "then": {"properties": {"options": options}},
            }
        )
    reward["properties"]["use"] |= {"anyOf": [{"enum": names}, {"pattern": "[:/]"}]}
    reward["allOf"] = rules
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
