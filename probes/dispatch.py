"""What happens after a step: the probes that are due measure, inside the guard and the budget; the sinks write."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .discovery import label
from .guard import unnoticed
from .measurement import Axis, Measurement
from .needs import unmet_need
from .plugins import Plugin, Plugins, keys, log
from .run import Run

__all__ = ["Dispatcher"]

FLUSH_SECONDS = 10.0
LARGE_BYTES = 4 * 2**20


class Dispatcher:
    """Runs the due probes of one run.

    Args:
        run: The run.
        plugins: Its plugins.
        arrange: Called at the first steps, until the batches are known.
    """

    def __init__(self, run: Run, plugins: Plugins, arrange: Callable[..., None]) -> None:
        self.run, self.plugins, self._arrange = run, plugins, arrange
        self.governor = plugins.governor
        self.measured = 0
        self.streams: dict[str, tuple[str, Measurement]] = {}
        """The first measurement of each stream, which the later ones must fit, and its plugin."""
        self.busy = False
        """Whether a probe is measuring: the model's forward is then not the loop's."""
        self._blocked = ""
        self._arranged = False
        self._silent = False
        self._abandoned = False
        self._next_due: float = math.inf
        self._wake_at: float = math.inf
        self._flush_at: float = math.inf
        self._noted: set[tuple[str, str]] = set()
        self.probes: list[Plugin] = []
        self._steppers: list[Plugin] = []
        plugins.bind(run)

    # ------------------------------------------------------------------------------------------------- from the loop

    def attach(self) -> None:
        """Set the schedules and tell the plugins."""
        self.probes = [plugin for plugin in self.plugins.all if plugin.schedule is not None]
        self._steppers = self.plugins.having("on_step")
        for plugin in self.probes:
            if plugin.due is None:
                # Step 0 is due before the first update; after a resume it has been.
                plugin.due = plugin.schedule.next(self.run.step if self.run.resumed_from is not None else -1)  # type: ignore[union-attr]
        self.plugins.tell("attach", None, f"Attached at step {self.run.step}.")
        self.plugins.call_all("on_attach", run=self.run)
        self._plan()

    def least_due(self) -> int:
        """The least step at which an exact count of steps is needed."""
        return 0 if self._steppers else int(min(self._next_due, 2**62))

    def before_first(self) -> None:
        """Called before the first update: step 0 is measured here."""
        if self._silent:
            return
        try:
            self._arrange()
            if self.run.resumed_from is None:
                self._work(0)
        except Exception as error:
            self._own_fault(error)

    def before_step(self) -> None:
        """Called before every update, if a plugin wants it."""
        if self._silent:
            return
        try:
            self.plugins.call_all("before_step", run=self.run)
        except Exception as error:
            self._own_fault(error)

    def after_step(self, step: int) -> None:
        """Called after every step; when nothing is due, this is all that runs."""
        self.run.step = step
        if self._silent:
            return
        try:
            if not self._arranged:
                self._arranged = True
                self._arrange(final=True)
                self._next_due = step  # what waited for the batches is due now
            for plugin in self._steppers:
                if not plugin.problem:
                    self.plugins.call(plugin, "on_step", run=self.run, step=step)
            if step >= self._next_due or time.perf_counter() >= self._wake_at:
                self._work(step)
        except Exception as error:
            self._own_fault(error)

    def detach(self) -> None:
        """Write what waits and close everything."""
        if self._abandoned:
            return
        self._account()
        self.plugins.tell("detach", None, f"Detached at step {self.run.step}.")
        self.flush()
        self.plugins.call_all("on_detach", run=self.run)

    def silence(self) -> None:
        """Do nothing any more, not even close files."""
        self._silent = self._abandoned = True

    def forget(self) -> None:
        """Leave no trace of a run that has not begun."""
        self.plugins.call_all("on_detach", run=self.run)
        self.silence()

    def problem(self, error: Exception) -> None:
        """Something in the loop that keeps the batches from being known."""
        if self.plugins.on_error == "raise":
            raise error
        self._blocked = str(error)

    def _own_fault(self, error: Exception) -> None:
        if self.plugins.on_error == "raise":
            raise error
        self._silent = True
        log.exception("The probes have stopped: an internal error. Training goes on; what was measured is kept.")

    # ------------------------------------------------------------------------------------------------------- measure

    def _work(self, step: int) -> None:
        measurements: list[Measurement] = []
        for plugin in self.probes:
            if plugin.due is None or plugin.due > step or plugin.problem or not self._ready(plugin):
                continue
            if self.governor.affords(plugin.key, borrow=step >= _doubled(plugin)):
                measurements += self._measure(plugin, step)
        self._share_costs()
        if measurements:
            self.measured += len(measurements)
            self.plugins.call_all("write", run=self.run, measurements=measurements)
            self._flush_at = min(self._flush_at, time.perf_counter() + FLUSH_SECONDS)
        if time.perf_counter() >= self._flush_at:
            self._account()
            self.flush()
        self._plan()

    def _ready(self, plugin: Plugin) -> bool:
        """Whether the batches it needs are there: before the first update they may not be."""
        return self._arranged or not getattr(plugin.implementation, "needs", None) or bool(self.run.batches)

    def _measure(self, plugin: Plugin, step: int) -> list[Measurement]:
        taken: list[Measurement] = []
        wall_time = time.time()

        def consume(items: Iterable[Any] | None) -> None:
            for item in items or ():
                accepted = self._accept(plugin, item, step, wall_time)
                if accepted is not None:
                    taken.append(accepted)

        self.busy = True
        try:
            self.plugins.call(
                plugin, "measure", within=unnoticed(self.run.model), consume=consume, run=self.run, step=step
            )
        finally:
            self.busy = False
        due = plugin.due
        while (due := plugin.schedule.next(due)) is not None and due <= step:  # type: ignore[union-attr,arg-type]
            plugin.skipped += 1
        plugin.due = due
        if plugin.failures == 0:
            plugin.measured += 1
            plugin.last_step = step
        return taken

    def _accept(self, plugin: Plugin, item: Any, step: int, wall_time: float) -> Measurement | None:
        if not isinstance(item, Measurement):
            self._refuse(plugin, "", f"yielded {type(item).__name__} instead of a Measurement")
            return None
        owner, first = self.streams.setdefault(item.name, (plugin.key, item))
        if first is item and (clash := self._clash(item.name)):
            del self.streams[item.name]
            self._refuse(
                plugin, item.name, f"yielded {item.name!r}, but {clash!r} is a stream: one cannot hold the other"
            )
            return None
        wrong = f"it belongs to {owner!r}" if owner != plugin.key else first.disagreement(item)
        if wrong is not None:
            self._refuse(
                plugin, item.name, f"yielded {item.name!r} that does not fit its stream: {wrong}; it is left out"
            )
            return None
        self._look_at(plugin, item)
        return item.taken(step, wall_time, plugin.label, plugin.version)

    def _clash(self, name: str) -> str | None:
        return next(
            (other for other in self.streams if other.startswith(name + "/") or name.startswith(other + "/")), None
        )

    def _refuse(self, plugin: Plugin, name: str, what: str) -> None:
        if self.plugins.on_error == "raise":
            raise ValueError(f"Plugin {plugin.label} {what}.")
        plugin.failed += 1
        if (plugin.key, name) not in self._noted:
            self._noted.add((plugin.key, name))
            self.plugins.tell("fault", plugin, f"Plugin {plugin.label} {what}. Training goes on.")

    def _look_at(self, plugin: Plugin, item: Measurement) -> None:
        name = item.name
        if item.value.dtype.kind in "fc" and (name, "nan") not in self._noted and bool(np.isnan(item.value).any()):
            self._noted.add((name, "nan"))
            self.plugins.tell(
                "warning", plugin, f"Plugin {plugin.label} yielded NaN in {name!r}; it is recorded as it is."
            )
        if item.value.nbytes > LARGE_BYTES and (name, "large") not in self._noted:
            self._noted.add((name, "large"))
            self.plugins.tell(
                "warning",
                plugin,
                f"Plugin {plugin.label} yields {item.value.nbytes / 2**20:.0f} MiB in each {name!r}; it is recorded, "
                f"and may fill the disk. Measure it more rarely, or reduce it.",
            )

    def _share_costs(self) -> None:
        """Split the cost of what several probes used among them."""
        for seconds, users in self.run.end():
            for user in users[1:]:
                self.governor.charge(users[0], -seconds / len(users))
                self.governor.charge(user, seconds / len(users))

    # ------------------------------------------------------------------------------------------------------- planning

    def _plan(self) -> None:
        """When to wake next: at a step, or when a postponed probe can be afforded or rows should be flushed."""
        step, self._next_due, self._wake_at = self.run.step, math.inf, self._flush_at
        for plugin in self.probes:
            if plugin.due is None or plugin.problem:
                continue
            if plugin.due > step or not self._arranged:
                self._next_due = min(self._next_due, plugin.due)
            else:
                self._wake_at = min(self._wake_at, self.governor.affordable_at(plugin.key))
                borrowed = plugin.schedule.next(max(step, _doubled(plugin) - 1))  # type: ignore[union-attr]
                if borrowed is not None and self.governor.affords(plugin.key, borrow=True):
                    self._next_due = min(self._next_due, borrowed)

    def check_needs(self) -> None:
        """Name the probes that cannot run on the batches there are, and what to pass."""
        unmet: dict[str, list[str]] = {}
        for plugin in self.probes:
            reason = unmet_need(plugin.implementation, self.run.batches, self._blocked)
            if reason and not plugin.problem:
                plugin.problem = reason
                unmet.setdefault(reason, []).append(plugin.label)
        for reason, labels in unmet.items():
            self.plugins.tell("warning", None, f"Not running: {', '.join(labels)}. The reason: {reason}")

    # ---------------------------------------------------------------------------------------------------------- sinks

    def flush(self) -> None:
        """Let the sinks make durable what they took."""
        self._flush_at = math.inf
        self.plugins.call_all("flush", run=self.run)

    def _account(self) -> None:
        """Write what the probes cost, and how often they measured, were postponed past a turn, and failed."""
        if not (self.probes and self.measured):
            return
        everything, probes = self.plugins.all, self.probes
        wall_time = time.time()
        version = label(self)[1]
        plugin_axis, probe_axis = {"plugin": Axis(np.array(keys(everything)))}, {"probe": Axis(np.array(keys(probes)))}
        records = [
            Measurement("probes/share", self.governor.share, description="share of wall time of probes and sinks"),
            Measurement("probes/seconds", [self.governor.spent[plugin.key] for plugin in everything], ("plugin",),
                        plugin_axis, unit="s", description="time taken so far"),
            *(Measurement(f"probes/{what}", [getattr(plugin, what) for plugin in probes], ("probe",), probe_axis,
                          unit="turns", description=f"turns {what} so far")
              for what in ("measured", "skipped", "failed")),
        ]  # fmt: skip
        taken = [record.taken(self.run.step, wall_time, "probes", version) for record in records]
        self.plugins.call_all("write", run=self.run, measurements=taken)


def _doubled(plugin: Plugin) -> int:
    """The step from which a probe may measure on borrowed time: twice that of its last turn."""
    return 2 * (plugin.last_step or 0)
