"""How long a manager lives and where it writes: as long as its model, in a directory of its own, in one process."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from ..loop.hidden import hide, reveal
from ..run import Run
from .events import invoke, log
from .plugin import Plugin
from .watchdog import Watchdog

if TYPE_CHECKING:
    from ..manager import ProbeManager

__all__ = [
    "DetachAtExit",
    "already_watching",
    "close_late",
    "isolated",
    "keep_alive",
    "silence_in_children",
    "without_model",
]


@contextmanager
def isolated(where: str, on_error: str = "log", passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What a training framework calls of ours: a fault there is logged, and the framework goes on.

    Args:
        where: What is called, for the log.
        on_error: ``"raise"`` to raise every fault, for development.
        passing: What is raised in any case: that the user's own arguments are wrong.

    Example:
        >>> with isolated("an example", passing=(ZeroDivisionError,)):
        ...     raise RuntimeError("a fault")
    """
    try:
        yield
    except passing:
        raise
    except Exception:
        if on_error == "raise":
            raise
        log.exception("The probes failed in %s. Training goes on.", where)


def without_model(run: Run) -> Run:
    """The run as sinks need it to close, without what would keep the model alive."""
    late = Run(model=nn.Identity(), log_dir=run.log_dir, seed=run.seed, output=run.output, run_id=run.run_id)
    late.bind(run._affords, lambda plugin, message: None)  # the budget holds, but nobody is left to be told
    return late


class DetachAtExit:
    """Detaches a manager when the interpreter ends, if it is still there and attached.

    Registered when the sinks are open: what is registered last runs first, and h5py cannot write any more after a
    handler of its own, registered when it was imported, has run.
    """

    def __init__(self, manager: ProbeManager) -> None:
        self.manager = weakref.ref(manager)
        atexit.register(self)

    def __call__(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.detach()

    def cancel(self) -> None:
        """Do nothing at exit."""
        atexit.unregister(self)


def close_late(sinks: list[Plugin], run: Run, at_exit: DetachAtExit, watchdog: Watchdog) -> None:
    """Write and close the files of a run that was never detached and whose model is gone."""
    at_exit.cancel()
    watchdog.stop()
    for sink in sinks:
        for name in ("flush", "on_detach"):
            if name in sink.hooks and not sink.problem:
                try:
                    invoke(sink.hooks[name], run=run)
                except Exception as error:
                    log.warning("Plugin %s failed in %s: %r.", sink.label, name, error)


def keep_alive(model: nn.Module, manager: ProbeManager, remove: bool = False) -> None:
    """Let the model hold the manager, which no copy and no pickle of the model shows."""
    if remove:
        reveal(model, manager)
    else:
        hide(model, manager)


_attached: weakref.WeakSet[ProbeManager] = weakref.WeakSet()


def silence_in_children(manager: ProbeManager) -> None:
    """In a forked child (a loader's worker) the manager does nothing: the files belong to the parent."""
    _attached.add(manager)


def already_watching(manager: ProbeManager) -> ProbeManager | None:
    """Another manager of this process that is attached to the same model."""
    return next(
        (
            other
            for other in _attached
            if other is not manager and other._session is not None and other.run.model is manager.run.model
        ),
        None,
    )


def _before_fork() -> None:
    # Python warns of a fork beside running threads; the next call into a plugin starts this one again.
    for manager in list(_attached):
        if manager._session is not None:
            manager._session.plugins.watchdog.stop()


def _silence_all() -> None:
    for manager in list(_attached):
        if manager._session is not None:
            manager._session.forked()
            manager._finalizer.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_silence_all)  # once for all: it cannot be undone
