"""One probe's turn: from being due to what it has yielded, or to why it has not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from ..batches import Batch, versions
from ..guard.unnoticed import ModelChanged, unnoticed
from ..loop.sharding import in_parts
from ..measurement import CannotMeasure, Measurement, first_line
from ..run import Run
from .calls import Plugins
from .plugins import Plugin, text_of, unmet_need
from .streams import Streams

__all__ = ["UNDEFINED", "Turn", "Turns"]

UNDEFINED = "yielded NaN in"
"""The words by which a number without a value is told."""
MAX_MEASUREMENTS = 100_000
"""Of one turn: a probe that yields more will not end."""


class Turn(NamedTuple):
    """What came of one."""

    plugin: Plugin
    delay: int
    """How many steps after it was due it was taken."""
    measurements: list[Measurement]


class Turns:
    """Those of the probes of one run.

    Args:
        run: The run.
        plugins: Its plugins.
    """

    def __init__(self, run: Run, plugins: Plugins) -> None:
        self.run, self.plugins = run, plugins
        self.probes: list[Plugin] = []
        self.arranged = False
        """Whether the batches are known: after the first update they are, or will not be."""
        self.busy = False
        """Whether a probe is measuring: the model's forward is then not the loop's."""
        self.leave: Callable[[], None] | None = None
        """The end of the run, when it comes while this is at work."""
        self._thread = 0
        """The thread that is at work."""
        self._blocked = ""
        """What keeps the loop's first batch from being used."""
        self._unattached: list[Plugin] = []
        """Probes that have not been told of the attach yet."""
        self._streams = Streams()

    @property
    def streams(self) -> int:
        """How many have been measured."""
        return len(self._streams)

    def attach(self) -> None:
        """Set the schedules, and tell the plugins that they are attached."""
        run = self.run
        self.probes = [plugin for plugin in self.plugins.all if plugin.schedule is not None]
        for plugin in self.probes:
            plugin.began = run.step
            if plugin.due is None:
                # Step 0 is due before the first update; after a resume it has been.
                plugin.due = plugin.schedule.next(-1 if run.resumed_from is None else run.resumed_from)  # type: ignore[union-attr]
        # The parameters that a probe may keep now are not there in whole yet, where the model is sharded.
        later = self.probes if in_parts(run.model) else []
        attaching = self.plugins.having("on_attach")
        self._unattached = [plugin for plugin in attaching if plugin in later]
        for plugin in attaching:
            if plugin not in later:
                self.plugins.call(plugin, "on_attach", run=run)

    def attach_late(self) -> None:
        """Tell the probes that have not been told, now that the model is there in whole."""
        late, self._unattached = self._unattached, []
        for plugin in late:
            self.plugins.call(plugin, "on_attach", run=self.run)

    def waiting(self, step: int) -> list[Plugin]:
        """The probes that are due and can run."""
        return [
            plugin
            for plugin in self.probes
            if plugin.due is not None and plugin.due <= step and not plugin.problem and self.ready(plugin)
        ]

    def preparing(self, step: int) -> list[Plugin]:
        """Those, and the probes that want to look at the next update before they will be due."""
        early = [plugin for plugin in self.probes if plugin.watches(step) and plugin.due > step]  # type: ignore[operator]
        return [*self.waiting(step), *(plugin for plugin in early if not plugin.problem and self.ready(plugin))]

    def ready(self, plugin: Plugin) -> bool:
        """Whether the batches it needs are there, and all parameters: before the first update they may not be."""
        trained = [
            item for optimizer in self.run.optimizers for group in optimizer.param_groups for item in group["params"]
        ]
        if not self.arranged and any(map(is_lazy, trained or self.run.model.parameters())):
            return False  # a forward of ours would draw the initial weights, in the loop's stead
        return self.arranged or not getattr(plugin.implementation, "needs", None) or bool(self.run.batches)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The turns of a step, one after the other, and what is done with them."""
        if self._thread == threading.get_ident():
            yield
            return
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = 0
            leave, self.leave = self.leave, None
            if leave is not None:
                leave()

    def later(self, leave: Callable[[], None]) -> bool:
        """Call this when the work is over that this thread is at, as in a signal handler; False if it is at none."""
        if self._thread == threading.get_ident():
            self.leave = leave
        return self.leave is leave

    def take(self, plugin: Plugin, step: int) -> Turn:
        """Let a probe measure, and take what it yields."""
        taken: list[Measurement] = []
        names: set[str] = set()
        delay, wall_time = step - (plugin.due or 0), time.time()

        def consume(item: Any) -> None:
            if self._accepts(plugin, item, names):
                names.add(item.name)
                taken.append(item.taken(step, wall_time, plugin.label, plugin.version))

        try:
            if not self._measure(plugin, step, consume):
                taken.clear()
        finally:
            self._over(plugin, step)  # after an interrupt too
        return Turn(plugin, delay, taken)

    def _measure(self, plugin: Plugin, step: int, consume: Callable[[Any], object]) -> bool:
        """Let a probe measure inside the guard, and consume each item; whether it came to an end."""
        endless = False

        def consume_all(items: Iterable[Any] | None) -> None:
            nonlocal endless
            if isinstance(items, Measurement):
                items = (items,)
            if items is not None and (
                isinstance(items, str | Mapping | torch.Tensor) or not isinstance(items, Iterable)
            ):
                raise TypeError(f"measure must yield measurements, it returned {text_of(items)}")
            try:
                for count, item in enumerate(items or ()):
                    if endless := count == MAX_MEASUREMENTS:
                        raise RuntimeError(f"measure must end, but yielded more than {count} measurements in one turn")
                    consume(item)
            finally:
                if isinstance(items, Generator):
                    items.close()  # what it does in the end, it does inside the guard

        guard = unnoticed(self.run.model, self.run.optimizers, self.run.given)
        self.busy = True
        try:
            self.plugins.call(plugin, "measure", within=self._kept(guard), consume=consume_all, run=self.run, step=step)
        finally:
            guard.restore()
            self.busy = False
        return not endless

    @contextmanager
    def _kept(self, guard: unnoticed) -> Iterator[None]:
        """The guard, and what the probes share: whatever one does to the run is undone, a changed batch is told."""
        run = self.run
        before = {**vars(run), "batches": dict(run.batches), "optimizers": list(run.optimizers)}
        then = _versions(run.batches)
        spoilt: list[Any] = []
        try:
            with guard:
                yield
        finally:
            vars(run).update(before)
            spoilt += run.spoilt()  # after a fault too, for the others
        if changed := [name for name, version in _versions(run.batches).items() if version != then[name]]:
            raise ModelChanged(
                f"batch {changed[0]!r} was changed in place; what is measured on it is no longer the same"
            )
        if spoilt:
            what = f"run.{spoilt[0][0]}({spoilt[0][1]!r})" if isinstance(spoilt[0], tuple) else text_of(spoilt[0])
            raise ValueError(f"what all probes get from {what} was changed in place; change a clone() of it")

    def _accepts(self, plugin: Plugin, item: Any, before: set[str]) -> bool:
        """Whether what a probe has yielded is recorded; what is to say of it is said once for each stream."""
        wrong = self._streams.misfit(plugin.key, item)
        if not wrong and item.name in before:
            wrong = f"yielded {item.name!r} twice in one turn; the first is recorded. Give each a name of its own"
        if wrong:
            if self.plugins.on_error == "raise":
                raise ValueError(f"Plugin {plugin.label} {wrong}.")
            plugin.failed += 1
            name = item.name if isinstance(item, Measurement) else ""
            if self._streams.is_new(name, f"misfit of {plugin.key}"):
                self.plugins.record("fault", plugin, f"Plugin {plugin.label} {wrong}. Training goes on.")
            return False
        if remark := self._streams.remark(item):
            self.plugins.record("warning", plugin, f"Plugin {plugin.label} {remark}")
        return True

    def _over(self, plugin: Plugin, step: int) -> None:
        due = plugin.due
        while (due := plugin.schedule.next(due)) is not None and due <= step:  # type: ignore[union-attr,arg-type]
            plugin.skipped += 1
        plugin.due = due
        if not plugin.failures["measure"] and not plugin.refusal:
            plugin.measured += 1
            plugin.last_step = step
        if undefined := self._streams.undefined():
            self.plugins.record("warning", plugin, f"Plugin {plugin.label} {UNDEFINED} {undefined}.")

    def refuse(self, probes: Iterable[Plugin], reason: str) -> None:
        """Do not run these probes, and say why."""
        refused = [plugin for plugin in probes if not plugin.problem]
        for plugin in refused:
            plugin.problem = reason
        if refused:
            labels = ", ".join(plugin.label for plugin in refused)
            self.plugins.record("warning", None, f"Not running: {labels}. The reason: {reason}")

    def check_needs(self) -> None:
        """Name the probes that cannot run on the batches there are, and what to pass."""
        unmet: dict[str, list[Plugin]] = {}
        for plugin in self.probes:
            if not plugin.problem and (reason := unmet_need(plugin.implementation, self.run.batches, self._blocked)):
                unmet.setdefault(reason, []).append(plugin)
        for reason, plugins in unmet.items():
            self.refuse(plugins, reason)

    def block(self, error: Exception) -> None:
        """Something in the loop keeps its first batch from being used."""
        if self.plugins.on_error == "raise" or not self.plugins.is_a_fault(error):
            raise error
        self._blocked = str(error)
        if not isinstance(error, CannotMeasure):
            self._blocked = (
                f"The first batch of the loop cannot be kept ({type(error).__name__}: {first_line(error)}). Pass "
                f"batches={{'train': (inputs, targets)}} of tensors with a row for each sample."
            )


def _versions(batches: Mapping[str, Batch]) -> dict[str, list[int]]:
    return {name: versions((batch.args, batch.kwargs, batch.targets)) for name, batch in batches.items()}
