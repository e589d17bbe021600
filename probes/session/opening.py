"""A run that has been opened: its files, its steps, its first batch; and all that ends with it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch.optim import Optimizer

from ..batches import Batch
from ..budget.governor import Governor
from ..guard.modes import unseen_by_modes
from ..guard.undo import within_guard
from ..loop.first_batch import FirstBatch
from ..loop.steps import StepCounter
from ..run import Run
from . import checkpoint
from .calls import Plugins
from .lifetime import Lifetime, beside_others
from .open_sinks import open_sinks
from .plugins import log, text_of
from .report import begun, ended, found, report, say
from .session import Session, Together
from .settings import Settings
from .turns import Turns

__all__ = ["Attached"]


class Attached:
    """Counts the steps of a loop, and keeps the files of its run open.

    Args:
        settings: The manager's arguments.
        run: The run, which may have been attached before, and goes on.
        governor: Its budget.
        batches: Those that were given.
        optimizers: Those that were given.
        resumed: The state of a checkpoint, if the run goes on from one.
    """

    @unseen_by_modes()
    def __init__(
        self,
        settings: Settings,
        run: Run,
        governor: Governor,
        batches: Mapping[str, Batch],
        optimizers: list[Optimizer],
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.run, self.governor, self._optimizers = settings, run, governor, optimizers
        self._resumed = resumed
        self._last_state, self._last_report = dict[str, Any](), ""
        self._first: FirstBatch | None = None
        self._counter: StepCounter | None = None
        self._lifetime: Lifetime | None = None
        self._targets_seen_in = ""
        self.ended = False
        # Attached again, the run goes on: in the same files, on the same batches, as many samples as fitted then.
        whole = {*run.batches, *(name for name, data in (settings.batches or {}).items() if isinstance(data, Batch))}
        run.batches = {**batches, **run.batches}
        if run.step and run.resumed_from is None:
            run.resumed_from = run.step
        run.optimizers, run.ended_by = list(optimizers), ""
        self.plugins = Plugins(governor, settings.on_error, settings.deadline)
        self.session = Session(run, self.plugins, self._arrange, whole)
        run.config = settings.config(run.model)
        for item in (*settings.made_probes, *settings.new_sinks()):
            self.plugins.add(item)

    @unseen_by_modes()
    def open(self, plain_closures: bool = False, team: Callable[[Turns], Together] | None = None) -> None:
        """Open the files and begin to watch; of a run that cannot be opened nothing is left.

        Args:
            plain_closures: Whether optimizers call their closures at the weights as they are.
            team: Makes what rank 0 does with the other ranks, if there are any.
        """
        try:
            self._open(plain_closures, team)
        except BaseException:
            try:
                with suppress(Exception):
                    self.session.forget()  # nothing was measured: there is nothing to write, nor to record
            finally:
                self.detach()
            raise

    def _open(self, plain_closures: bool, team: Callable[[Turns], Together] | None) -> None:
        run, plugins, session = self.run, self.plugins, self.session
        if self.settings.sinks is None or self.settings.made_sinks:
            open_sinks(plugins, run, self.settings, self._resumed)
        if self._resumed is not None:
            try:
                checkpoint.restore(self._resumed, session)
            except Exception as error:
                if self.settings.on_error == "raise":
                    raise
                plugins.record(
                    "fault",
                    None,
                    f"Not all of the checkpoint's state of the probes could be taken up, and what they measure may "
                    f"not go on from it: {text_of(error)}.",
                )
        for message in self.settings.problems:
            plugins.record("fault", None, message)
        if message := beside_others(run.model):
            plugins.record("warning", None, message)
        session.attach()
        self._counter = StepCounter(
            run.model,
            self._optimizers,
            session.before_first,
            session.after_step,
            session.least_due,
            before_step=session.before_step,
            new=self._stepped,
            notice=lambda message: plugins.record("warning", None, message),
            fault=self._cannot_count,
        )
        session.watching.look_before = self._counter.look_before
        self._counter.look_before(session.watching.looks_before)
        self._counter.plain_closures, self._counter.work = plain_closures, session.turns
        self._counter.step = run.step
        if team is not None:
            with suppress(Exception):  # of a backend without a store
                session.team = team(session.turns)
        session.missed = self._missed
        self._first = FirstBatch(
            run.output,
            100,
            session.turns.block,
            lambda: session.turns.busy or within_guard(),
            wanted="train" not in run.batches,
            waiting=lambda calls: plugins.record("warning", None, self._missed()),
        )
        if self._first.wanted:
            self._first.watch(self.settings.model)
        else:  # no hook of ours: of a model that is compiled later it would stay in the graph
            session.turns.check_needs()
        self._lifetime = Lifetime(self)
        self._lifetime.begin(self)
        if not self.settings.silent:
            say(begun(session))

    def __del__(self) -> None:
        """The model has gone, and all that held the run with it: there is nothing more to come."""
        with suppress(Exception):  # of one that an interrupt has left unmade, too
            if self._lifetime is not None and not self.ended:
                self._end(keep_state=False)

    def detach(self) -> None:
        """Remove every hook of ours, measure nothing more, write and close the files; a second time nothing."""
        self._end(keep_state=True)

    def _end(self, keep_state: bool) -> None:
        if self.session.turns.later(lambda: self._end(keep_state)):
            # A signal handler, or a forward hook of the script's, while a probe measures: the process may end with it.
            if self.session.turns.busy:
                with suppress(Exception):
                    self.session.accounts.flush()
            return
        if self._first is not None:
            self._first.close()  # it leaves a mode of ours
        self._close(keep_state)

    @unseen_by_modes()
    def _close(self, keep_state: bool) -> None:
        if self._counter is not None:
            self.run.step = self._counter.resolve()
            self._counter.remove()
            self._counter = None
        if self.ended:
            return
        try:
            if keep_state and not self.session.abandoned:
                with suppress(Exception):
                    self._last_state = checkpoint.save(self.session)
        finally:
            try:
                self.session.detach()
            finally:  # after an interrupt too, everything is closed
                self.ended = True
                if self._lifetime is not None:
                    self._lifetime.end(self)
                self.run.resumed_from = None
        try:
            self._last_report = self._report()
            if not (self.settings.silent or self.session.abandoned):
                say(ended(self.session))
        except Exception:  # of a model that is not what it was
            log.exception("The report of the run could not be made; its files are closed.")
        finally:
            self._first = None
            self.session.release()

    def forked(self) -> None:
        """In a forked child (a loader's worker) nothing is done: the files are the parent's."""
        self.session.forked()
        self._lifetime = None

    def step(self) -> None:
        """Count an update that no torch optimizer made."""
        if self._counter is None:
            return
        self.session.step_by_hand()
        if not self._counter.by_hand():
            self.plugins.record(
                "warning",
                None,
                "manager.step() counts nothing here: a torch optimizer updates the model, and its steps are counted by "
                "themselves. Leave the calls out.",
            )

    @unseen_by_modes()
    def report(self) -> str:
        """What is watched, what is not and what to pass, after the end as it was then; and what was found."""
        if not self.ended:
            with suppress(Exception):  # of a sink, which will be told at the next flush
                self.session.accounts.flush()
        return (self._last_report or self._report()) + found(self.session)

    def _report(self) -> str:
        first = self._first
        return report(
            self.session,
            missed=self._missed() if first is not None and first.calls and not self.ended else "",
            targets_seen_in=self._targets_seen_in,
            awaited=first is not None and first.wanted and not first.done and not self.ended,
            broken=self.settings.problems,
        )

    @unseen_by_modes()
    def state_dict(self) -> dict[str, Any]:
        """What the run needs to go on from a checkpoint; files are flushed first. After the end as it was then."""
        if self.ended:
            return dict(self._last_state)
        try:
            if self._counter is not None:
                self.run.step = self._counter.resolve()
            self.session.accounts.flush()
            return checkpoint.save(self.session)
        except Exception as error:
            if self.settings.on_error == "raise":
                raise
            self.plugins.record(
                "fault",
                None,
                f"The probes' part of a checkpoint could not be made, and a run resumed from it starts a new record: "
                f"{text_of(error)}.",
            )
            return {}

    def _arrange(self, final: bool = False) -> None:
        """Take over the first batch, when there is one, and say which probes cannot run; called at the first step."""
        first = self._first
        if (first is None or first.done) and not final:
            return
        if first is not None and not first.done:
            if first.wanted and first.batch is None and first.unusable is None and not final:
                return  # the optimizer runs the forward itself (a closure): it will be there after the step
            first.finish()
            if first.batch is not None:
                self.run.batches = {"train": first.batch, **self.run.batches}
                self._targets_seen_in, self.run.output = first.loss, first.output
                self.run.criterion = first.criterion
            self.run.shown = first.shown
        self.session.turns.check_needs()

    def _cannot_count(self, error: Exception) -> None:
        """What kept a step from being counted ends the measuring, and not the training."""
        if self.settings.on_error == "raise" or not self.plugins.is_a_fault(error):
            raise error
        message = f"A step of an optimizer could not be counted; nothing more is measured. {text_of(error)}"
        self.plugins.record("fault", None, message, "".join(traceback.format_exception(error)))

    def _stepped(self, optimizer: Optimizer, replaced: list[Optimizer]) -> None:
        """Take an optimizer that makes its first step among those of the run, in the place of one it replaces."""
        known, gone = self.run.optimizers, {id(optimizer), *map(id, replaced)}
        place = next((index for index, each in enumerate(known) if id(each) in gone), len(known))
        self.run.optimizers = [*known[:place], optimizer, *(each for each in known[place:] if id(each) not in gone)]

    def _missed(self) -> str:
        """What is waited for, while no step has come."""
        calls = self._first.calls if self._first is not None else 0
        return (
            f"No optimizer step was seen{f', although the model was called {calls} times in training' if calls else ''}"
            f". Steps are counted in step() of the torch optimizers that hold parameters of the model: pass yours, "
            f"attach(optimizer), or call manager.step() after each update that no torch optimizer makes."
        )
