"""ProbeManager: attaches to a training loop, runs the probes that are due and hands what they measured to the sinks."""

from __future__ import annotations

import html
import multiprocessing
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from .batches import Batch, as_batch
from .budget.governor import HEAD_START, Governor
from .guard.process import random_states_kept
from .guard.unnoticed import unnoticed
from .loop.first_batch import FirstBatch
from .loop.steps import StepCounter
from .loop.wrappers import shares_parameters, unwrap_model, unwrap_optimizer
from .measurement import NAME
from .outputs import pick_output
from .probe import Probe
from .ranks.channel import Place
from .ranks.helper import Helper
from .ranks.team import Team
from .run import Run
from .session import checkpoint
from .session.calls import DEADLINE, Plugins
from .session.discovery import BrokenPlugin, default_names, load, load_sink
from .session.events import OnError, invoke, log, text_of
from .session.lifetime import DetachAtExit, already_watching, close_late, keep_alive, silence_in_children, without_model
from .session.plugin import Plugin
from .session.plugins import HOOKS
from .session.report import report
from .session.session import Session
from .sinks.log_dir import LogDirTaken, choose

__all__ = ["ProbeManager", "check_batches"]


class ProbeManager:
    """Measures what training does to the function that a model computes, from within any training loop.

    ``ProbeManager(model).attach()`` is all that a script needs; nothing in the loop changes. Attached, with nothing
    due, it costs a few microseconds a step; what is measured never changes the training by one bit.

    Args:
        model: The object that the loop calls: the module, or its DDP, DataParallel or ``torch.compile`` wrapper.
        probes: What to measure: :class:`Probe` instances, or names of installed ones. By default every installed probe
            that runs by default.
        batches: The fixed batches to measure on, by name: tensors, ``(inputs, targets)``, dicts of keyword arguments,
            a Dataset, a DataLoader or a :class:`~probes.batches.Batch`; of more than 100 samples a seeded sample of 100
            is taken. For a model that takes a dict as its one argument, ``Batch((dict,), targets=...)``. When there is
            no ``"train"``, the first batch the loop shows becomes it.
        sinks: Where results go: sinks, or names of installed ones; by default ``["hdf5", "tensorboard"]``, both in
            ``log_dir``. Only HDF5 holds everything: the others are copies to look at.
        log_dir: Directory of the results; by default ``runs/<date and time>``.
        overhead: What all probes and sinks together may take, relative to the time of the training itself: a probe's
            turn is postponed while it would exceed it, and the ``head_start``. None for exact schedules whatever they
            cost.
        output: Picks the output tensor, of shape ``(n, c)`` or ``(n,)``, from what the model returns. By default the
            tensor itself, its ``logits``, or the first of a tuple.
        seed: Seed of everything random in the probes; the global random state is never touched.
        on_error: ``"log"``: a fault of a probe or a sink, or a ``log_dir`` that cannot be used, is logged and recorded,
            and training goes on. ``"raise"``: it is raised, for development.
        deadline: Seconds after which the log says that a call into a probe or a sink is not over, and where it is. It
            is not stopped, which Python cannot do.
        head_start: Seconds that all probes and sinks together may take in any case, so that early training is seen:
            given out over the logarithm of the steps, until ``overhead`` allows as much.

    Raises:
        TypeError, ValueError: If an argument is not what it must be, the model has no parameters, or no probe has the
            given name.

    Example:
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
        deadline: float = DEADLINE,
        head_start: float = HEAD_START,
    ) -> None:
        self._governor = Governor(overhead, head_start=head_start)
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        if next(iter(model.parameters()), None) is None:
            raise ValueError(f"`model` has no parameters ({type(model).__name__}): there is no training to watch.")
        check_batches(batches)
        if output is not None and not callable(output):
            raise TypeError(f"`output` must be a function of what the model returns, got {type(output).__name__}.")
        if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0:
            raise ValueError(f"`deadline` must be a number of seconds greater than 0, got {deadline!r}.")
        if on_error not in ("log", "raise"):
            raise ValueError(f"`on_error` must be 'log' or 'raise', got {on_error!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"`seed` must be an integer, 0 or greater and below 2**63, got {seed!r}.")
        if log_dir is not None and (not isinstance(log_dir, str | os.PathLike) or "\0" in os.fspath(log_dir)):
            raise ValueError(f"`log_dir` must be a path, got {log_dir!r}.")
        if log_dir is not None and not os.fspath(log_dir):
            raise ValueError("`log_dir` is empty. Pass a directory, such as '.', or nothing for runs/<date and time>.")
        _check_list("probes", probes)
        _check_list("sinks", sinks)
        self._called = model
        self._given_batches = dict(batches or {})
        self._given_log_dir = Path(log_dir).expanduser() if log_dir is not None else None
        self._given_optimizers: list[Optimizer] = []
        self._broken: list[str] = []
        self._head_start = head_start
        self._overhead, self._on_error, self._deadline = overhead, on_error, deadline
        with random_states_kept():  # a probe may build a network of its own
            made = [
                self._make(probe, named=probes is not None) for probe in (default_names() if probes is None else probes)
            ]
        self._probes = [probe for probe in made if probe is not None]
        made_sinks = [self._make_sink(sink) for sink in sinks] if sinks is not None else None
        self._sinks = None if made_sinks is None else [sink for sink in made_sinks if sink is not None]
        self.run = Run(
            model=unwrap_model(model),
            log_dir=self._given_log_dir or Path("runs"),
            seed=seed,
            output=output or pick_output,
            run_id=uuid.uuid4().hex,
        )
        self.plain_closures = False
        """Set by a framework's callback: whether its optimizers call their closures at the weights as they are."""
        self.wrapper = model
        """Set by a framework's callback: what it trains on several ranks, of which the model is a part."""
        self._inactive = ""
        self._place: Place | None = None
        self._helper: Helper | None = None
        """On every rank but the first: what hands over its part of a model that is sharded."""
        self._state: dict[str, Any] | None = None
        self._last_state: dict[str, Any] | None = None
        self._session: Session | None = None
        self._first: FirstBatch | None = None
        self._counter: StepCounter | None = None
        self._loss = "given" if "train" in self._given_batches else ""
        self._governor.begin()
        self._governor.stop()

    # ------------------------------------------------------------------------------------------------ attach, detach

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
        self._governor.go()
        try:
            with self._governor.own(), random_states_kept():
                self._attach(optimizer)
        finally:
            if self._session is None:
                self._governor.stop()
        return self

    def _attach(self, optimizer: Optimizer | Sequence[Optimizer] | None) -> None:
        given = [] if optimizer is None else list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        self._given_optimizers = [unwrap_optimizer(item) for item in given]
        for item in self._given_optimizers:
            if not shares_parameters(item, self.run.model):
                raise ValueError(
                    f"`optimizer` ({type(item).__name__}) holds no parameter of the watched model "
                    f"({type(self.run.model).__name__}). Pass the optimizer that trains this model."
                )
        self._inactive = _why_inactive()
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several and self._inactive in ("", OTHER_RANK):
            self._place = self._place or Place()
        if self._inactive:  # one process measures and writes; the others hand over their shards, if they have any
            if several and self._inactive == OTHER_RANK:
                self._help()
            return
        run = self.run
        try:
            batches = self._batches()
        except (TypeError, ValueError):
            raise
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._give_up(error)
            return
        # Attached again, the run goes on: in the same files, on the same batches, as many samples as fitted then.
        kept = set(run.batches)
        run.batches = {**batches, **run.batches}
        if run.step and run.resumed_from is None:
            run.resumed_from = run.step
        run.optimizers = list(self._given_optimizers)
        plugins = Plugins(self._governor, self._on_error, self._deadline)
        whole = kept | {name for name, data in self._given_batches.items() if isinstance(data, Batch)}
        session = Session(run, plugins, self._arrange, whole)
        run.config = self._config()
        for probe in self._probes:
            plugins.add(probe)
        for sink in self._make_sinks():
            plugins.add(sink)
        self._session = session
        try:
            self._open(session)
        except BaseException as error:
            try:
                with suppress(Exception):
                    session.forget()  # nothing was measured: there is nothing to write, nor to tell
            finally:
                self.detach()
            if self._on_error == "raise" or not isinstance(error, Exception):
                raise
            self._give_up(error)

    def _batches(self) -> dict[str, Batch]:
        guard = unnoticed(self.run.model)
        try:
            with guard:
                return {
                    name: as_batch(data, seed=self.run.seed, name=name) for name, data in self._given_batches.items()
                }
        finally:
            guard.restore()

    def _give_up(self, error: Exception) -> None:
        self._inactive = f"could not attach, by an internal error: {text_of(error)}"
        log.error("The probes could not attach: an internal error. Training goes on without them.", exc_info=error)

    def _open(self, session: Session) -> None:
        run, plugins = self.run, session.plugins
        if self._sinks != []:
            self._open_sinks(plugins)
        if self._state is not None:
            try:
                checkpoint.restore(self._state, session)
            except Exception as error:
                if self._on_error == "raise":
                    raise
                plugins.tell("fault", None, f"Not all of the checkpoint's state of the probes could be taken up, and "
                             f"what they measure may not go on from it: {text_of(error)}.")  # fmt: skip
        for message in self._broken:
            plugins.tell("fault", None, message)
        if (other := already_watching(self)) is not None:
            plugins.tell(
                "warning",
                None,
                f"This process watches this model already, into {other.run.log_dir}, and goes on to: both measure, and "
                f"both take time. Call detach() of the first manager before the second attaches, or use it as "
                f"`with manager.attach():`.",
            )
        session.attach()
        self._counter = StepCounter(
            run.model,
            self._given_optimizers,
            session.before_first,
            session.after_step,
            session.least_due,
            before_step=session.before_step if plugins.having("before_step") else None,
            new=self._seen,
            notice=lambda message: plugins.tell("warning", None, message),
        )
        self._counter.plain_closures = self.plain_closures
        self._counter.resume(run.step)
        if self._place is not None:
            with suppress(Exception):  # of a backend without a store
                session.team = Team(self.wrapper, self._place, session.turns)
        session.missed = self._missed
        self._first = FirstBatch(
            run.output,
            100,
            session.turns.block,
            lambda: session.turns.busy,
            wanted="train" not in run.batches,
            waiting=lambda calls: plugins.tell("warning", None, self._missed()),
        )
        if self._first.wanted:
            self._first.watch(self._called)
        else:  # no hook of ours: of a model that is compiled later it would stay in the graph
            session.turns.check_needs()
        # The manager lives as long as the model, also when the script keeps no reference to it.
        keep_alive(run.model, self)
        self._at_exit = DetachAtExit(self)
        self._finalizer = weakref.finalize(self, close_late, plugins.having("write"), without_model(run), self._at_exit,
                                           plugins.watchdog)  # fmt: skip
        self._finalizer.atexit = False
        silence_in_children(self)

    def _help(self) -> None:
        """Hand over what rank 0 needs of a sharded model."""
        if self._helper is not None:
            self._helper.close()
        assert self._place is not None
        try:
            self._helper = Helper(
                self.wrapper, self.run, self._probes, self._given_optimizers, self._place, self._deadline
            )
        except Exception as error:
            log.info("This rank hands nothing to rank 0: %s", text_of(error))
        else:
            keep_alive(self.run.model, self)

    def _open_sinks(self, plugins: Plugins) -> None:
        """Find a directory that the sinks can use, and let them begin; one that fails on its own is put out."""
        run, sinks = self.run, plugins.having("write")
        hooks = {sink.key: hook for sink in sinks if (hook := sink.hooks.pop("on_attach", None))}
        failed: dict[str, BaseException] = {}

        def begin(log_dir: Path) -> None:
            run.log_dir = log_dir
            failed.clear()
            begun: list[Plugin] = []
            for sink in sinks:
                try:
                    if sink.key in hooks:
                        invoke(hooks[sink.key], run=run)
                    begun.append(sink)
                except LogDirTaken:
                    for other in begun:
                        plugins.call(other, "on_detach", run=run)
                    raise
                except BaseException as error:
                    if self._on_error == "raise" or not plugins.is_a_fault(error):
                        raise
                    failed[sink.key] = error

        resumed = Path(self._state["log_dir"]) if self._state is not None else run.log_dir if run.step else None
        asked = self._given_log_dir or resumed or Path("runs")
        try:
            _, why = choose(self._given_log_dir, resumed, begin, strict=self._on_error == "raise")
        except (OSError, LogDirTaken) as error:
            if self._on_error == "raise":
                raise
            plugins.tell("warning", None, f"Nothing is recorded: neither {asked} nor another directory can be written. "
                         f"Training goes on. {error}")  # fmt: skip
            run.log_dir, failed = asked, {sink.key: error for sink in sinks} if self._sinks is None else failed
        else:
            if why:
                plugins.tell("warning", None, f"Results go to {run.log_dir}, not to {asked}: {why}")
        for sink in sinks:
            if sink.key in failed:
                plugins.put_out(sink, failed[sink.key], "it cannot record")

    def detach(self) -> None:
        """Stop watching: remove every hook of ours, measure nothing more, write and close the files."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None
            keep_alive(self.run.model, self, remove=True)
        if self._first is not None:
            self._first.close()
            self._first = None
        if self._counter is not None:
            self.run.step = self._counter.settle()
            self._counter.remove()
            self._counter = None
        if (session := self._session) is None:
            return
        try:
            self._keep_state(session)
        finally:
            self._close(session)

    def _keep_state(self, session: Session) -> None:
        """A checkpoint may be made after detach, too."""
        self._last_state = None
        if not session.abandoned:
            with suppress(Exception):
                self._last_state = checkpoint.save(session)

    def _close(self, session: Session) -> None:
        try:
            session.detach()
        finally:  # after an interrupt too, everything is closed
            self._session = None
            keep_alive(self.run.model, self, remove=True)
            if hasattr(self, "_finalizer"):
                self._finalizer.detach()
                self._at_exit.cancel()
            self._governor.stop()
            self._state = None
            self.run.resumed_from = None
        self._last_report = report(self, session)

    def __enter__(self) -> ProbeManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def step(self) -> None:
        """Count an update of the model that no torch optimizer made: call it right after each.

        For parameters that the script changes itself, or an optimizer of another library. Steps of torch optimizers
        are counted by themselves; where one has stepped, this does nothing but say so. What must see the parameters
        before each update (``complexity``) cannot run, and step 0 is not measured: the model is another by the time
        of the first call.

        Example:
            >>> model = torch.nn.Linear(2, 1)
            >>> with ProbeManager(model, probes=[], sinks=[]).attach() as manager:
            ...     with torch.no_grad():
            ...         _ = model.weight.mul_(0.9)
            ...     manager.step()
            >>> manager.run.step
            1
        """
        if self._inactive:
            return
        if self._session is None or self._counter is None:
            log.warning("manager.step() counts nothing before attach() and after detach().")
            return
        self._session.step_by_hand()
        if not self._counter.by_hand():
            self._session.plugins.tell(
                "warning", None, "manager.step() counts nothing here: a torch optimizer updates the model, and its "
                "steps are counted by themselves. Leave the calls out."
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ what is watched

    def report(self) -> str:
        """What is watched, what is not and what to pass, and what each probe has cost so far; a text to print."""
        if self._inactive:
            return f"Inactive: {self._inactive}.\n"
        if self._session is None:
            return getattr(self, "_last_report", "") or "Not attached. Call attach(), or attach(optimizer).\n"
        return report(self, self._session)

    def _repr_html_(self) -> str:
        """The report, for notebooks; names may hold anything, and are text."""
        return f"<pre>{html.escape(self.report())}</pre>"

    def state_dict(self) -> dict[str, Any]:
        """What the run needs to go on from a checkpoint, to be saved in it; files are flushed first.

        Tensors, numbers, strings and containers of them only: ``torch.load(..., weights_only=True)`` reads it. Empty on
        every rank but the first. After :meth:`detach` it is what it was then.

        Raises:
            RuntimeError: If the manager has not been attached yet.
        """
        if self._inactive:
            return {}
        if self._session is None:
            if (state := self._state or self._last_state) is None:
                raise RuntimeError("state_dict() needs an attached ProbeManager. Call attach() first.")
            return dict(state)
        try:
            if self._counter is not None:
                self.run.step = self._counter.settle()
            self._session.accounts.flush()
            return checkpoint.save(self._session)
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._session.plugins.tell("fault", None, f"The probes' part of a checkpoint could not be made, and a run "
                                        f"resumed from it starts a new record: {text_of(error)}.")  # fmt: skip
            return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, in the same files: what they hold past its step is cut off.

        Call it before the first step; with an explicit ``log_dir``, before :meth:`attach`.

        Raises:
            RuntimeError: If steps have been taken since attach.
            ValueError: If it is not a state of a ProbeManager.
        """
        if self._inactive:
            return
        if not state:
            log.warning("The checkpoint holds nothing of the probes: a new record begins at this step.")
            return
        checkpoint.check(state)
        attached = self._session is not None
        if attached:
            if self.run.step or self._session.accounts.measured:  # type: ignore[union-attr]
                raise RuntimeError("load_state_dict() must be called before the first step, best before attach().")
            self._session.forget()  # type: ignore[union-attr]
            self.detach()
            asked = self._given_log_dir is not None and self._given_log_dir.absolute() == self.run.log_dir
            if not asked and self._state is None and self._sinks != []:
                shutil.rmtree(self.run.log_dir, ignore_errors=True)  # fresh, and made for nothing
        if self.run.step:
            self._governor = Governor(
                self._overhead, head_start=self._head_start
            )  # those accounts are of another life of the run
            self._governor.stop()
        self._state = dict(state)
        self.run.run_id, self.run.seed = state["run_id"], state["seed"]
        self.run.step, self.run.resumed_from = state["step"], state.get("recorded", state["step"])
        if attached:
            self.attach(self._given_optimizers or None)

    # ----------------------------------------------------------------------------------------------------- internals

    def _make(self, probe: Any, named: bool) -> Any:
        if isinstance(probe, str):
            try:
                found = load(probe)
            except BrokenPlugin as error:
                self._broken.append(f"{error} Training goes on without it.")
                return None
            if not named and not found.by_default:
                return None
            try:
                return found()
            except Exception as error:
                if self._on_error == "raise":
                    raise
                self._broken.append(
                    f"Plugin {probe!r} could not be made: {text_of(error)}. Training goes on without it."
                )
                return None
        if isinstance(probe, type):
            raise TypeError(f"`probes` must hold instances or names; write {probe.__name__}() instead of the class.")
        if not isinstance(probe, Probe) and not _has_hooks(probe):
            raise TypeError(
                f"`probes` must hold Probe instances or names of installed probes, got {type(probe).__name__}."
            )
        return probe

    def _make_sink(self, sink: object) -> object:
        if isinstance(sink, type):
            raise TypeError(f"`sinks` must hold instances or names; write {sink.__name__}() instead of the class.")
        if not isinstance(sink, str):
            if not _has_hooks(sink):
                raise TypeError(
                    f"`sinks` must hold sinks, objects with a method write(run, measurements), or names of installed "
                    f"ones; got {type(sink).__name__}."
                )
            return sink
        try:
            return load_sink(sink)()
        except ValueError:
            raise
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._broken.append(f"Sink {sink!r} could not be made: {text_of(error)} Training goes on without it.")
            return None

    def _make_sinks(self) -> list[object]:
        if self._sinks is not None:
            return self._sinks
        from .sinks.hdf5 import HDF5Sink
        from .sinks.tensorboard import TensorBoardSink

        return [HDF5Sink(), TensorBoardSink()]

    def _config(self) -> dict[str, Any]:
        def settings(item: Any) -> dict[str, str]:
            return {name: text_of(value) for name, value in vars(item).items() if not name.startswith("_")}

        model = self.run.model
        return {
            "model": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()
                              if not isinstance(parameter, nn.parameter.UninitializedParameter)),
            "probes": {type(probe).__name__: settings(probe) for probe in self._probes},
            "overhead": self._overhead,
            "head_start": self._head_start,
            "on_error": self._on_error,
        }  # fmt: skip

    def _arrange(self, final: bool = False) -> None:
        """Take over the first batch, when there is one, and say which probes cannot run; called at the first step."""
        first, session = self._first, self._session
        if session is None:
            return
        if (first is None or first.done) and not final:
            return
        if first is not None and not first.done:
            if first.wanted and first.batch is None and not final:
                return  # the optimizer runs the forward itself (a closure): it will be there after the step
            first.finish()
            if first.batch is not None:
                self.run.batches = {"train": first.batch, **self.run.batches}
                self._loss = first.loss
            self.run.shown = first.shown
        session.turns.check_needs()

    def _seen(self, optimizer: Optimizer) -> None:
        """Take an optimizer that has made its first step among those of the run."""
        if all(optimizer is not known for known in self.run.optimizers):
            self.run.optimizers = [*self.run.optimizers, optimizer]

    def _missed(self) -> str:
        """What is waited for, while no step has come."""
        calls = self._first.calls if self._first is not None else 0
        return (
            f"No optimizer step was seen{f', although the model was called {calls} times in training' if calls else ''}"
            f". Steps are counted in step() of the torch optimizers that hold parameters of the model: pass yours, "
            f"attach(optimizer), or call manager.step() after each update that no torch optimizer makes."
        )


