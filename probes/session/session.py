"""One attached run: what the user's loop calls, and when the probes get their turns."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from torch.optim import Optimizer

from ..budget.first_turn import fit_batches
from ..guard.handlers import handlers_pass
from ..guard.modes import unseen_by_modes
from ..loop.sharding import in_parts, unshared
from ..run import Run
from .accounts import Accounts
from .calls import Plugins
from .plugins import invoke, keys, log, text_of
from .turns import Turn, Turns
from .watching import Watching

__all__ = ["Session", "Together"]


class Together(Protocol):
    """The ranks that hold a model together, as rank 0 sees them: :class:`probes.ranks.team.Team`."""

    def set_up(self) -> bool: ...
    def gathers(self, step: int) -> bool: ...
    def gather(self, step: int, taken: list[Turn]) -> bool: ...
    def agree(self, due: float, wait: float) -> int | None: ...
    def looks(self, step: int, updates: int) -> bool: ...
    def next_look(self, step: int, updates: Iterable[int | None]) -> int: ...
    def end(self) -> None: ...


class Session:
    """Lets the probes of one run have their turns, inside the guard and the budget, and the sinks write.

    Args:
        run: The run.
        plugins: Its plugins.
        arrange: Called at the first steps, until the batches are known.
        whole: The batches of which all samples are measured on.
    """

    def __init__(self, run: Run, plugins: Plugins, arrange: Callable[..., None], whole: Iterable[str] = ()) -> None:
        self.run, self.plugins, self._arrange = run, plugins, arrange
        self.governor = plugins.governor
        self._wall = self.governor.wall
        self.turns, self.accounts, self.whole = Turns(run, plugins), Accounts(run, plugins), set(whole)
        self.missed: Callable[[], str] | None = None
        """Says what is waited for while no step has come."""
        self.team: Together | None = None
        """The other ranks, where they hold the model together."""
        self.abandoned = False
        """Whether not even the files are closed: the run has not begun, or is another process's."""
        self._silent = self._begun = self.by_hand = False
        self._apart = False
        """Whether a forward pass would wait for other ranks, which do not take part."""
        self._inexact = False
        """Whether this step was counted without asking the accelerator which updates it has skipped."""
        self._next_due, self._wake_at = math.inf, math.inf
        self.watching = Watching(run, plugins, self.turns)
        plugins.bind(run)
        governor = self.governor
        run.bind(governor.affords_extra, plugins.skip, lambda: governor.first_turn_limit, governor.clock)

    def attach(self) -> None:
        """Set the schedules and tell the plugins."""
        place = f"; results go to {self.run.log_dir}" if self.plugins.having("write") else ""
        self.plugins.record_early()
        self.plugins.record("attach", None, f"Attached at step {self.run.step}{place}.")
        self.turns.attach()
        self.watching.plan(self.run.step)
        self._plan(allot=False)  # to resume is no reason to give out what was earned at another moment

    def least_due(self) -> int:
        """The least step at which an exact count of steps is needed."""
        self._inexact = not self.watching.probes and self._wall() < self._wake_at
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
            with self.governor.charged_to_core():
                if self.team is None and not self._begun and (reason := unshared(self.run.model)):
                    self._apart = True
                    self.turns.refuse(self.turns.probes, reason)
                self._arrange()  # it leaves a mode of ours
            with handlers_pass(), unseen_by_modes(), self.turns.at_work():
                with self.governor.charged_to_core():
                    self._fit_batches()
                    if self.team is not None and not self._begun and not self.team.set_up():
                        self.team = None
                self._begun = True
                self._work(self.run.step)
        except BaseException as error:
            self._own_fault(error)

    def before_step(self, optimizer: Optimizer | None, closure: bool) -> None:
        """Called before an update, if a plugin wants it."""
        if self._silent:
            return
        try:
            with unseen_by_modes():
                self.watching.before(optimizer, closure)
        except BaseException as error:
            self._own_fault(error)

    def after_step(self, step: int) -> None:
        """Called after every step; when nothing is due, this is all that runs."""
        self.run.step = step
        if self._silent:
            return
        try:
            if not self.turns.arranged:
                self._arrange(final=True)
                self._fit_batches()
                waited = not all(map(self.turns.ready, self.turns.probes))
                self.turns.arranged = True
                if waited or self.team is not None:  # with other ranks, the next gathering is agreed on from here
                    self._next_due = step
            due = step >= self._next_due or (not self._inexact and self._wall() >= self._wake_at)
            if due or self.watching.probes:
                with unseen_by_modes(), self.turns.at_work():
                    if self.watching.probes:
                        self.watching.after(step)
                    if due:
                        self._work(step)
            if self.by_hand and self.watching.probes:  # the next update comes without notice
                self.before_step(None, closure=True)
        except BaseException as error:
            self._own_fault(error)

    def step_by_hand(self) -> None:
        """An update comes that no optimizer has made: what must see each before it is made cannot run."""
        if not self._begun:
            self._begun = True
            self._disband()  # the other ranks see no step
            self.by_hand = True
            blind = [plugin for plugin in self.turns.probes if "before_step" in plugin.hooks and plugin.sees_all]
            self.turns.refuse(
                blind, "it must see the parameters before every update, and manager.step() comes after it."
            )

    def _fit_batches(self) -> None:
        if self._apart or self.run.batches.keys() <= self.whole or in_parts(self.run.model):
            return  # a forward pass would wait for other ranks
        with self.turns.at_work():
            looked = fit_batches(self.run, self.whole, self.governor.first_turn_limit)
        self.whole |= looked.keys()
        for message in filter(None, looked.values()):
            self.plugins.record("warning", None, message)

    def _work(self, step: int) -> None:
        """Let those measure whose turn can be afforded, and the sinks write what they measured."""
        with self.turns.at_work(), self.governor.charged_to_core():
            self.governor.allot(step, keys(self.turns.preparing(step)))
            spent, taken = {**self.governor.spent, **self.watching.spent}, list[Turn]()
            self.run.end()  # an interrupt may have kept it from being done
            try:
                if self.team is None:
                    for plugin in self.turns.waiting(step):
                        if self.turns.leave is None and plugin.has_seen(step) and self.governor.affords(plugin.key):
                            taken.append(self.turns.take(plugin, step))
                elif self.team.gathers(step) and not self.team.gather(step, taken):
                    self.team = None
            finally:  # after an interrupt too, what the others have measured is written
                self.accounts.share()
                if taken:
                    self.accounts.enter(taken, spent)
                    self.governor.allot(step, keys(self.turns.preparing(step)))  # they look at the very next update
                self.watching.plan(step, taken, None if self.team is None else self.team.looks)
            if self._wall() >= self.accounts.flush_at:
                self.accounts.total(self.turns.probes)
                self.accounts.flush()
            self._plan()

    def _plan(self, allot: bool = True) -> None:
        """When to wake next: at a step, or when a postponed probe can be afforded or rows should be flushed."""
        step, turns = self.run.step, self.turns
        self._next_due, self._wake_at = math.inf, self.accounts.flush_at
        for plugin in turns.probes:
            if plugin.due is not None and not plugin.problem and (plugin.due > step or not turns.arranged):
                begin = plugin.due - (plugin.watched_updates or 0 if self.team is None else 0)
                self._next_due = min(self._next_due, begin if begin > step else plugin.due)
            if self.team is None and plugin.watching_since is not None:
                seen = plugin.watching_since + (plugin.watched_updates or 0)  # also of a turn that is late
                self._next_due = min(self._next_due, max(plugin.due or 0, seen, step + 1))
        wait = math.inf
        if waiting := keys(plugin for plugin in turns.preparing(step) if plugin.watching_since is None):
            if allot:
                self.governor.allot(step, waiting)
            self.governor.step = step
            wait = self.governor.next_turn(waiting) - self.governor.clock()
        if self.team is not None and self._begun:
            if self.team.agree(self._next_due, wait) is not None:
                self._next_due = self.team.next_look(step, [p.watched_updates for p in turns.probes if p.joins_parts])
                return
            self.team = None
        # Wall time runs at least as fast as that of the budget: what comes of it is no later than it should be.
        self._wake_at = min(self._wake_at, self._wall() + wait)

    def _own_fault(self, error: BaseException) -> None:
        if not self.plugins.is_a_fault(error):
            self.plugins.interrupted(error, "between the calls of plugins")
            raise error
        if self.plugins.on_error == "raise":
            raise error
        self._silent = True
        self.watching.end()
        self._disband()
        message = (
            f"The probes have stopped: an internal error. Training goes on; what was measured is kept. {text_of(error)}"
        )
        try:
            self.plugins.record("fault", None, message, "".join(traceback.format_exception(error)))
        except Exception:
            log.exception(message)

    def detach(self) -> None:
        """Write what waits and close everything."""
        if self.abandoned:
            return
        try:
            with self.governor.charged_to_core():
                self.accounts.total(self.turns.probes)
                if self.turns.probes and not self.run.step and not self.accounts.measured and self.missed:
                    self.plugins.record("warning", None, f"Nothing was measured. {self.missed()}")
                self.plugins.record("detach", None, f"Detached at step {self.run.step}.")
                self._disband()
                self.accounts.flush()
                self.governor.close()
        except BaseException as error:
            self._own_fault(error)
        finally:
            # The sinks last, and the last one first: it may tell the others of what it left out.
            with self.governor.charged_to_core():
                self._close()

    def _close(self) -> None:
        """Let every plugin close what it has open, also one that is out of service; an interrupt comes after that."""
        self.watching.end()
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

    def forked(self) -> None:
        """In a forked child: the files are the parent's."""
        self._silent = self.abandoned = True
        self.watching.end()
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
            self._silent = self.abandoned = True

    def release(self) -> None:
        """All is over: what refers to this one is let go, or the model would stay until Python looks for cycles."""
        self._arrange, self.missed, self.watching.look_before = (lambda **_: None), None, lambda wanted: None
        self._next_due, self._wake_at, self.watching.probes = math.inf, math.inf, []  # in the middle of a step, too
        self.plugins.release()
        self.run.bind()

    def measure_at(self, step: int) -> None:
        """Let the probes measure the model as it is now: it was loaded, not trained."""
        self.run.step, self._begun, self.turns.arranged = step, True, True
        self._work(step)
