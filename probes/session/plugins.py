"""A probe or a sink of this run, and one rule for its hooks: a method that is named like a hook is one."""

from __future__ import annotations

import inspect
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from .. import hookspecs
from ..batches import Batch
from ..run import log as log
from ..schedule import Schedule

__all__ = [
    "CheckedSchedule", "HOOKS", "NEEDS", "OnError", "Plugin", "PluginManager", "has_hooks", "invoke", "keys", "log",
    "settings_of", "text_of", "unmet_need",
]  # fmt: skip

OnError = Literal["log", "raise"]


MAX_TEXT = 1000


def invoke(hook: pluggy.HookImpl, **arguments: Any) -> Any:
    """Call a hook with the arguments it takes."""
    return hook.function(*(arguments[name] for name in hook.argnames))


def settings_of(item: object) -> str:
    """The public attributes of a plugin in words, without its schedule and addresses."""
    own = getattr(item, "__dict__", {})
    given = {key: text_of(value) for key, value in own.items() if not (key.startswith("_") or key == "schedule")}
    return re.sub(r"0x[0-9a-f]+", "", str(given))


def text_of(item: object) -> str:
    """Its ``repr``, of moderate length, whatever that does."""
    try:
        text = repr(item)
    except Exception:
        text = f"{type(item).__name__} (its repr fails)"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


HOOKS = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "probes_spec")]


@dataclass
class Plugin:
    """A registered probe or sink, and its accounts."""

    key: str
    """Its name in this run, unique."""
    label: str
    """Its name with its distribution, for messages."""
    version: str
    implementation: Any
    settings: str = ""
    """What it was made with, in words, but when it is due: tells several of a class apart."""
    hooks: dict[str, pluggy.HookImpl] = field(default_factory=dict)
    schedule: Schedule | None = None
    due: int | None = None
    problem: str = ""
    """Why it does not run; empty while it does."""
    left_out: str = ""
    """What it did not do, to stay within the budget."""
    last_failure: str = ""
    refusal: str = ""
    """Why its last turn could not be measured; empty if it could."""
    failures: Counter[str] = field(default_factory=Counter)
    """In succession, of each hook."""
    measured: int = 0
    skipped: int = 0
    failed: int = 0
    last_step: int | None = None
    watched_updates: int | None = None
    """How many updates before each turn it looks at; None where it looks at all of them, or has no such hook."""
    began: int = 0
    """The step at which it was attached."""
    watching_since: int | None = None
    """The step after which it has looked at updates for its next turn; None while it does not."""

    @property
    def sees_updates(self) -> bool:
        """Whether it looks at updates."""
        return bool({"on_step", "before_step"} & self.hooks.keys())

    @property
    def sees_all(self) -> bool:
        """Whether it looks at every update."""
        return self.sees_updates and self.watched_updates is None

    def watches(self, step: int) -> bool:
        """Whether it wants to look at the update after this step."""
        return self.watched_updates is not None and self.due is not None and self.due - self.watched_updates <= step

    def has_seen(self, step: int) -> bool:
        """Whether it has looked at as many updates before this step as it wants to."""
        if self.watched_updates is None or step == 0:
            return True
        possible = min(self.watched_updates, step - self.began)
        return self.watching_since is not None and step - self.watching_since >= possible

    @property
    def joins_parts(self) -> bool:
        """Whether it can look at the updates of a model of which each rank sees a part."""
        return {"rank_part", "join_parts"} <= self.hooks.keys()

    @property
    def adds_up_parts(self) -> bool:
        """Whether it does not call the model: what ranks have seen is all that it measures, if need be."""
        return self.joins_parts and not getattr(self.implementation, "needs", None)


def keys(plugins: Iterable[Plugin]) -> list[str]:
    """The names of plugins."""
    return [plugin.key for plugin in plugins]


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
    """Refuse a hook whose arguments have other names than they are passed by, or that would have to be awaited."""
    if inspect.iscoroutinefunction(getattr(plugin, hook)):
        raise ValueError(f"its method {hook} is async, and hooks are called, not awaited: write def {hook}")
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


def has_hooks(item: object) -> bool:
    """Whether an object has a method that is a hook."""
    return any(
        callable(getattr(item, name, None)) and (name in HOOKS or hasattr(getattr(item, name), "probes_impl"))
        for name in dir(item)
    )


NEEDS = frozenset({"batch", "inputs", "targets"})
"""What a probe may say that it cannot run without."""


def unmet_need(probe: Any, batches: Mapping[str, Batch], blocked: str) -> str:
    """Why a probe cannot run on the batches there are, and what to pass; empty when it can.

    Args:
        probe: The probe, with its ``needs`` and, when it measures on one batch, the name of that ``batch``.
        batches: The fixed batches, by name.
        blocked: What kept the first batch of the loop from being used, if anything did.
    """
    needs: frozenset[str] = getattr(probe, "needs", frozenset())
    if not needs:
        return ""
    name = getattr(probe, "batch", None)
    name = name if isinstance(name, str) else next(iter(batches), "train")
    batch = batches.get(name)
    if batch is None and name != "train":
        return f"there is no batch {name!r}. Pass batches={{{name!r}: (inputs, targets)}}."
    if batch is None and blocked:
        return blocked
    if batch is None:
        return (
            "no batch was seen: the loop does not call the object given to ProbeManager (but a compiled or wrapped "
            "one?), or its output was not usable. Pass the object that the loop calls, or "
            "batches={'train': (inputs, targets)}."
        )
    if "inputs" in needs and batch.inputs is None:
        return f"batch {name!r} has no dense floating-point input, and it measures the function of one."
    if "targets" in needs and batch.targets is None:
        return f"the targets of batch {name!r} were not seen. Pass batches={{{name!r}: (inputs, targets)}}."
    return ""
