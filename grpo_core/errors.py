"""Errors that end a command, and how a failed validation becomes one line a person can act on."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Key = Sequence[str | int]


class ConfigError(Exception):
    """A mistake in a config: `str()` is one line with file, key path and what was expected."""

    def __init__(self, message: str, key: Key = (), file: str = "") -> None:
        super().__init__(message)
        self.message, self.key, self.file = message, tuple(key), file

    def within(self, *prefix: str | int, file: str = "") -> ConfigError:
        """The same mistake, seen from an enclosing section or file."""
        return ConfigError(self.message, (*prefix, *self.key), file or self.file)

    def __str__(self) -> str:
        parts = [self.file, ".".join(map(str, self.key)), self.message]
        return ": ".join(part for part in parts if part)


class RolloutError(Exception):
    """Completions cannot be drawn any more; `str()` is one line that says why and what to do."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion to append: the nearest valid name, else the list of them."""
    valid = sorted(names)
    if near := difflib.get_close_matches(name, valid, n=1, cutoff=0.5):
        return f"; did you mean {near[0]!r}?"
    return f"; valid: {', '.join(valid)}" if valid else ""


_EXPECTED = {
    "float": "a number",
    "finite_number": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping",
    "model": "a mapping",
    "list": "a list",
    "tuple": "a list",
}


def from_validation(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """The first mistake pydantic found, in one line with a suggestion."""
    first = error.errors()[0]
    kind, key, given = first["type"], first["loc"], first.get("input")
    if kind == "extra_forbidden":
        fields = fields_at(model, key[:-1])
        return ConfigError(f"unknown key{nearest(str(key[-1]), fields)}", key)
    if kind == "missing":
        return ConfigError("is required and missing", key)
    if kind == "literal_error":
        choices = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return ConfigError(
            f"expected one of {', '.join(choices)}, got {given!r}{_near(given, choices)}", key
        )
    for prefix, expected in _EXPECTED.items():
        if kind.startswith(prefix) and not kind.endswith(("too_long", "too_short")):
            return ConfigError(f"expected {expected}, got {given!r}", key)
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{message}, got {given!r}", key)


def _near(given: object, choices: list[str]) -> str:
    near = difflib.get_close_matches(str(given), choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def fields_at(model: type[BaseModel], key: Key) -> list[str]:
    """The names of the fields valid at a key path, going through lists and optionals."""
    for part in key:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None
