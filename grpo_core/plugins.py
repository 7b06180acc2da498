"""Finding, blocking and listing plugins; a broken one is recorded, never fatal.

A plugin is found by entry point (group `grpo_core`), or by path where
`GRPO_PLUGIN_PATHS` names it. A reward can also be named as `path/to/file.py:name`
or `module:name`. Left out: judging samples (`scoring`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, cast

import pluggy

from grpo_core import hookspecs
from grpo_core.rewards import Reward, reward_from_function

GROUP = "grpo_core"
_FILE_MODULE = "grpo_core_file_"


class PluginError(Exception):
    """A reward cannot be had: unknown, ambiguous, or its plugin is broken or blocked."""


class Source(NamedTuple):
    """Where a reward class comes from, so that a worker process can rebuild it.

    `module` is an importable module or the path of a `.py` file; `kind` says
    whether `name` is what its plugin hook registered or an attribute of it.
    """

    kind: Literal["plugin", "attribute"]
    module: str
    name: str


@dataclass
class PluginRecord:
    """One plugin as `grpo plugins` lists it; `others` names what it registers beside rewards."""

    name: str
    distribution: str
    version: str
    entry_point: str
    status: Literal["ok", "broken", "blocked"] = "ok"
    reason: str = ""
    rewards: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)

    def label(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version} ({self.entry_point})"


@dataclass(frozen=True)
class RewardEntry:
    """A reward that can be made: call it with options to get one."""

    name: str
    cls: type[Reward]
    source: Source
    plugin: PluginRecord | None = None

    def __call__(self, **options: Any) -> Reward:
        """Raises pydantic.ValidationError on an unknown or mistyped option."""
        reward = self.cls(**options)
        reward.source = self.source
        return reward


T = TypeVar("T")


class Registry(Mapping[str, T]):
    """What plugins registered under one hook, by name and always by `distribution/name`.

    A bare name that two plugins registered raises PluginError, which lists both;
    so does a name that is not there, saying why.
    """

    def __init__(self, kind: str, records: Sequence[PluginRecord]) -> None:
        self._kind, self._records = kind, records
        self._by_name: dict[str, list[tuple[PluginRecord, T]]] = {}

    def add(self, name: str, record: PluginRecord, value: T) -> None:
        self._by_name.setdefault(name, []).append((record, value))

    def __getitem__(self, name: str) -> T:
        found = self._found(name)
        if len(found) == 1:
            return found[0][1]
        bare = name.rpartition("/")[2]
        if found:
            full = ", ".join(f"{record.distribution}/{bare}" for record, _ in found)
            raise PluginError(
                f"{self._kind} {name!r} is registered more than once; use one of {full}"
            )
        raise PluginError(self._why_missing(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(self._found(name)) > 0

    def _found(self, name: str) -> list[tuple[PluginRecord, T]]:
        distribution, _, bare = name.rpartition("/")
        return [
            (record, value)
            for record, value in self._by_name.get(bare, [])
            if not distribution or record.distribution == distribution
        ]

    def _why_missing(self, name: str) -> str:
        distribution, _, bare = name.rpartition("/")
        for record in self._records:
            if record.status != "ok" and (
                bare == record.name or distribution == record.distribution
            ):
                return f"{self._kind} {name!r} cannot be used: {record.label()} is {record.status}: {record.reason}"
        message = f"no plugin registers a {self._kind} {name!r}"
        if near := difflib.get_close_matches(bare, list(self._by_name), n=1):
            return f"{message}; did you mean {near[0]!r}?"
        return f"{message} (registered: {', '.join(sorted(self._by_name)) or 'none'})"


class Host:
    """What `load_plugins` found: `plugins`, a record each, and by name their `rewards`,
    `data` loaders, `objectives`, `rollouts` and `commands`."""

    def __init__(self) -> None:
        self.plugins: list[PluginRecord] = []
        self.rewards: Registry[RewardEntry] = Registry("reward", self.plugins)
        self.data: Registry[Callable[..., Any]] = Registry("data loader", self.plugins)
        self.objectives: Registry[Callable[..., Any]] = Registry("objective", self.plugins)
        self.rollouts: Registry[Callable[..., Any]] = Registry("rollout backend", self.plugins)
        self.commands: Registry[Callable[..., Any]] = Registry("command", self.plugins)
        self._observers: dict[str, list[tuple[PluginRecord, Callable[..., Any]]]] = {}
        self._reported: set[int] = set()

    def reward(self, use: str, base_dir: Path | None = None) -> RewardEntry:
        """The reward a config names: registered, `distribution/name`,
        `file.py:name` (relative to `base_dir`) or `module:name`.

        Raises PluginError when there is none, saying why.
        """
        if ":" not in use:
            return self.rewards[use]
        module, _, name = use.rpartition(":")
        if module.endswith(".py"):
            module = str(((base_dir or Path.cwd()) / module).resolve())
        source = Source("attribute", module, name)
        return RewardEntry(name, resolve(source), source)

    def notify(self, hook: str, **arguments: Any) -> list[str]:
        """Call an observer hook of every plugin. One that raises is not called again;
        returns a line for each that did so now."""
        failed = []
        for record, function in self._observers.get(hook, []):
            if id(function) in self._reported:
                continue
            try:
                function(**arguments)
            except (Exception, SystemExit) as error:  # an observer must never stop training
                self._reported.add(id(function))
                failed.append(
                    f"{record.label()}: {hook} raised {type(error).__name__}: "
                    f"{_one_line(error)}; it is not called again"
                )
        return failed

    def _load(self, load: Callable[[], Any], record: PluginRecord) -> None:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                module, found = _registered(load)
        except PluginError as error:
            record.status, record.reason = "broken", str(error)
            return
        if text := " ".join(printed.getvalue().split()):
            record.reason = f"prints when imported: {text[:100]}"
        for name, cls in found.things["rewards"].items():
            record.rewards.append(name)
            entry = RewardEntry(name, cls, Source("plugin", module, name), record)
            self.rewards.add(name, record, entry)
        for kind in ("data", "objectives", "rollouts", "commands"):
            for name, value in found.things[kind].items():
                record.others.setdefault(kind, []).append(name)
                getattr(self, kind).add(name, record, value)
        for hook, function in found.observers.items():
            record.others.setdefault("observers", []).append(hook)
            self._observers.setdefault(hook, []).append((record, function))


PATHS = "GRPO_PLUGIN_PATHS"
"""Environment variable with files and folders of plugins that are not installed
(`grpo --plugin` adds to it), separated as in PATH."""


def load_plugins(only: Collection[str] | None = None, block: Collection[str] = ()) -> Host:
    """Find every installed plugin; a broken one is recorded with its reason.

    `only` loads just the plugins so named, `block` leaves some out; the
    environment variables GRPO_PLUGINS and GRPO_BLOCK (comma-separated) do the same.
    """
    if only is None and (names := os.environ.get("GRPO_PLUGINS")) is not None:
        only = _split(names)
    block = {*block, *_split(os.environ.get("GRPO_BLOCK", ""))}
    host = Host()
    for record, load in [*_installed(), *_in_paths()]:
        if record.name in block:
            record.status, record.reason = "blocked", "blocked by GRPO_BLOCK or plugins.block"
        elif only is not None and record.name not in only:
            record.status, record.reason = "blocked", "not named in GRPO_PLUGINS"
        else:
            host._load(load, record)
        host.plugins.append(record)
    return host


Found = tuple[PluginRecord, Callable[[], Any]]


def _installed() -> Iterator[Found]:
    for entry_point in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        dist = entry_point.dist
        name, version = (dist.name, dist.version) if dist else ("?", "?")
        yield PluginRecord(entry_point.name, name, version, entry_point.value), entry_point.load


def _in_paths() -> Iterator[Found]:
    """Plugins named by path: a file, or a folder whose files (not starting with _) are plugins."""
    for text in filter(None, os.environ.get(PATHS, "").split(os.pathsep)):
        path = Path(text).resolve()
        files = sorted(path.glob("[!_]*.py")) if path.is_dir() else [path]
        for file in files:
            record = PluginRecord(file.stem, file.stem, "file", str(file))
            yield record, functools.partial(_import_file, file)


def resolve(source: Source) -> type[Reward]:
    """The reward class a source names. Raises PluginError when it cannot be had."""

    def load() -> ModuleType:
        if source.module.endswith(".py"):
            return _import_file(Path(source.module))
        return importlib.import_module(source.module)

    if source.kind == "plugin":
        classes = _registered(load)[1].things["rewards"]
        if source.name not in classes:
            raise PluginError(f"{source.module} registers no reward {source.name!r}")
        return cast(type[Reward], classes[source.name])
    with contextlib.redirect_stdout(sys.stderr):  # ours may be read by a program
        module = _guarded(load, f"{source.module} cannot be imported")
    target: Any = module
    for part in source.name.split("."):
        if not hasattr(target, part):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            near = difflib.get_close_matches(part, public, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PluginError(f"{source.module} has no {source.name!r}{hint}")
        target = getattr(target, part)
    return _reward_class(target, source.name)


class _Registered(NamedTuple):
    """What one plugin registers, by hook and name, and its observers by hook."""

    things: dict[str, dict[str, Any]]
    observers: dict[str, Callable[..., Any]]


def _registered(load: Callable[[], Any]) -> tuple[str, _Registered]:
    """Import one plugin and collect what it registers, all of it or nothing;
    returns where a worker can import it again, too."""
    plugin = _guarded(load, "cannot be imported")
    _check_api(getattr(plugin, "grpo_core_api", hookspecs.API_VERSION))
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"wrong hook: {_one_line(error)}") from error
    found = _Registered({}, {})
    for kind in ("rewards", "data", "objectives", "rollouts", "commands"):
        things = found.things.setdefault(kind, {})
        for hook in getattr(manager.hook, f"register_{kind}").get_hookimpls():
            register = functools.partial(_add, things, kind)
            arguments = [register for _ in hook.argnames]
            _guarded(functools.partial(hook.function, *arguments), f"register_{kind} raised")
    for name in ("on_samples", "on_step"):
        caller = getattr(manager.hook, name)
        if caller.get_hookimpls():
            found.observers[name] = caller
    return _address(plugin), found


def _add(things: dict[str, Any], kind: str, name: str, value: Any) -> None:
    what = kind.removesuffix("s")
    if name in things:
        raise PluginError(f"registers the {what} {name!r} twice")
    if kind == "rewards":
        value = _reward_class(value, name)
    elif not callable(value):
        raise PluginError(f"{what} {name!r} is a {type(value).__name__}, not a function")
    things[name] = value


def _check_api(api: object) -> None:
    ours = hookspecs.API_VERSION
    if not isinstance(api, int):
        raise PluginError(f"states grpo_core_api = {api!r}; it must be a whole number")
    if api != ours:
        remedy = "upgrade grpo-core" if api > ours else "upgrade the plugin"
        raise PluginError(f"written for plugin API {api}, this grpo-core speaks {ours}: {remedy}")


def _address(plugin: Any) -> str:
    """The plugin's module name, or its file where it was loaded from one."""
    name = getattr(plugin, "__name__", type(plugin).__name__)
    if name.startswith(_FILE_MODULE):
        return str(plugin.__file__)
    return str(name)


def _guarded(load: Callable[[], Any], what: str) -> Any:
    """Run third-party code that may do anything, `sys.exit` included."""
    try:
        return load()
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{what}: {type(error).__name__}: {_one_line(error)}") from error


def _reward_class(target: Any, name: str) -> type[Reward]:
    if inspect.isclass(target):
        if issubclass(target, Reward):
            return target
        raise PluginError(f"{name!r} is a class that is no grpo_core.Reward")
    if callable(target):
        try:
            return reward_from_function(target)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{name!r} cannot serve as a reward: {error}") from error
    raise PluginError(f"{name!r} is a {type(target).__name__}, neither a Reward nor a function")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"there is no file {path}")
    name = f"{_FILE_MODULE}{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # so that it can import the files beside it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"


def _split(names: str) -> set[str]:
    return {name.strip() for name in names.split(",") if name.strip()}
