"""What a job may see of the file system: the standard library, shared libraries,
preloaded packages, three devices. Nothing of the user's, nothing of /etc but the
linker's cache.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grpo_sandbox.linux.namespaces import world_reaches

DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]

_LIBRARIES = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]


def readable() -> list[str]:
    """Directories and files that hold the interpreter's own parts."""
    found = [path for path in _LIBRARIES if os.path.exists(path)]
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        found.append(os.path.join(os.path.realpath(prefix), "lib"))
    found.append(os.path.realpath(sysconfig.get_path("stdlib")))
    return _outermost(found)


def of_packages(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths to show, directories to import from) for modules outside the standard
    library. Raises ModuleNotFoundError."""
    show: list[str] = []
    import_from: list[str] = []
    for name in modules:
        top = name.partition(".")[0]
        spec = importlib.util.find_spec(top)
        if spec is None:
            raise ModuleNotFoundError(f"preload: there is no module {name!r}")
        if top in sys.stdlib_module_names or spec.origin is None:
            continue
        origin = Path(os.path.realpath(spec.origin))
        home = origin.parent
        if spec.submodule_search_locations is not None:
            show.append(str(home))
            home = home.parent
            libraries = home / f"{top}.libs"  # where wheels keep their shared libraries
            if libraries.is_dir():
                show.append(str(libraries))
        else:
            show.append(str(origin))
        if str(home) not in import_from:
            import_from.append(str(home))
    return show, import_from


def scratch_parent() -> str:
    """A directory for scratch directories that an unprivileged user can reach."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    if os.geteuid() != 0:
        return places[0]
    return next((place for place in places if world_reaches(place)), places[0])


def _outermost(paths: list[str]) -> list[str]:
    """Without duplicates, and without what lies in another of them; links stay."""
    unique = list(dict.fromkeys(path for path in paths if os.path.lexists(path)))
    return [
        path
        for path in unique
        if os.path.islink(path)
        or not any(path.startswith(other + "/") for other in unique if not os.path.islink(other))
    ]