def check_batches(batches: Any) -> None:
    if batches is None:
        return
    if not isinstance(batches, Mapping):
        raise TypeError(
            f"`batches` must be a dict from names to batches, e.g. {{'train': (inputs, targets)}}, "
            f"got {type(batches).__name__}."
        )
    for name in batches:
        if not isinstance(name, str) or "/" in name or not NAME.fullmatch(name):
            better = re.sub(r"[^a-zA-Z0-9]+", "_", str(name)).strip("_") or "test"
            raise ValueError(
                f"`batches` must be named by letters, digits and _.=+@,()[]-, since the names become parts of paths in "
                f"the files; got {name!r}. Write {better!r}, for example."
            )


def _check_list(argument: str, given: Any) -> None:
    if given is None or (isinstance(given, Sequence) and not isinstance(given, str)):
        items = list(given or ())
        twice = next((item for index, item in enumerate(items) if any(item is other for other in items[:index])), None)
        names = [item for item in items if isinstance(item, str)]
        twice = next((name for name in names if names.count(name) > 1), twice)
        if twice is not None:
            raise ValueError(f"`{argument}` holds {text_of(twice)} twice. Leave one out, or make a second one.")
        if any(isinstance(item, Tensor) for item in items):
            raise TypeError(f"`{argument}` must be a list of {argument} or names, got tensors. {_BATCHES_ARE}")
        return
    advice = f" Write [{text_of(given)}]." if isinstance(given, str | Probe) else ""
    if isinstance(given, Mapping | Tensor | DataLoader | Dataset):
        advice = f" {_BATCHES_ARE}"
    raise TypeError(f"`{argument}` must be a list of {argument} or names, got {type(given).__name__}.{advice}")


_BATCHES_ARE = "What is measured on goes to batches={'train': (inputs, targets)}."


def _has_hooks(item: object) -> bool:
    return any(
        callable(getattr(item, name, None)) and (name in HOOKS or hasattr(getattr(item, name), "probes_impl"))
        for name in dir(item)
    )


OTHER_RANK = "rank 0 measures and writes for all processes"


def _why_inactive() -> str:
    """Why nothing is watched in this process; empty if it is."""
    if os.environ.get("PROBES", "").strip().lower() in ("off", "0", "false", "no"):
        return "the environment variable PROBES switches the probes off"
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The script is imported by a process that it has started, e.g. a loader's worker.
        return "this process only imports the training script"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
    else:
        rank = int(os.environ.get("RANK", "0") or 0)
    return "" if rank == 0 else OTHER_RANK
