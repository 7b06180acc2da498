"""Write the parts of the documentation that the code knows best: `docs/config.md`.

    python docs/generate.py

A test holds the file against this. Left out: prose.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from grpo_core import config, rubric

HEADER = """# Every key of a config

A config is YAML. Any value can be overridden on the command line
(`grpo train config.yaml train.steps=10 rubric.rewards.0.weight=2`). Relative paths start from
the config file, `train.output_dir` from where you are. This page is written by
`python docs/generate.py` from `grpo_core/config.py` and `grpo_core/rubric.py`.
"""


def type_name(annotation: Any) -> str:
    """A type as a person writing YAML thinks of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " \\| ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    if origin is tuple:
        return "list of " + ", ".join(type_name(a) for a in arguments)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, "mapping" if inspect.isclass(annotation) else "any")


def default_of(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None or isinstance(field.default, BaseModel):
        return "none" if field.default is None else "its defaults"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default}`"


def section(title: str, model: type[BaseModel]) -> str:
    intro = " ".join((model.__doc__ or "").split())
    lines = [
        f"## `{title}`\n",
        f"{intro}\n",
        "| key | type | default | |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in model.model_fields.items():
        text = " ".join((field.description or "").split())
        kind = type_name(field.annotation)
        if name.startswith("on_"):
            kind = "`exclude` \\| `abstain` \\| `raise` \\| number"
        lines.append(f"| `{field.alias or name}` | {kind} | {default_of(field)} | {text} |")
    return "\n".join(lines) + "\n"


def config_page() -> str:
    sections = [
        ("model", config.ModelConfig),
        ("model.lora", config.LoraConfig),
        ("data", config.DataConfig),
        ("rubric", rubric.RubricConfig),
        ("rubric.rewards.N", rubric.RewardConfig),
        ("rubric.tags", rubric.TagsConfig),
        ("grpo", config.GrpoConfig),
        ("rollout", config.RolloutConfig),
        ("rollout.correction", config.CorrectionConfig),
        ("train", config.TrainConfig),
        ("engine", config.EngineConfig),
        ("eval", config.EvalConfig),
        ("scoring", config.ScoringConfig),
        ("plugins", config.PluginsConfig),
    ]
    name = f"`name`: {config.Config.model_fields['name'].description}\n"
    return "\n".join([HEADER, name, *(section(title, model) for title, model in sections)])


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(config_page())
    sys.stdout.write("docs/config.md\n")
