"""The plugins of one run: each is called on its own, and what goes wrong in one stays in it.

pluggy registers them and checks their hooks; it is not asked to call them, since one exception would keep the others
from being called and would reach the user's loop.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from . import hookspecs
from .discovery import GROUP, label
from .governor import Governor
from .guard import ModelChanged
from .probe import Probe
from .run import Event, Run
from .schedule import Schedule, log_spaced

__all__ = ["OnError", "Plugin", "Plugins", "invoke", "keys", "log"]

log = logging.getLogger("probes")
OnError = Literal["log", "raise"]

QUARANTINE_AFTER = 3
_HOOKS = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "probes_spec")]


@dataclass
class Plugin:
    """A registered probe or sink, and its accounts."""

    key: str
    """Its name in this run, unique."""
    label: str
    """Its name with its distribution, for messages."""
    version: str
    implementation: Any
    hooks: dict[str, pluggy.HookImpl] = field(default_factory=dict)
    schedule: Schedule | None = None
    due: int | None = None
    problem: str = ""
    """Why it does not run; empty while it does."""
    last_failure: str = ""
    failures: int = 0
    """In succession."""
    measured: int = 0
    skipped: int = 0
    failed: int = 0
    last_step: int | None = None


class _PluginManager(pluggy.PluginManager):
    """Takes the methods of a :class:`Probe` that are named like hooks for hooks, without a decorator."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        options = super().parse_hookimpl_opts(plugin, name)
        # A method called on_something is meant as a hook: if there is none of that name, the author is told.
        if options is None and isinstance(plugin, Probe) and (name in _HOOKS or name.startswith("on_")):
            options = {
                "wrapper": False,
                "hookwrapper": False,
                "optionalhook": False,
                "tryfirst": False,
                "trylast": False,
                "specname": None,
            }
        return options


class Plugins:
    """All plugins of a run, called one by one.

    Args:
        governor: Books what each call costs.
        on_error: ``"log"`` to go on after a fault, ``"raise"`` to stop, for development.
    """

    def __init__(self, governor: Governor, on_error: OnError) -> None:
        self.governor, self.on_error = governor, on_error
        self.all: list[Plugin] = []
        self._manager = _PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._told: set[tuple[str, str]] = set()
        self._run: Run | None = None

    def bind(self, run: Run) -> None:
        """The run that events belong to."""
        self._run = run

    def add(self, implementation: object) -> None:
        """Register a probe or sink; a misspelt hook is reported and left out."""
        key = base = str(getattr(implementation, "name", "") or type(implementation).__name__)
        for count in range(2, 1000):
            if all(plugin.key != key for plugin in self.all):
                break
            key = f"{base}-{count}"
        described, version = label(implementation)
        plugin = Plugin(key, described, version, implementation)
        try:
            self._manager.register(implementation, key)
        except Exception as error:  # pluggy refuses a hook whose arguments it does not know
            self.tell("fault", plugin, f"Plugin {described} could not be registered: {error}")
            if self.on_error == "raise":
                raise
            return
        for caller in self._manager.get_hookcallers(implementation) or []:
            hook = next(impl for impl in caller.get_hookimpls() if impl.plugin is implementation)
            if not caller.has_spec():
                message = (
                    f"Plugin {described} implements unknown hook {caller.name!r}. Known hooks: {', '.join(_HOOKS)}."
                )
                if self.on_error == "raise":
                    raise ValueError(message)
                self.tell("fault", plugin, message)
            else:
                plugin.hooks[caller.name] = hook
        if "measure" in plugin.hooks:
            plugin.schedule = getattr(implementation, "schedule", None) or log_spaced()
        self.all.append(plugin)

    def having(self, hook: str) -> list[Plugin]:
        """The working plugins that implement a hook, in the order in which they were given."""
        return [plugin for plugin in self.all if hook in plugin.hooks and not plugin.problem]

    def call_all(self, hook: str, **arguments: Any) -> None:
        """Call a hook of every plugin that has it."""
        for plugin in self.having(hook):
            self.call(plugin, hook, **arguments)

    def call(
        self,
        plugin: Plugin,
        hook: str,
        within: AbstractContextManager[None] | None = None,
        consume: Callable[[Any], Any] = lambda result: result,
        **arguments: Any,
    ) -> Any:
        """Call a hook of one plugin; its exception is a fault of the plugin, its time is booked.

        Args:
            plugin: The plugin.
            hook: The name of the hook.
            within: A context for the call and for ``consume``: the body of a generator runs while it is consumed.
            consume: What to do with the result.
            arguments: The hook's arguments.

        Returns:
            ``consume(result)``; None after a fault.
        """
        if self._run is not None:
            self._run.begin(plugin.key)
        start = time.perf_counter()
        try:
            with within or nullcontext():
                result = consume(invoke(plugin.hooks[hook], **arguments))
        except Exception as error:
            self.fault(plugin, error, hook)
            return None
        else:
            plugin.failures = 0
            return result
        finally:
            self.governor.charge(plugin.key, time.perf_counter() - start, turn=hook == "measure")

    def fault(self, plugin: Plugin, error: Exception, where: str) -> None:
        """Record an exception of a plugin; the third in succession puts it out of service."""
        if self.on_error == "raise":
            raise error
        plugin.failed += 1
        plugin.failures += 1
        plugin.last_failure = repr(error)
        trace = "".join(traceback.format_exception(error))
        self.tell("fault", plugin, f"Plugin {plugin.label} failed in {where}: {error!r}", trace, once=repr(error))
        if isinstance(error, ModelChanged) or plugin.failures >= QUARANTINE_AFTER:
            why = "it changed the model" if isinstance(error, ModelChanged) else f"{plugin.failures} failures in a row"
            plugin.problem = f"quarantined after {why}: {error!r}"
            self.tell("quarantine", plugin, f"Plugin {plugin.label} is called no more in this run: {why}.")

    def tell(self, kind: str, plugin: Plugin | None, message: str, trace: str = "", once: str = "") -> None:
        """Log a message (the same one only once) and record it as an event of the run."""
        key = (plugin.key if plugin else "", once or message)
        if key not in self._told:
            self._told.add(key)
            level = logging.INFO if kind in ("attach", "detach") else logging.WARNING
            log.log(level, "%s%s", message, f" Training goes on.\n{trace}" if trace else "")
        step = self._run.step if self._run else 0
        event = Event(kind, plugin.label if plugin else "", message, step, time.time())
        for sink in self.having("on_event"):
            if sink is not plugin:  # a broken sink is not told of its own fault
                self._told_safely(sink, event)

    def _told_safely(self, sink: Plugin, event: Event) -> None:
        try:
            invoke(sink.hooks["on_event"], run=self._run, event=event)
        except Exception as error:  # not through fault(), which would tell of it and come back here
            log.warning("Plugin %s failed in on_event: %r. Training goes on.", sink.label, error)


def invoke(hook: pluggy.HookImpl, **arguments: Any) -> Any:
    """Call a hook with the arguments it takes."""
    return hook.function(*(arguments[name] for name in hook.argnames))


def keys(plugins: Iterable[Plugin]) -> list[str]:
    """The names of plugins."""
    return [plugin.key for plugin in plugins]
