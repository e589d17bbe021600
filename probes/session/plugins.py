"""One rule for hooks: a method that is named like a hook is one."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable

import pluggy

from .. import hookspecs
from ..schedule import Schedule
from .events import text_of

__all__ = ["CheckedSchedule", "HOOKS", "PluginManager"]

HOOKS = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "probes_spec")]


class CheckedSchedule(Schedule):
    """A plugin's schedule, of which nothing wrong comes: what fails, or goes backwards, is over."""

    def __init__(self, schedule: Schedule, failed: Callable[[Exception], None]) -> None:
        self._schedule, self._failed = schedule, failed

    def next(self, after: int) -> int | None:
        try:
            step = self._schedule.next(after)
            if step is None:
                return None
            if isinstance(step, bool) or operator.index(step) <= after:
                raise ValueError(f"next({after}) must be a step greater than {after}, or None; it was {step!r}")
            return operator.index(step)
        except Exception as error:
            self._failed(error)
            return None

    def __repr__(self) -> str:
        return text_of(self._schedule)


class PluginManager(pluggy.PluginManager):
    """Takes methods that are named like hooks for hooks, without a decorator."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        options = super().parse_hookimpl_opts(plugin, name)
        if asked := [option for option in _NOT_HONOURED if options is not None and options.get(option)]:
            raise ValueError(
                f"hook {name!r} asks for {asked[0]}=True, which does not hold here: every hook is called by itself, in "
                f"the order of the plugins, so that a fault of one keeps no other from being called. Leave the option "
                f"out"
            )
        if name in HOOKS and callable(getattr(plugin, name, None)):
            _check_arguments(plugin, name)
        # A method called on_something is meant as a hook: if there is none of that name, the author is told.
        if options is None and (name in HOOKS or name.startswith("on_")) and callable(getattr(plugin, name, None)):
            return dict.fromkeys((*_NOT_HONOURED, "optionalhook"), False) | {"specname": None}  # type: ignore[return-value]
        return options


def _check_arguments(plugin: object, hook: str) -> None:
    """Refuse a hook whose arguments have other names than they are passed by."""
    try:
        given = inspect.signature(getattr(plugin, hook)).parameters.values()
    except (TypeError, ValueError):  # of something that does not tell
        return
    known = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wrong = [one.name for one in given if one.name not in known and one.default is one.empty and one.kind in named]
    if wrong:
        raise ValueError(
            f"its method {hook} takes {', '.join(map(repr, wrong))}, but arguments are passed by name: write "
            f"def {hook}({', '.join(['self', *known])}), or fewer of these"
        )


_NOT_HONOURED = ("wrapper", "hookwrapper", "tryfirst", "trylast")
