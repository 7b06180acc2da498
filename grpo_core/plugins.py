"""Finding, blocking and listing plugins; a broken one is recorded, never fatal.

A plugin is found by entry point (group `grpo_core`). A reward can also be named
as `path/to/file.py:name` or `module:name`. Left out: judging samples (`scoring`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import pluggy

from grpo_core import hookspecs
from grpo_core.rewards import Reward, reward_from_function

GROUP = "grpo_core"


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
    """One plugin as `grpo plugins` lists it."""

    name: str
    distribution: str
    version: str
    entry_point: str
    status: Literal["ok", "broken", "blocked"] = "ok"
    reason: str = ""
    rewards: list[str] = field(default_factory=list)

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


class Rewards(Mapping[str, RewardEntry]):
    """Registered rewards by name, and always by `distribution/name`.

    A bare name that two plugins registered raises PluginError, which lists both.
    """

    def __init__(self, records: list[PluginRecord]) -> None:
        self._records = records
        self._by_name: dict[str, list[RewardEntry]] = {}

    def add(self, entry: RewardEntry) -> None:
        self._by_name.setdefault(entry.name, []).append(entry)

    def __getitem__(self, name: str) -> RewardEntry:
        distribution, _, bare = name.rpartition("/")
        entries = [
            entry
            for entry in self._by_name.get(bare, [])
            if not distribution or (entry.plugin and entry.plugin.distribution == distribution)
        ]
        if len(entries) == 1:
            return entries[0]
        if entries:
            full = ", ".join(f"{e.plugin.distribution}/{bare}" for e in entries if e.plugin)
            raise PluginError(f"reward {name!r} is registered more than once; use one of {full}")
        raise PluginError(self._why_missing(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.rpartition("/")[2] in self._by_name

    def _why_missing(self, name: str) -> str:
        distribution, _, bare = name.rpartition("/")
        for record in self._records:
            if record.status != "ok" and (
                bare in (record.name, *record.rewards) or distribution == record.distribution
            ):
                return f"reward {name!r} cannot be used: {record.label()} is {record.status}: {record.reason}"
        message = f"no plugin registers a reward {name!r}"
        if near := difflib.get_close_matches(bare, list(self._by_name), n=1):
            return f"{message}; did you mean {near[0]!r}?"
        known = ", ".join(sorted(self._by_name)) or "none; pip install 'grpo-core[rewards]'"
        return f"{message} (registered: {known})"


class Host:
    """What `load_plugins` found: `plugins`, a record each, and `rewards` by name."""

    def __init__(self) -> None:
        self.plugins: list[PluginRecord] = []
        self.rewards = Rewards(self.plugins)
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)

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

    def _load(self, entry_point: EntryPoint, record: PluginRecord) -> None:
        try:
            plugin, classes = _registered(self._manager, entry_point.load, record.name)
        except PluginError as error:
            record.status, record.reason = "broken", str(error)
            return
        module = plugin.__name__ if isinstance(plugin, ModuleType) else entry_point.value
        for name, cls in classes.items():
            record.rewards.append(name)
            self.rewards.add(RewardEntry(name, cls, Source("plugin", module, name), record))


def load_plugins(only: Collection[str] | None = None, block: Collection[str] = ()) -> Host:
    """Find every installed plugin; a broken one is recorded with its reason.

    `only` loads just the plugins so named, `block` leaves some out; the
    environment variables GRPO_PLUGINS and GRPO_BLOCK (comma-separated) do the same.
    """
    if only is None and (names := os.environ.get("GRPO_PLUGINS")) is not None:
        only = _split(names)
    block = {*block, *_split(os.environ.get("GRPO_BLOCK", ""))}
    host = Host()
    for entry_point in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        dist = entry_point.dist
        record = PluginRecord(
            entry_point.name,
            dist.name if dist else "?",
            dist.version if dist else "?",
            entry_point.value,
        )
        if record.name in block:
            record.status, record.reason = "blocked", "blocked by GRPO_BLOCK or plugins.block"
        elif only is not None and record.name not in only:
            record.status, record.reason = "blocked", "not named in GRPO_PLUGINS"
        else:
            host._load(entry_point, record)
        host.plugins.append(record)
    return host


def resolve(source: Source) -> type[Reward]:
    """The reward class a source names. Raises PluginError when it cannot be had."""
    if source.kind == "plugin":
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        _, classes = _registered(manager, lambda: importlib.import_module(source.module), "it")
        if source.name not in classes:
            raise PluginError(f"{source.module} registers no reward {source.name!r}")
        return classes[source.name]
    module = _guarded(
        lambda: (
            _import_file(Path(source.module))
            if source.module.endswith(".py")
            else importlib.import_module(source.module)
        ),
        f"{source.module} cannot be imported",
    )
    target: Any = module
    for part in source.name.split("."):
        if not hasattr(target, part):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            near = difflib.get_close_matches(part, public, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PluginError(f"{source.module} has no {source.name!r}{hint}")
        target = getattr(target, part)
    return _reward_class(target, source.name)


def _registered(
    manager: pluggy.PluginManager, load: Callable[[], Any], name: str
) -> tuple[Any, dict[str, type[Reward]]]:
    """Import one plugin and collect what it registers, all of it or nothing."""
    plugin = _guarded(load, "cannot be imported")
    api = getattr(plugin, "grpo_core_api", hookspecs.API_VERSION)
    if api != hookspecs.API_VERSION:
        raise PluginError(
            f"written for plugin API {api}, this grpo-core speaks {hookspecs.API_VERSION}: "
            f"{'upgrade grpo-core' if str(api) > str(hookspecs.API_VERSION) else 'upgrade the plugin'}"
        )
    classes: dict[str, type[Reward]] = {}

    def register(reward_name: str, reward: Any) -> None:
        if reward_name in classes:
            raise PluginError(f"registers the reward {reward_name!r} twice")
        classes[reward_name] = _reward_class(reward, reward_name)

    try:
        manager.register(plugin, name=f"{name}@{id(plugin)}")
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        with contextlib.suppress(AssertionError, ValueError):
            manager.unregister(plugin)
        raise PluginError(f"wrong hook: {_one_line(error)}") from error
    for hook in manager.hook.register_rewards.get_hookimpls():
        if hook.plugin is plugin:
            _guarded(
                functools.partial(hook.function, *(register for _ in hook.argnames)),
                "register_rewards raised",
            )
    return plugin, classes


def _guarded(load: Callable[[], Any], what: str) -> Any:
    """Run third-party code that may do anything, `sys.exit` and printing included."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
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
    name = f"grpo_core_file_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
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
