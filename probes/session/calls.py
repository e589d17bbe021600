"""The plugins of one run: each is called on its own, and what goes wrong in one stays in it.

pluggy registers them and checks their hooks against :mod:`probes.hookspecs`; it is not asked to call them, since one
exception would keep the others from being called and would reach the user's loop.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from .. import hookspecs
from ..budget.governor import Governor
from ..guard.handlers import handlers_pass, raised_by_handler
from ..guard.held import PLUGINS
from ..guard.process import random_states_kept
from ..guard.unnoticed import ModelChanged
from ..measurement import CannotMeasure
from ..run import Event, Run
from ..schedule import Schedule, log_spaced
from .discovery import GROUP, label
from .plugins import (
    HOOKS,
    NEEDS,
    CheckedSchedule,
    OnError,
    Plugin,
    PluginManager,
    invoke,
    keys,
    log,
    settings_of,
    text_of,
)
from .watchdog import DEADLINE, Watchdog

__all__ = ["Plugins"]

QUARANTINE_AFTER = 3
_WATCHED = {"on_attach", "measure", "write", "flush", "on_detach"}


class Plugins:
    """All plugins of a run, called one by one.

    Args:
        governor: Books what each call costs.
        on_error: ``"log"`` to go on after a fault, ``"raise"`` to stop, for development.
        deadline: Seconds after which it is told that a call is not over.
    """

    def __init__(self, governor: Governor, on_error: OnError, deadline: float = DEADLINE) -> None:
        self.governor, self.on_error, self.deadline = governor, on_error, deadline
        self.all: list[Plugin] = []
        self.watchdog = Watchdog(deadline)
        self._process = os.getpid()
        self._logged: set[tuple[str, str]] = set()
        self._early: list[Event] | None = []
        """What happened before the sinks were there."""
        self._run: Run | None = None

    def bind(self, run: Run) -> None:
        """The run that events belong to."""
        self._run = run

    def release(self) -> None:
        """Called when the run is over: let go of what refers to this."""
        self._run = None
        for plugin in self.all:
            plugin.schedule = None

    def add(self, implementation: object) -> None:
        """Register a probe or sink; a misspelt hook is reported and left out."""
        kind = f"{type(implementation).__module__}.{type(implementation).__qualname__}"
        plugin = Plugin(kind, kind, "", implementation)
        PLUGINS.add(type(implementation))
        try:
            named = label(implementation)
            plugin = Plugin(self._new_key(implementation), *named, implementation, settings_of(implementation))
            # A registry of its own: pluggy compares plugins by ==, and takes no two that are equal.
            registry = PluginManager(GROUP)
            registry.add_hookspecs(hookspecs)
            registry.register(implementation, plugin.key)
            callers = registry.get_hookcallers(implementation) or []
            found = [(caller.name, caller.has_spec(), caller.get_hookimpls()[0]) for caller in callers]
            registry.unregister(implementation)  # it refers to itself, and would keep what the plugin holds
        except Exception as error:  # pluggy refuses a hook whose arguments it does not know
            if self.on_error == "raise":
                raise
            found, plugin.problem = [], f"could not be registered: {str(error) or text_of(error)}"
            self.record("fault", None, f"Plugin {kind} {plugin.problem}. Training goes on without it.")
        for name, known, hook in found:
            if not known:
                message = f"Plugin {plugin.label} implements unknown hook {name!r}. Known hooks: {', '.join(HOOKS)}."
                if self.on_error == "raise":
                    raise ValueError(message)
                self.record("fault", plugin, message)
            else:
                plugin.hooks[name] = hook
        self.all.append(plugin)
        if "measure" in plugin.hooks:
            self._take_settings(plugin)

    def _new_key(self, implementation: object) -> str:
        taken = set(keys(self.all))
        base = str(getattr(implementation, "name", "") or type(implementation).__name__)
        names = (base if count == 1 else f"{base}-{count}" for count in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _take_settings(self, plugin: Plugin) -> None:
        """Look at what a probe says of itself before anything relies on it."""
        schedule = getattr(plugin.implementation, "schedule", None)
        needs: Any = getattr(plugin.implementation, "needs", frozenset())
        plugin.schedule = CheckedSchedule(
            schedule if isinstance(schedule, Schedule) else log_spaced(),
            lambda error: self.disable(plugin, error, "its schedule failed"),
        )
        if schedule is not None and not isinstance(schedule, Schedule):
            wrong = f"`schedule` must be a schedule such as every(100), got {text_of(schedule)}"
            self.disable(plugin, TypeError(wrong), "its schedule is none")
        elif not isinstance(needs, frozenset | set | list | tuple) or any(need not in list(NEEDS) for need in needs):
            wrong = f"`needs` must be a set of {', '.join(map(repr, sorted(NEEDS)))}, got {text_of(needs)}"
            self.disable(plugin, TypeError(wrong), "its needs are not known")
        watched: Any = getattr(plugin.implementation, "watched_updates", None)
        if watched is not None and (isinstance(watched, bool) or not isinstance(watched, int) or watched < 1):
            wrong = f"`watched_updates` must be a number of updates, 1 or more, or None, got {text_of(watched)}"
            self.disable(plugin, ValueError(wrong), "what it looks at is not known")
        elif plugin.sees_updates:
            plugin.watched_updates = watched

    def disable(self, plugin: Plugin, error: BaseException, why: str) -> None:
        """Call a plugin no more, since it cannot go on."""
        if self.on_error == "raise":
            raise error
        plugin.failed += 1
        plugin.last_failure = text_of(error)
        plugin.problem = f"{why}: {text_of(error)}"
        self.record("fault", plugin, f"Plugin {plugin.label} is not called: {why}: {text_of(error)}. Training goes on.")

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
            within: A context for the call and for ``consume``: the body of a generator runs while it is consumed. By
                default random states are kept, except at every step.
            consume: What to do with the result.
            arguments: The hook's arguments.

        Returns:
            ``consume(result)``; None after a fault.
        """
        if self._run is not None:
            self._run.begin(plugin.key)
        what = f"{hook} of {plugin.label}" if hook in _WATCHED else ""
        start, began = self.governor.clock(), time.monotonic()
        try:
            if within is None:  # at every step there is no time for that
                within = nullcontext() if hook in ("before_step", "on_step") else random_states_kept()
            with handlers_pass(bool(what)), self.watchdog.watching(what) if what else nullcontext(), within:
                result = consume(invoke(plugin.hooks[hook], **arguments))
        except BaseException as error:
            if not self.is_a_fault(error):
                self.interrupted(error, f"in {hook} of plugin {plugin.label}")
                raise
            if isinstance(error, CannotMeasure) and hook == "measure":
                self.refuse(plugin, error)
            else:
                self.fault(plugin, error, hook)
            return None
        else:
            plugin.failures[hook] = 0
            if hook == "measure":
                plugin.refusal = ""
            return result
        finally:
            self.governor.charge(plugin.key, self.governor.clock() - start)
            if what and (seconds := time.monotonic() - began) >= self.deadline:
                self.record("hang", plugin, f"Training waited {seconds:.0f} s for {what}.")

    def interrupted(self, error: BaseException, where: str) -> None:
        """Record, once, an exception that is on its way to the user's loop."""
        if getattr(error, "_told_by_probes", None) != id(self):
            with suppress(AttributeError):
                error._told_by_probes = id(self)  # type: ignore[attr-defined]
            lost = "what was not done by then is missing, at this step and in what a probe adds up."
            self.record("interrupt", None, f"{text_of(error)} {where}: {lost}")

    def is_a_fault(self, error: BaseException) -> bool:
        """Whether an exception is the plugin's own; the user's are interrupts, and what his signal handlers raise.

        A probe's ``sys.exit()`` is a fault too, but for that of a process that the probe itself has forked.
        """
        forked = os.getpid() != self._process
        return not (isinstance(error, KeyboardInterrupt) or forked or raised_by_handler(error))

    def refuse(self, plugin: Plugin, error: CannotMeasure) -> None:
        """Record that a turn could not be measured, for a reason that is none of the plugin's and may pass."""
        if self.on_error == "raise":
            raise error
        plugin.failed += 1
        plugin.failures["measure"] = 0
        if (reason := str(error)) != plugin.refusal:
            message = f"Plugin {plugin.label} cannot measure: {reason}"
            if any(other.refusal == reason for other in self.all) and (plugin.key, message) not in self._logged:
                self._logged.add((plugin.key, message))
                log.warning("Plugin %s cannot either, for the same reason.", plugin.label)
            plugin.refusal = reason
            log.debug("Plugin %s cannot measure:", plugin.label, exc_info=error)
            self.record("refused", plugin, message)

    def fault(self, plugin: Plugin, error: BaseException, where: str) -> None:
        """Record an exception of a plugin; the third in succession puts it out of service."""
        if self.on_error == "raise":
            raise error
        plugin.failed += 1
        plugin.failures[where] += 1
        plugin.last_failure = text = text_of(error)
        trace = "".join(traceback.format_exception(error))
        self.record(
            "fault", plugin, f"Plugin {plugin.label} failed in {where}: {text}. Training goes on.", trace, once=text
        )
        if where == "load_state_dict":
            self.disable(plugin, error, "its state is lost")
        elif isinstance(error, ModelChanged) or plugin.failures[where] >= QUARANTINE_AFTER:
            changed = isinstance(error, ModelChanged)
            why = "it changed the model" if changed else f"{plugin.failures[where]} failures in a row"
            plugin.problem = f"quarantined after {why}: {text}"
            self.record("quarantine", plugin, f"Plugin {plugin.label} is called no more in this run: {why}.")

    def skip(self, key: str, message: str) -> None:
        """Record what a plugin did not do, once where it is the same again."""
        plugin = next(plugin for plugin in self.all if plugin.key == key)
        if message != plugin.left_out:
            plugin.left_out = message
            self.record("skipped", plugin, message)

    def record(self, kind: str, plugin: Plugin | None, message: str, trace: str = "", once: str = "") -> None:
        """Log a message (the same one only once) and record it as an event of the run."""
        key = (plugin.key if plugin else "", once or message)
        if key not in self._logged:
            self._logged.add(key)
            level = logging.INFO if kind in ("skipped", "interrupt") else logging.WARNING
            if kind not in ("attach", "detach"):  # of which lines of their own are written
                log.log(level, "%s", message)
            if trace:
                log.debug("%s", trace)
        step = self._run.step if self._run else 0
        event = Event(kind, plugin.label if plugin else "", message, step, time.time())
        if self._early is not None:
            self._early.append(event)
            return
        for sink in self.having("on_event"):
            self._record_in(sink, event, of_itself=sink is plugin)

    def record_early(self) -> None:
        """Hand over what happened before the sinks were there; from now on they are told at once."""
        early, self._early = self._early or [], None
        for event in early:
            for sink in self.having("on_event"):
                self._record_in(sink, event, of_itself=False)

    def _record_in(self, sink: Plugin, event: Event, of_itself: bool) -> None:
        try:
            invoke(sink.hooks["on_event"], run=self._run, event=event)
        except BaseException as error:  # not through fault(), which would tell of it and come back here
            if not self.is_a_fault(error):
                raise
            if not of_itself:
                log.warning("Plugin %s failed in on_event: %s. Training goes on.", sink.label, text_of(error))
