"""What happens after a step: the probes that are due measure, inside the guard and the budget; the sinks write."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from ..batches import Batch, tensors
from ..budget.governor import CORE
from ..guard.unnoticed import ModelChanged, unnoticed
from ..loop.sharding import in_parts
from ..measurement import Axis, Measurement
from ..refusal import CannotMeasure, first_line
from ..run import Event, Run
from .calls import Plugins
from .discovery import label
from .events import invoke, log, text_of
from .needs import unmet_need
from .plugin import Plugin, keys

if TYPE_CHECKING:
    from ..ranks.team import Team

__all__ = ["Dispatcher", "Turn", "UNDEFINED"]

Turn = tuple[Plugin, int, list[Measurement]]
"""A probe, how long after it was due it measured, and what."""

FLUSH_SECONDS = 10.0
LARGE_BYTES = 4 * 2**20
PASSES, LEAST_SAMPLES = 8, 8
"""Forward passes of a batch that fit into a first turn; of how many samples at least."""
UNDEFINED = "yielded NaN in"
"""The words by which a number without a value is told."""
MAX_MEASUREMENTS = 100_000
"""Of one turn: a probe that yields more will not end."""


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
        self._wall = self.governor.wall
        self.measured = 0
        self.streams: dict[str, tuple[str, Measurement]] = {}
        """The first measurement of each stream, which the later ones must fit, and its plugin."""
        self.busy = False
        """Whether a probe is measuring: the model's forward is then not the loop's."""
        self._blocked = ""
        self._arranged = False
        self._begun = False
        self._silent = False
        self.missed: Callable[[], str] | None = None
        """Says what is waited for while no step has come."""
        self.abandoned = False
        """Whether not even the files are closed: the run has not begun, or is another process's."""
        self._inexact = False
        """Whether this step was counted without asking the accelerator which updates it has skipped."""
        self._next_due: float = math.inf
        self._wake_at: float = math.inf
        self._flush_at: float = math.inf
        self._noted: set[tuple[str, str]] = set()
        self._undefined: list[str] = []
        """The streams in which a turn has yielded NaN for the first time."""
        self._pending: list[tuple[Plugin, list[Measurement]]] = []
        """Rows, and the sinks that have not taken them yet."""
        self.whole: set[str] = set()
        """The batches of which all samples are measured on."""
        self.probes: list[Plugin] = []
        self.team: Team | None = None
        """The other ranks, if they take part."""
        self._untold = False
        """Whether the probes have not been told of the attach yet."""
        self._steppers: list[Plugin] = []
        self._version = label(self)[1]
        plugins.bind(run)
        governor = self.governor
        run.bind(governor.affords_extra, plugins.left_out, lambda: governor.first_turn_limit, governor.clock)

    # ------------------------------------------------------------------------------------------------- from the loop

    def attach(self) -> None:
        """Set the schedules and tell the plugins."""
        self.probes = [plugin for plugin in self.plugins.all if plugin.schedule is not None]
        self._steppers = self.plugins.having("on_step")
        for plugin in self.probes:
            if plugin.due is None:
                # Step 0 is due before the first update; after a resume it has been.
                plugin.due = plugin.schedule.next(-1 if self.run.resumed_from is None else self.run.resumed_from)  # type: ignore[union-attr]
        place = f"; results go to {self.run.log_dir}" if self.plugins.having("write") else ""
        self.plugins.tell_sinks()
        self.plugins.tell("attach", None, f"Attached at step {self.run.step}{place}.")
        # The parameters that a probe may keep now are not there in whole yet.
        self._untold = in_parts(self.run.model)
        for plugin in self.plugins.having("on_attach"):
            if plugin.schedule is None or not self._untold:
                self.plugins.call(plugin, "on_attach", run=self.run)
        self._plan(settle=False)  # to resume is no reason to give out what was earned at another moment

    def tell_attached(self) -> None:
        """Tell the probes what they have not been told, now that the model is there in whole."""
        untold, self._untold = self._untold, False
        for plugin in self.plugins.having("on_attach") if untold else ():
            if plugin.schedule is not None:
                self.plugins.call(plugin, "on_attach", run=self.run)

    def least_due(self) -> int:
        """The least step at which an exact count of steps is needed."""
        self._inexact = not self._steppers and self._wall() < self._wake_at
        return int(min(self._next_due, 2**62)) if self._inexact else 0

    @property
    def recorded(self) -> int:
        """The last step of which all that is due has been measured; -1 before that of step 0."""
        if self._begun:
            return self.run.step
        return -1 if self.run.resumed_from is None else self.run.resumed_from

    def before_first(self) -> None:
        """Called before the first update: step 0 is measured here."""
        if self._silent:
            return
        try:
            with self.governor.own():
                self._arrange()
                self._fit_batches()
                if self.team is not None and not self._begun and not self.team.set_up(self):
                    self.team = None
            self._begun = True
            self._work(self.run.step)
        except BaseException as error:
            self._own_fault(error)

    def before_step(self) -> None:
        """Called before every update, if a plugin wants it."""
        if self._silent:
            return
        try:
            self.plugins.call_all("before_step", run=self.run)
        except BaseException as error:
            self._own_fault(error)

    def after_step(self, step: int) -> None:
        """Called after every step; when nothing is due, this is all that runs."""
        self.run.step = step
        if self._silent:
            return
        try:
            if not self._arranged:
                self._arrange(final=True)
                self._fit_batches()
                waited = not all(map(self._ready, self.probes))
                self._arranged = True
                if waited or self.team is not None:  # with other ranks, the next gathering is agreed on from here
                    self._next_due = step
            for plugin in self._steppers:
                if not plugin.problem:
                    self.plugins.call(plugin, "on_step", run=self.run, step=step)
            if step >= self._next_due or (not self._inexact and self._wall() >= self._wake_at):
                self._work(step)
        except BaseException as error:
            self._own_fault(error)

    def step_by_hand(self) -> None:
        """An update comes that no optimizer has made: what must see each before it is made cannot run."""
        if not self._begun:
            self._begun = True
            self._disband()  # the other ranks see no step
            blind = [plugin for plugin in self.probes if "before_step" in plugin.hooks]
            self.refuse(blind, "it must see the parameters before every update, and manager.step() comes after it.")

    def detach(self) -> None:
        """Write what waits and close everything."""
        if self.abandoned:
            return
        try:
            with self.governor.own():
                self._account()
                if self.probes and not self.run.step and not self.measured and self.missed:
                    self.plugins.tell("warning", None, f"Nothing was measured. {self.missed()}")
                self.plugins.tell("detach", None, f"Detached at step {self.run.step}.")
                self._disband()
                self.flush()
                self.governor.close()
        except BaseException as error:
            self._own_fault(error)
        finally:
            # The sinks last, and the last one first: it may tell the others of what it left out.
            with self.governor.own():
                self._close()

    def _close(self) -> None:
        """Let every plugin close what it has open, also one that is out of service; an interrupt comes after that."""
        closing = [plugin for plugin in self.plugins.all if "on_detach" in plugin.hooks]
        sinks = [plugin for plugin in closing if "write" in plugin.hooks]
        interrupt: BaseException | None = None
        for plugin in [*(plugin for plugin in closing if plugin not in sinks), *reversed(sinks)]:
            try:
                self.plugins.call(plugin, "on_detach", run=self.run)
            except BaseException as error:
                interrupt = interrupt or error
        self.plugins.watchdog.stop()
        if interrupt is not None:
            raise interrupt

    def _disband(self) -> None:
        team, self.team = self.team, None
        if team is not None:
            team.end()

    def silence(self) -> None:
        """Do nothing any more, not even close files."""
        self._silent = self.abandoned = True

    def forked(self) -> None:
        """In a forked child: the files are the parent's."""
        self.silence()
        self.plugins.watchdog.forget()
        for plugin in self.plugins.all:
            if "on_fork" in plugin.hooks:
                with suppress(Exception):
                    invoke(plugin.hooks["on_fork"])

    def forget(self) -> None:
        """Leave no trace of a run that has not begun."""
        try:
            self._close()
        finally:
            self.silence()

    def _fit_batches(self) -> None:
        """Take fewer samples, once, where one forward pass of a batch takes too long for the turns to come.

        A first turn is worth about eight passes of it. Two and four samples are tried; batches that were given as a
        :class:`Batch`, which is taken whole, and those of a run that goes on, stay as they are.
        """
        limit = self.governor.first_turn_limit / PASSES
        for name, batch in self.run.batches.items():
            if name in self.whole or batch.n <= LEAST_SAMPLES or limit == math.inf:
                continue
            self.whole.add(name)
            guard = unnoticed(self.run.model, self.run.optimizers)
            try:
                with guard:
                    seconds = self.run.sample_seconds(name)
            except Exception:  # told when a probe calls the model
                continue
            finally:
                guard.restore()
            fewer = max(LEAST_SAMPLES, int(limit / seconds) if seconds > 0 else batch.n)
            if fewer < batch.n:
                self.run.batches = {**self.run.batches, name: batch.first(fewer)}
                self.plugins.tell(
                    "warning",
                    None,
                    f"Batch {name!r}: {fewer} samples of {batch.n} are measured on, since a forward pass of all takes "
                    f"{seconds * batch.n:.1f} s. Pass batches={{{name!r}: Batch((inputs,), targets=targets)}} (of "
                    f"probes.batches), which is taken whole, or overhead=None.",
                )

    def problem(self, error: Exception) -> None:
        """Something in the loop that keeps the batches from being known."""
        if self.plugins.on_error == "raise":
            raise error
        self._blocked = str(error) if isinstance(error, CannotMeasure) else (
            f"The first batch of the loop cannot be kept ({type(error).__name__}: {first_line(error)}). Pass "
            f"batches={{'train': (inputs, targets)}} of tensors with a row for each sample."
        )  # fmt: skip

    def _own_fault(self, error: BaseException) -> None:
        if not self.plugins.is_a_fault(error):
            self.plugins.interrupted(error, "between the calls of plugins")
            raise error
        if self.plugins.on_error == "raise":
            raise error
        self._silent = True
        self._disband()
        message = (
            f"The probes have stopped: an internal error. Training goes on; what was measured is kept. {text_of(error)}"
        )
        try:
            self.plugins.tell("fault", None, message, "".join(traceback.format_exception(error)))
        except Exception:
            log.exception(message)

    # ----------------------------------------------------------------------------------------------- after the fact

    def measure_at(self, step: int) -> None:
        """Let the probes measure the model as it is now: it was loaded, not trained."""
        self.run.step, self._begun, self._arranged = step, True, True
        self._work(step)

    def record(self, step: int, measurements: list[Measurement], events: list[Event]) -> None:
        """Hand to the sinks what another process has measured."""
        self.run.step = step
        self._pending += [(sink, measurements) for sink in self.plugins.having("write")]
        self._write_pending()
        self.measured += len(measurements)
        for event in events:
            self.plugins.tell(event.kind, None, event.message)

    # ------------------------------------------------------------------------------------------------------- measure

    def _work(self, step: int) -> None:
        with self.governor.own():
            self.governor.settle(step, keys(self.waiting(step)))
            self._measure_due(step)
            if self._wall() >= self._flush_at:
                self._account()
                self.flush()
            self._plan()

    def waiting(self, step: int) -> list[Plugin]:
        """The probes that are due and can run."""
        return [
            plugin
            for plugin in self.probes
            if plugin.due is not None and plugin.due <= step and not plugin.problem and self._ready(plugin)
        ]

    def _measure_due(self, step: int) -> None:
        """Let those measure whose turn can be afforded, and the sinks write what they measured."""
        spent = dict(self.governor.spent)
        turns: list[Turn] = []
        self.run.end()  # an interrupt may have kept it from being done
        try:
            if self.team is None:
                for plugin in self.waiting(step):
                    if self.governor.affords(plugin.key):
                        turns.append(self.turn(plugin, step))
            elif self.team.gathers(step):
                self.team.gather(self, step, turns)
        finally:  # after an interrupt too, what the others have measured is written
            self._share_costs()
            if turns:
                self._hand_over(turns, spent)

    def _hand_over(self, turns: list[Turn], spent: dict[str, float]) -> None:
        costs = [self.governor.spent[plugin.key] - spent.get(plugin.key, 0.0) for plugin, _, _ in turns]
        measurements = [item for _, _, taken in turns for item in taken]
        rows = list(measurements)
        self._pending += [(sink, rows) for sink in self.plugins.having("write")]
        self.measured += len(measurements)
        records = [
            record
            for (plugin, delay, _), cost in zip(turns, costs, strict=True)
            if not (plugin.failures["measure"] or plugin.refusal)
            for record in self._turn(plugin, delay, cost)
        ]
        before = self.governor.total
        rows += records
        self._write_pending()
        each = (self.governor.total - before) / max(1, len(measurements))
        for (plugin, _, taken), cost in zip(turns, costs, strict=True):
            self.governor.turn(plugin.key, cost, each * len(taken))
        self._flush_at = min(self._flush_at, self._wall() + FLUSH_SECONDS)

    def _write_pending(self) -> None:
        """Hand over what was measured; what an interrupt kept from it, the next time."""
        while self._pending:
            first = sink, rows = self._pending[0]
            try:
                # On one line: an interrupt between the two would have the rows written twice.
                _ = self.plugins.call(sink, "write", run=self.run, measurements=rows), self._pending.pop(0)
            except BaseException:
                if self._pending and self._pending[0] is first:
                    del self._pending[0]
                raise

    def _ready(self, plugin: Plugin) -> bool:
        """Whether the batches it needs are there, and all parameters: before the first update they may not be."""
        trained = [
            item for optimizer in self.run.optimizers for group in optimizer.param_groups for item in group["params"]
        ]
        if not self._arranged and any(map(is_lazy, trained or self.run.model.parameters())):
            return False  # a forward of ours would draw the initial weights, in the loop's stead
        return self._arranged or not getattr(plugin.implementation, "needs", None) or bool(self.run.batches)

    def turn(self, plugin: Plugin, step: int) -> Turn:
        """Let a probe measure, and take what it yields."""
        taken: list[Measurement] = []
        delay, wall_time = step - (plugin.due or 0), time.time()

        def consume(item: Any) -> None:
            accepted = self._accept(plugin, item, step, wall_time)
            if accepted is not None:
                taken.append(accepted)

        try:
            if not self.take(plugin, step, consume):
                taken.clear()
        finally:
            self._over(plugin, step)  # after an interrupt too
        return plugin, delay, taken

    def take(self, plugin: Plugin, step: int, consume: Callable[[Any], object]) -> bool:
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

        guard = unnoticed(self.run.model, self.run.optimizers)
        self.busy = True
        try:
            self.plugins.call(plugin, "measure", within=self._kept(guard), consume=consume_all, run=self.run, step=step)
        finally:
            guard.restore()
            self.busy = False
        return not endless

    def _over(self, plugin: Plugin, step: int) -> None:
        due = plugin.due
        while (due := plugin.schedule.next(due)) is not None and due <= step:  # type: ignore[union-attr,arg-type]
            plugin.skipped += 1
        plugin.due = due
        if not plugin.failures["measure"] and not plugin.refusal:
            plugin.measured += 1
            plugin.last_step = step
        if undefined := self._undefined:  # in one line: what one of them lacks, others often lack too
            self._undefined = []
            names = ", ".join(map(repr, undefined[:3])) + (
                f" and {len(undefined) - 3} more" if len(undefined) > 3 else ""
            )
            they = "it is recorded as it is" if len(undefined) == 1 else "they are recorded as they are"
            self.plugins.tell("warning", plugin, f"Plugin {plugin.label} {UNDEFINED} {names}; {they}.")

    @contextmanager
    def _kept(self, guard: unnoticed) -> Iterator[None]:
        """The guard, and what the probes share: whatever one does to the run is undone, a changed batch is told."""
        run = self.run
        before = {**vars(run), "batches": dict(run.batches), "optimizers": list(run.optimizers)}
        versions = _versions(run.batches)
        try:
            with guard:
                yield
        finally:
            vars(run).update(before)
        if changed := [name for name, version in _versions(run.batches).items() if version != versions[name]]:
            raise ModelChanged(
                f"batch {changed[0]!r} was changed in place; what is measured on it is no longer the same"
            )

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
            self._undefined.append(name)
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

    def _plan(self, settle: bool = True) -> None:
        """When to wake next: at a step, or when a postponed probe can be afforded or rows should be flushed."""
        step, self._next_due, self._wake_at = self.run.step, math.inf, self._flush_at
        for plugin in self.probes:
            if plugin.due is None or plugin.problem:
                continue
            if plugin.due > step or not self._arranged:
                self._next_due = min(self._next_due, plugin.due)
        wait = math.inf
        if waiting := keys(self.waiting(step)):
            if settle:
                self.governor.settle(step, waiting)
            self.governor.step = step
            wait = self.governor.next_turn(waiting) - self.governor.clock()
        if self.team is not None and self._begun:
            agreed = self.team.agree(self, self._next_due, wait, self._arranged)
            if agreed is not None:
                self._next_due = agreed
                return
        # Wall time runs at least as fast as that of the budget: what comes of it is no later than it should be.
        self._wake_at = min(self._wake_at, self._wall() + wait)

    def refuse(self, probes: Iterable[Plugin], reason: str) -> None:
        """Do not run these probes, and say why."""
        refused = [plugin for plugin in probes if not plugin.problem]
        for plugin in refused:
            plugin.problem = reason
        if refused:
            labels = ", ".join(plugin.label for plugin in refused)
            self.plugins.tell("warning", None, f"Not running: {labels}. The reason: {reason}")

    def check_needs(self) -> None:
        """Name the probes that cannot run on the batches there are, and what to pass."""
        unmet: dict[str, list[Plugin]] = {}
        for plugin in self.probes:
            if not plugin.problem and (reason := unmet_need(plugin.implementation, self.run.batches, self._blocked)):
                unmet.setdefault(reason, []).append(plugin)
        for reason, plugins in unmet.items():
            self.refuse(plugins, reason)

    # ---------------------------------------------------------------------------------------------------------- sinks

    def flush(self) -> None:
        """Let the sinks make durable what they took."""
        self._flush_at = math.inf
        self._write_pending()
        self.plugins.call_all("flush", run=self.run)

    def _account(self) -> None:
        """Write what the probes cost, and how often they measured, were postponed past a turn, and failed."""
        if not (self.probes and self.measured):
            return
        everything, probes = [*keys(self.plugins.all), CORE], self.probes
        plugin_axis, probe_axis = {"plugin": Axis(np.array(everything))}, {"probe": Axis(np.array(keys(probes)))}
        records = [
            Measurement("probes/share", self.governor.share, description="share of wall time of probes and sinks"),
            Measurement("probes/seconds", [self.governor.spent[key] for key in everything], ("plugin",),
                        plugin_axis, unit="s", description="time taken so far"),
            *(Measurement(f"probes/{what}", [getattr(plugin, what) for plugin in probes], ("probe",), probe_axis,
                          unit="turns", description=f"turns {what} so far")
              for what in ("measured", "skipped", "failed")),
        ]  # fmt: skip
        self.plugins.call_all("write", run=self.run, measurements=[self._stamped(record) for record in records])

    def _turn(self, plugin: Plugin, delay: int, cost: float) -> list[Measurement]:
        """The record of one turn: what it cost, and how long after it was due it could be afforded."""
        name = re.sub(r"[^\w=+@,()\[\]-]", "_", plugin.key)
        return [
            self._stamped(Measurement(f"probes/turn_seconds/{name}", cost, unit="s", description="cost of the turn")),
            self._stamped(
                Measurement(f"probes/turn_delay/{name}", delay, unit="steps", description="measured later than due by")
            ),
        ]

    def _stamped(self, record: Measurement) -> Measurement:
        return record.taken(self.run.step, time.time(), "probes", self._version)


def _versions(batches: Mapping[str, Batch]) -> dict[str, list[int]]:
    return {
        name: [leaf._version for leaf in tensors((batch.args, batch.kwargs, batch.targets)) if not leaf.is_inference()]
        for name, batch in batches.items()
    }
