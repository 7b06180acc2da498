"""The state of a process that everybody in it shares, and what has changed of it."""

from __future__ import annotations

import decimal
import gc
import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Collection, Mapping
from typing import Any


def snapshot() -> dict[str, Any]:
    """Everything a reward must leave as it found it, comparable with ==."""
    umask = os.umask(0)
    os.umask(umask)
    context = decimal.getcontext()
    state: dict[str, Any] = {
        "working directory": _cwd(),
        "environment": dict(os.environ),
        "signal handlers": {
            signal.Signals(number).name: signal.getsignal(number)
            for number in signal.valid_signals()
            if number in signal.Signals.__members__.values()
        },
        "alarm": any(signal.getitimer(signal.ITIMER_REAL)),
        "locale": locale.setlocale(locale.LC_ALL),
        "random state": random.getstate(),
        "warnings filters": list(warnings.filters),
        "recursion limit": sys.getrecursionlimit(),
        "limit of digits of an int": sys.get_int_max_str_digits(),
        "decimal context": (context.prec, context.rounding, str(context.traps)),
        "umask": umask,
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "trace function": (sys.gettrace(), sys.getprofile()),
        "garbage collection": gc.isenabled(),
    }
    if (module := sys.modules.get("socket")) is not None:
        state["default socket timeout"] = module.getdefaulttimeout()
    if (module := sys.modules.get("resource")) is not None:
        kinds = [name for name in dir(module) if name.startswith("RLIMIT_")]
        state["resource limits"] = {name: module.getrlimit(getattr(module, name)) for name in kinds}
    if (module := sys.modules.get("numpy.random")) is not None and hasattr(module, "get_state"):
        kind, keys, *rest = module.get_state()
        state["numpy's random state"] = (kind, keys.tobytes(), *rest)
    if (module := sys.modules.get("torch.random")) is not None and hasattr(module, "get_rng_state"):
        state["torch's random state"] = module.get_rng_state().tolist()
    return state


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """One line for each thing that is not as it was. What a library that was imported
    meanwhile brought along has no before, and is left out."""
    return [
        f"{name}: {_difference(before[name], after[name])}"
        for name in after
        if name in before and name not in ignored and before[name] != after[name]
    ]


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [k for k in (*before, *(k for k in after if k not in before))]
        changed = [k for k in keys if before.get(k) != after.get(k)]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return (
            "; ".join(
                f"{key} was {_short(before.get(key))}, is {_short(after.get(key))}"
                for key in changed[:3]
            )
            + more
        )
    if isinstance(before, list):
        new = [item for item in after if item not in before]
        return f"new is {_short(new[0])}" if new else "fewer or in another order"
    was, now = repr(before), repr(after)
    return f"was {was}, is {now}" if len(was + now) < 200 else "changed"


def _short(value: Any) -> str:
    text = "not there" if value is None else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "(deleted)"
