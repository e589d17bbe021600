"""ProbeManager: attaches to a training loop, runs the probes that are due and hands what they measured to the sinks."""

from __future__ import annotations

import functools
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .guard.process import random_states_kept
from .loop.wrappers import given_optimizers, unwrap_model
from .probe import Probe
from .ranks.channel import Place
from .ranks.helper import Helper
from .ranks.team import Team
from .run import Run
from .session import checkpoint
from .session.lifetime import OTHER_RANK, Inactive, copied, failure, in_ranks, why_inactive
from .session.opening import Attached
from .session.plugins import OnError, log, text_of
from .session.session import Session
from .session.settings import Settings, read_batches, watchers

__all__ = ["ProbeManager"]


class ProbeManager:
    """Measures what training does to the function that a model computes, from within any training loop.

    ``ProbeManager(model).attach()`` is all that a script needs; nothing in the loop changes. Attached, with nothing
    due, it costs a few microseconds a step; what is measured never changes the training by one bit.

    Args:
        model: The object that the loop calls: the module, or its DDP, DataParallel or ``torch.compile`` wrapper.
        probes: What to measure: :class:`Probe` instances, or names; by default every installed probe that runs so.
        batches: The fixed batches to measure on, by name: tensors, ``(inputs, targets)``, dicts of keyword arguments,
            a Dataset, a DataLoader or a :class:`~probes.batches.Batch`; of more than 100 samples a seeded sample of 100
            is taken. For a model that takes a dict as its one argument, ``Batch((dict,), targets=...)``. If there is no
            ``"train"``, the loop's first becomes it.
        sinks: Where results go: sinks, or names of installed ones; by default ``["hdf5", "tensorboard"]``, both in
            ``log_dir``. Only HDF5 holds everything: the others are copies to look at.
        log_dir: Directory of the results; by default ``runs/<date and time>``.
        overhead: What all probes and sinks together may take, relative to the time of the training itself: a probe's
            turn is postponed while it would exceed it, and the ``head_start``. None for exact schedules at any cost.
        output: Picks the output tensor, of shape ``(n, c)`` or ``(n,)``, from what the model returns. By default the
            tensor itself, its ``logits``, or the first of a tuple.
        seed: Seed of everything random in the probes; the global random state is never touched.
        on_error: ``"log"``: a fault of a probe or a sink, or a ``log_dir`` that cannot be used, is logged and recorded,
            and training goes on. ``"raise"``: it is raised, for development.
        deadline: Seconds after which the log says that a call into a probe or a sink is not over, and where it is. It
            is not stopped, which Python cannot do.
        head_start: Seconds that all probes and sinks together may take in any case, so that early training is seen:
            given out over the logarithm of the steps, until ``overhead`` allows as much.
        quiet: Whether nothing is said when watching begins and ends, as with ``PROBES=quiet`` in the environment: two
            lines, logged at level INFO, or on the standard error where the script has not configured logging.

    Raises:
        TypeError, ValueError: If an argument is not what it must be, the model has no parameters, or no probe has the
            given name.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> manager = ProbeManager(model, probes=[], sinks=[])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with manager.attach(optimizer):
        ...     model(torch.zeros(4, 2)).sum().backward()
        ...     optimizer.step()
        >>> manager.run.step
        1
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Sequence[Probe | str | object] | None = None,
        batches: Mapping[str, Any] | None = None,
        sinks: Sequence[object | str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        overhead: float | None = 0.05,
        output: Callable[[Any], Tensor] | None = None,
        seed: int = 0,
        on_error: OnError = "log",
        deadline: float = Settings.deadline,
        head_start: float = Settings.head_start,
        quiet: bool = False,
    ) -> None:
        self._settings = Settings(
            model, probes, batches, sinks, log_dir, overhead, output, seed, on_error, deadline, head_start, quiet
        )
        for watcher in watchers:
            watcher.made(self._settings)
        self._governor = self._settings.governor()
        self.run = Run(
            model=unwrap_model(model),
            log_dir=self._settings.directory or Path("runs"),
            seed=seed,
            output=self._settings.picks,
            run_id=uuid.uuid4().hex,
        )
        self.plain_closures = False
        """Set by a framework's callback: whether its optimizers call their closures at the weights as they are."""
        self.wrapper = model
        """What the loop calls; set by a framework's callback where it wraps the model in it."""
        self._now: Attached | Inactive | None = None
        """What attaching has led to."""
        self._given_optimizers: list[Optimizer] = []
        self._place: Place | None = None
        self._resumed: dict[str, Any] | None = None
        """The state of the checkpoint that the next attach goes on from."""
        self._governor.begin()
        self._governor.pause()

    def attach(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> ProbeManager:
        """Begin to watch; returns the manager, which is also a context manager that detaches.

        A ``log_dir`` that cannot be written, is full, holds another run or belongs to another process is no reason to
        stop a training: unless ``on_error="raise"``, the results go to a directory beside it (``<log_dir>_2``), or to
        one for temporary files, which ``run.log_dir``, the log, the report and the events of the run name. In a process
        that was started to load data, where the training script is only imported, nothing is watched; nor anywhere when
        the environment variable ``PROBES`` is ``off``: the script then trains as if this call were not there.

        Args:
            optimizer: The optimizer(s) whose updates are the steps; by default every optimizer that holds a parameter
                of the model.

        Raises:
            RuntimeError: If the manager is attached already.
            TypeError, ValueError: If ``optimizer`` is not a torch optimizer or trains another model, or a batch is
                not one.
            OSError, RuntimeError: With ``on_error="raise"``, if ``log_dir`` cannot be written, holds another run or
                belongs to another process.
        """
        if self._session is not None:
            raise RuntimeError("This ProbeManager is attached already. Call detach() first.")
        self._governor.resume()
        try:
            with self._governor.charged_to_core(), random_states_kept():
                self._attach(optimizer)
        finally:
            if self._session is None:
                self._governor.pause()
        for watcher in watchers:
            watcher.attached(self.run, self._session.turns.probes if self._session else [])
        return self

    def _attach(self, optimizer: Optimizer | Sequence[Optimizer] | None) -> None:
        self._given_optimizers = given_optimizers(optimizer, self.run.model)
        if self._now is not None:
            self._now.detach()
            self._now = None
        reason = why_inactive()
        settings, optimizers = self._settings, self._given_optimizers
        if in_ranks() and reason in ("", OTHER_RANK):
            self._place = self._place or Place()
        place, called = self._place, self.wrapper
        if reason:  # one process measures and writes; the others hand over their shards, if they have any
            self._now = Inactive(reason)
            if reason == OTHER_RANK and place is not None:
                try:
                    self._now.close = Helper(called, self.run, settings, optimizers, place).detach
                except Exception as error:
                    log.info("This rank hands nothing to rank 0: %s", text_of(error))
            return
        try:
            batches = read_batches(settings, self.run)
        except (TypeError, ValueError):
            raise
        except Exception as error:
            return self._give_up(error)
        team = functools.partial(Team, called, place, settings.signature(self.run.model)) if place else None
        try:
            # In two steps: an interrupt between them finds what is to be detached.
            self._now = now = Attached(settings, self.run, self._governor, batches, optimizers, self._resumed)
            now.session.watching.called = called
            now.open(self.plain_closures, team)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._settings.on_error == "raise":
            raise error
        self._now = Inactive(f"could not attach, by an internal error: {text_of(error)}")
        log.error("The probes could not attach: an internal error. Training goes on without them.", exc_info=error)

    @property
    def _session(self) -> Session | None:
        return self._now.session if isinstance(self._now, Attached) and not self._now.ended else None

    def detach(self) -> None:
        """Stop watching: remove every hook of ours, measure nothing more, write and close the files."""
        if self._now is None:
            return
        attached = self._session is not None
        try:
            self._now.detach()
        finally:
            if attached:
                self._governor.pause()
                self._resumed = None

    def __enter__(self) -> ProbeManager:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self._now is None else (copied, (type(self),))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.run.ended_by = failure(error)
        self.detach()

    def step(self) -> None:
        """Count an update of the model that no torch optimizer made: call it right after each.

        For parameters that the script changes itself, or an optimizer of another library. Steps of torch optimizers
        are counted by themselves; where one has stepped, this does nothing but say so. What must see the parameters
        before each update (``complexity``) cannot run, and step 0 is not measured: the model is another by the time
        of the first call.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(2, 1)
            >>> with ProbeManager(model, probes=[], sinks=[]).attach() as manager:
            ...     with torch.no_grad():
            ...         _ = model.weight.mul_(0.9)
            ...     manager.step()
            >>> manager.run.step
            1
        """
        if (isinstance(self._now, Attached) and self._now.ended) or self._now is None:
            log.warning("manager.step() counts nothing before attach() and after detach().")
        else:
            self._now.step()

    def report(self) -> str:
        """What is watched, what is not and what to pass, and what each probe has cost so far; a text to print."""
        return "Not attached. Call attach(), or attach(optimizer).\n" if self._now is None else self._now.report()

    def _repr_html_(self) -> str:
        """The report, for notebooks; names may hold anything, and are text."""
        from html import escape

        return f"<pre>{escape(self.report())}</pre>"

    def state_dict(self) -> dict[str, Any]:
        """What the run needs to go on from a checkpoint, to be saved in it; files are flushed first.

        Tensors, numbers, strings and containers of them only: ``torch.load(..., weights_only=True)`` reads it. Empty on
        every rank but the first. After :meth:`detach` it is what it was then.

        Raises:
            RuntimeError: If the manager has not been attached yet.
        """
        if self._session is None and self._resumed is not None and not isinstance(self._now, Inactive):
            return dict(self._resumed)
        if self._now is None:
            raise RuntimeError("state_dict() needs an attached ProbeManager. Call attach() first.")
        return self._now.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, in the same files: what they hold past its step is cut off.

        Call it before the first step; with an explicit ``log_dir``, before :meth:`attach`.

        Raises:
            RuntimeError: If steps have been taken since attach.
            ValueError: If it is not a state of a ProbeManager.
        """
        if isinstance(self._now, Inactive):
            return
        if not state:
            log.warning("The checkpoint holds nothing of the probes: a new record begins at this step.")
            return
        checkpoint.check(state)
        session, settings = self._session, self._settings
        if session is not None:
            if self.run.step or session.accounts.measured:
                raise RuntimeError("load_state_dict() must be called before the first step, best before attach().")
            resumed = self._resumed
            session.forget()
            self.detach()
            asked = settings.directory is not None and settings.directory.absolute() == self.run.log_dir
            if not asked and resumed is None and settings.sinks != []:
                shutil.rmtree(self.run.log_dir, ignore_errors=True)  # fresh, and made for nothing
        if self.run.step:
            self._governor = settings.governor()  # those accounts are of another life of the run
            self._governor.pause()
        self._resumed = dict(state)
        self.run.run_id, self.run.seed = state["run_id"], state["seed"]
        self.run.step, self.run.resumed_from = state["step"], state.get("recorded", state["step"])
        if session is not None:
            self.attach(self._given_optimizers or None)
