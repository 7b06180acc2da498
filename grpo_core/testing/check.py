"""What a check is, and how one is run.

A check says what it does, yields a line for each fault it sees, and nothing when
all is well. The checks themselves are in `verdicts` and `conduct`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from grpo_core.plugins import PluginError
from grpo_core.testing.bench import CannotBuild
from grpo_core.testing.lab import Lab

SHOWN = 5
"""Faults a check reports; one is enough to fail."""


class Skip(Exception):
    """This check does not apply to this reward; says why."""


@dataclass(frozen=True)
class Check:
    name: str
    did: str
    why: str
    find: Callable[[Lab], Iterator[str]]


@dataclass(frozen=True)
class Result:
    """How a check ended. `saw` holds a line a fault, or why it was skipped or waived."""

    check: Check
    status: Literal["passed", "failed", "skipped", "waived"]
    saw: tuple[str, ...] = ()


def check(did: str, why: str) -> Callable[[Callable[[Lab], Iterator[str]]], Check]:
    """Make a function that finds faults a check, called like the function."""

    def wrap(find: Callable[[Lab], Iterator[str]]) -> Check:
        return Check(find.__name__, did, why, find)

    return wrap


def run_check(lab: Lab, one: Check, waived: Mapping[str, str]) -> Result:
    """Run one check. `waived` says why a check is not to be run."""
    if one.name in waived:
        return Result(one, "waived", (waived[one.name],))
    try:
        faults = tuple(islice(one.find(lab), SHOWN + 1))
    except Skip as skip:
        return Result(one, "skipped", (str(skip),))
    except (CannotBuild, PluginError) as error:
        if one.name == "rebuildable":
            return Result(one, "failed", (str(error),))
        return Result(one, "skipped", ("it cannot be rebuilt; see rebuildable",))
    if len(faults) > SHOWN:
        faults = (*faults[:SHOWN], "… and more")
    return Result(one, "failed" if faults else "passed", faults)
