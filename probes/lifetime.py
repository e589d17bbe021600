"""How long a manager lives and where it writes: as long as its model, in a directory of its own, in one process."""

from __future__ import annotations

import atexit
import uuid
import weakref
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .plugins import Plugin, invoke, log
from .run import Run

if TYPE_CHECKING:
    from .manager import ProbeManager

__all__ = ["DetachAtExit", "Silence", "close_late", "keep_alive", "make_log_dir", "without_model"]


def make_log_dir(given: Path | None, resumed: Path | None) -> Path:
    """The directory of a run, there and writable: the given one, that of the resumed run, or a fresh one in ``runs``.

    Raises:
        OSError: If it cannot be written.
    """
    try:
        log_dir = given or (resumed if resumed is not None and resumed.is_dir() else _fresh_directory(Path("runs")))
        log_dir.mkdir(parents=True, exist_ok=True)
        trial = log_dir / f".writable-{uuid.uuid4().hex}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(
            f"`log_dir` {str(given or 'runs')!r} cannot be written: {error}. Pass another log_dir."
        ) from error
    return log_dir


def _fresh_directory(parent: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"_{count}" for count in range(2, 1000))):
        try:
            (parent / (name + suffix)).mkdir()
        except FileExistsError:
            continue
        return parent / (name + suffix)
    raise FileExistsError(f"a thousand runs are called {name}")


def without_model(run: Run) -> Run:
    """The run as sinks need it to close, without what would keep the model alive."""
    return Run(model=nn.Identity(), log_dir=run.log_dir, seed=run.seed, output=run.output, run_id=run.run_id)


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


def close_late(sinks: list[Plugin], run: Run, at_exit: DetachAtExit) -> None:
    """Write and close the files of a run that was never detached and whose model is gone."""
    at_exit.cancel()
    for sink in sinks:
        for name in ("flush", "on_detach"):
            if name in sink.hooks and not sink.problem:
                try:
                    invoke(sink.hooks[name], run=run)
                except Exception as error:
                    log.warning("Plugin %s failed in %s: %r.", sink.label, name, error)


class _KeptAlive:
    """Holds the manager from within the model; nothing in a copy or a pickle of it."""

    def __init__(self, manager: ProbeManager | None) -> None:
        self.manager = manager

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def keep_alive(model: nn.Module, manager: ProbeManager, remove: bool = False) -> None:
    key = f"_probes_{id(manager)}"
    if remove:
        model.__dict__.pop(key, None)
    else:
        model.__dict__[key] = _KeptAlive(manager)


class Silence:
    """In a forked child (a loader's worker) the manager does nothing: the files belong to the parent."""

    def __init__(self, manager: ProbeManager) -> None:
        self.manager = weakref.ref(manager)

    def __call__(self) -> None:
        manager = self.manager()
        if manager is not None and manager._dispatch is not None:
            manager._dispatch.silence()
            manager._finalizer.detach()
