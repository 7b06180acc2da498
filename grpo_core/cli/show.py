"""`grpo plugins show NAME`: what a reward judges, needs and takes, from the code itself."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from grpo_core.cli.plugins import plugins

if TYPE_CHECKING:
    from pydantic import BaseModel

    from grpo_core.plugins import Host, RewardEntry
    from grpo_core.rewards import Reward, Sample

group = typer.Typer(invoke_without_command=True, help="List plugins, or show one.")


@group.callback()
def _list(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the reward plugins found, with distribution, version and rewards; or show one."""
    if context.invoked_subcommand is None:
        plugins(as_json)


@group.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="A reward or a plugin; file.py:name and module:name too.")
    ],
) -> None:
    """Show what a reward judges, the columns it requires, its options, range and outcomes."""
    from grpo_core.plugins import load_plugins

    for number, lines in enumerate(_described(load_plugins(), name)):
        if number:
            typer.echo()
        for line in lines:
            typer.echo(line)


def _described(host: Host, name: str) -> Iterator[Iterable[str]]:
    """The reward so named, or all there is in the plugin or distribution so named."""
    from grpo_core.plugins import PluginError

    try:
        yield description(host.reward(name))
        return
    except PluginError:
        record = next((r for r in host.plugins if name in (r.name, r.distribution)), None)
        if record is None or record.status != "ok":
            raise
    yield [f"{record.label()}"] + [f"  {kind}: {', '.join(n)}" for kind, n in record.others.items()]
    for reward in record.rewards:
        yield description(host.rewards[f"{record.distribution}/{reward}"])


def description(entry: RewardEntry) -> Iterator[str]:
    """Everything there is to know of a reward, line by line."""
    from grpo_core.rewards import Outcome

    cls, plugin = entry.cls, entry.plugin
    home = f"{plugin.distribution} {plugin.version}" if plugin else entry.source.module
    yield f"{entry.name}, from {home}"
    yield ""
    text = inspect.getdoc(cls) if cls.__doc__ else None
    for line in (text or "It has no description.").splitlines():
        yield f"  {line}" if line else ""
    yield ""
    yield f"range       {cls.range[0]:g} to {cls.range[1]:g}"
    yield f"requires    {_requires(cls)}"
    judges = "a whole group at a time" if cls.scope == "group" else "one sample at a time"
    yield f"judges      {judges}; {_ISOLATION[cls.isolation]}"
    yield f"deadline    {cls.deadline_s:g} s a sample"
    same = "get equal scores" if cls.deterministic else "may get different scores"
    yield f"repeatable  equal samples {same}"
    policies = [
        f"{outcome.value}: {policy if isinstance(policy, str) else f'{policy:g}'}"
        for outcome in Outcome
        if outcome is not Outcome.scored
        for policy in (getattr(cls, f"on_{outcome.value}"),)
    ]
    yield f"outcomes    {', '.join(policies)}"
    yield ""
    yield from _options(cls.Options)
    yield ""
    yield from _usage(entry)


_ISOLATION = {
    "process": "in a worker process that is killed at the deadline",
    "inline": "in the calling process, where nothing can stop it",
    "async": "on an event loop, many at once",
}


def _requires(cls: type[Reward]) -> str:
    try:
        required = cls().requires
    except ValueError:  # an option without a default, on which the columns may depend
        return "depends on its options"
    return ", ".join(required) or "no column"


def _options(options: type[BaseModel]) -> Iterator[str]:
    if not options.model_fields:
        yield "options     none"
        return
    yield "options"
    said = _strings_under_fields(options)
    for name, field in options.model_fields.items():
        default = "required" if field.is_required() else f"= {_as_yaml(field.get_default())}"
        kind = ", ".join([type_name(field.annotation), *_bounds(field.metadata)])
        yield f"  {field.alias or name}: {kind} {default}"
        for line in textwrap.wrap(field.description or said.get(name, ""), 90):
            yield f"      {line}"


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for one in metadata:
        for name, text in words.items():
            if (bound := getattr(one, name, None)) is not None:
                yield f"{text} {bound:g}"


def type_name(annotation: Any) -> str:
    """A type as a person writing YAML thinks of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " | ".join("none" if a is type(None) else type_name(a) for a in arguments)
    if origin in (list, tuple, set, frozenset):
        of = [a for a in arguments if a is not Ellipsis]
        return f"list of {type_name(of[0])}" if of else "list"
    if origin is dict:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _strings_under_fields(model: type[BaseModel]) -> dict[str, str]:
    """What stands as a string under a field, in the class and those it comes from."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or no source at hand
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, after in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[field.target.id] = " ".join(after.value.value.split())
    return found


def _as_yaml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list, set, frozenset)):
        return "[" + ", ".join(map(_as_yaml, value)) + "]"
    if value == "":
        return '""'
    return str(value)


def _usage(entry: RewardEntry) -> Iterator[str]:
    """How a config names it, and what its own examples get."""
    required = [n for n, f in entry.cls.Options.model_fields.items() if f.is_required()]
    options = f", options: {{{', '.join(f'{n}: …' for n in required)}}}" if required else ""
    use = f'"{entry.source.module}:{entry.name}"' if entry.plugin is None else entry.name
    yield "example"
    yield f"  - {{use: {use}, weight: 1.0{options}}}"
    try:
        examples = getattr(entry(), "examples", ())
    except ValueError:  # as in _requires
        return
    for sample, value in examples:
        yield f"  {_example(sample)}"
        yield f"      gets {'no score: it abstains' if value is None else f'{value:g}'}"


def _example(sample: Sample) -> str:
    columns = "".join(f", {name}: {value!r}" for name, value in sample.columns.items())
    return f"{sample.completion!r} to {sample.prompt!r}{columns}"
