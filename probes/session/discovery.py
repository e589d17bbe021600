"""Finding plugins through entry points, one by one: a broken plugin is a named warning, never a crash.

A distribution registers a probe under the entry-point group ``probes``::

    [project.entry-points.probes]
    sharpness = "probes_sharpness:Sharpness"

a sink, which ``ProbeManager(sinks=[...])`` takes by name, under ``probes.sinks``, and an executor of
``concurrent.futures``, for work on other machines, under ``probes.executors``. All are loaded when they are
named; installed probes also when the user names none. A distribution may also add commands to ``probes``: functions, as
typer takes them, under ``probes.commands``.

The environment variable ``PROBES_PLUGINS`` limits what is loaded by default: a comma-separated list of names, or an
empty string for none.
"""

from __future__ import annotations

import functools
import os
import sys
from concurrent.futures import Executor
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = [
    "BrokenPlugin",
    "COMMANDS",
    "DEFAULT_SINKS",
    "GROUP",
    "KINDS",
    "SINKS",
    "default_names",
    "installed",
    "label",
    "load",
    "rivals",
]

GROUP = "probes"
SINKS = "probes.sinks"
EXECUTORS = "probes.executors"
COMMANDS = "probes.commands"


KINDS: dict[str, tuple[str, str]] = {
    "probe": (GROUP, "a subclass of probes.Probe"),
    "sink": (SINKS, "a class with a hook `write`"),
    "executor": (EXECUTORS, "a concurrent.futures.Executor"),
}
"""The entry-point group of each kind of plugin, and what a plugin of it must be."""
OWN = "torch-probes"
"""The distribution of this package."""
DEFAULT_SINKS = ("hdf5", "tensorboard")
"""Those that a manager writes to when the user names none."""


class BrokenPlugin(ImportError):
    """An installed plugin that cannot be loaded; the message names it and its distribution."""


def installed(group: str = GROUP) -> dict[str, EntryPoint]:
    """Every registered probe (or sink), by name, loaded or not; of two of one name that of this package."""
    return {name: entries[0] for name, entries in sorted(_by_name(group).items())}


def rivals(name: str, kind: str = "probe") -> str:
    """That others of the same name are installed, and not used; empty if there are none."""
    entries = _by_name(KINDS[kind][0]).get(name, [])
    if len(entries) < 2:
        return ""
    taken, *others = map(_describe, entries)
    return f"Of {kind}s of one name that of {taken} is taken, not {', '.join(others)}: pass that one as an object."


def _by_name(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in _registered(tuple((path, _changed(path)) for path in sys.path)):
        if entry.group == group and entry not in found.setdefault(entry.name, []):
            found[entry.name].append(entry)
    for entries in found.values():
        if len(entries) > 1:  # to ask for a distribution takes a while
            entries.sort(key=lambda entry: entry.dist is None or entry.dist.name != OWN)
    return found


@functools.lru_cache(maxsize=1)
def _registered(places: tuple[tuple[str, int], ...]) -> list[EntryPoint]:
    """All entry points of ours in these places; kept, for a look through all that is installed takes a while."""
    everything = entry_points()
    return [entry for group in (GROUP, SINKS, EXECUTORS, COMMANDS) for entry in everything.select(group=group)]


def _changed(path: str) -> int:
    """When something was last installed in a directory."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def default_names() -> list[str]:
    """The names to load when the user names no probes: all that are installed, or those of ``PROBES_PLUGINS``."""
    chosen = os.environ.get("PROBES_PLUGINS")
    if chosen is None:
        return list(installed())
    return [name for part in chosen.split(",") if (name := part.strip())]


def load(name: str, kind: str = "probe") -> type[Any]:
    """The class registered under a name: a ``"probe"``, a ``"sink"`` or an ``"executor"``.

    Raises:
        ValueError: If nothing of that kind and name is installed.
        BrokenPlugin: If it is installed but cannot be imported, or is not what it should be.
    """
    from ..probe import Probe  # here, since what is installed can be said without torch

    group, what = KINDS[kind]
    base = {"probe": Probe, "sink": object, "executor": Executor}[kind]
    available = installed(group)
    if name not in available:
        raise ValueError(f"No {kind} is named {name!r}. Installed {kind}s: {', '.join(available) or 'none'}.")
    entry = available[name]
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:  # a script that is no module may end the process
        raise BrokenPlugin(f"Plugin {_describe(entry)} could not be loaded: {error!r}.") from error
    if not (isinstance(found, type) and issubclass(found, base)) or (kind == "sink" and not hasattr(found, "write")):
        raise BrokenPlugin(f"Plugin {_describe(entry)} must be {what}, got {found!r}.")
    return found


def label(plugin: object) -> tuple[str, str]:
    """A plugin's name with its distribution, for messages, and the version of that distribution (may be empty)."""
    package = type(plugin).__module__.partition(".")[0]
    name = getattr(plugin, "name", "") or type(plugin).__name__
    for entry in [*installed().values(), *installed(SINKS).values()]:
        if entry.module.partition(".")[0] == package and entry.dist is not None:
            return f"{name!r} ({entry.dist.name} {entry.dist.version})", entry.dist.version
    return f"{name!r} ({type(plugin).__module__}.{type(plugin).__qualname__})", ""


def _describe(entry: EntryPoint) -> str:
    return f"{entry.name!r} ({f'{entry.dist.name} {entry.dist.version}' if entry.dist else 'unknown distribution'})"
