"""Finding plugins through entry points, one by one: a broken plugin is a named warning, never a crash.

A distribution registers a probe under the entry-point group ``probes``::

    [project.entry-points.probes]
    sharpness = "probes_sharpness:Sharpness"

a sink, which ``ProbeManager(sinks=[...])`` takes by name, under ``probes.sinks``, and an executor of
``concurrent.futures``, for work on other machines, under ``probes.executors``. All are loaded when they are
named; installed probes also when the user names none.

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

from ..probe import Probe

__all__ = [
    "BrokenPlugin",
    "EXECUTORS",
    "GROUP",
    "SINKS",
    "default_names",
    "installed",
    "label",
    "load",
    "load_executor",
    "load_sink",
]

GROUP = "probes"
SINKS = "probes.sinks"
EXECUTORS = "probes.executors"


class BrokenPlugin(ImportError):
    """An installed plugin that cannot be loaded; the message names it and its distribution."""


def installed(group: str = GROUP) -> dict[str, EntryPoint]:
    """Every registered probe (or sink), by name, loaded or not; of two of one name, the first found."""
    found: dict[str, EntryPoint] = {}
    for entry in _registered(tuple((path, _changed(path)) for path in sys.path)):
        if entry.group == group:
            found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=1)
def _registered(places: tuple[tuple[str, int], ...]) -> list[EntryPoint]:
    """All entry points of ours in these places; kept, for a look through all that is installed takes a while."""
    everything = entry_points()
    return [entry for group in (GROUP, SINKS, EXECUTORS) for entry in everything.select(group=group)]


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


def load(name: str) -> type[Probe]:
    """The probe class registered under a name.

    Raises:
        ValueError: If no probe of that name is installed.
        BrokenPlugin: If it is installed but cannot be imported, or is not a :class:`Probe`.
    """
    entry, found = _loaded(name, GROUP, "probe")
    if not (isinstance(found, type) and issubclass(found, Probe)):
        raise BrokenPlugin(f"Plugin {_describe(entry)} must be a subclass of probes.Probe, got {found!r}.")
    return found


def load_sink(name: str) -> type[Any]:
    """The sink class registered under a name.

    Raises:
        ValueError: If no sink of that name is installed.
        BrokenPlugin: If it is installed but cannot be imported, or is not a class with a ``write`` hook.
    """
    entry, found = _loaded(name, SINKS, "sink")
    if not isinstance(found, type) or not hasattr(found, "write"):
        raise BrokenPlugin(f"Plugin {_describe(entry)} must be a class with a hook `write`, got {found!r}.")
    return found


def load_executor(name: str) -> type[Executor]:
    """The class, an executor of ``concurrent.futures``, registered under a name.

    Raises:
        ValueError: If no executor of that name is installed.
        BrokenPlugin: If it is installed but cannot be imported, or is none.
    """
    entry, found = _loaded(name, EXECUTORS, "executor")
    if not (isinstance(found, type) and issubclass(found, Executor)):
        raise BrokenPlugin(f"Plugin {_describe(entry)} must be a concurrent.futures.Executor, got {found!r}.")
    return found


def _loaded(name: str, group: str, kind: str) -> tuple[EntryPoint, Any]:
    available = installed(group)
    if name not in available:
        raise ValueError(f"No {kind} is named {name!r}. Installed {kind}s: {', '.join(available) or 'none'}.")
    entry = available[name]
    try:
        return entry, entry.load()
    except Exception as error:
        raise BrokenPlugin(f"Plugin {_describe(entry)} could not be loaded: {error!r}.") from error


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
