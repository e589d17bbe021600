"""How long a manager lives and where it writes: as long as its model, in a directory of its own, in one process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from .hidden import hide, reveal
from .plugins import Plugin, invoke, log
from .run import Run
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .manager import ProbeManager

__all__ = [
    "DetachAtExit",
    "LogDirTaken",
    "RESERVE",
    "already_watching",
    "close_late",
    "isolated",
    "keep_alive",
    "settle",
    "silence_in_children",
    "without_model",
]


RESERVE = 64 * 2**20
"""Free disk space, in bytes, below which nothing is written."""


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


class LogDirTaken(Exception):
    """A sink cannot use the log directory, for it is another process's or run's; another directory may do."""


def settle(given: Path | None, resumed: Path | None, begin: Callable[[Path], None], strict: bool) -> tuple[Path, str]:
    """The directory of a run, there, writable and begun.

    It is the given one, that of the resumed run, or a fresh one in ``runs``. When that cannot be had: the one of the
    resumed run, if another was given; one beside it, called ``<log_dir>_2``, ``_3`` ...; one for temporary files.

    Args:
        given: What the user asked for, if he did.
        resumed: That of the checkpoint, or of the same run in this process.
        begin: Called with a directory; raises :class:`LogDirTaken` if it is another run's or process's.
        strict: Whether the first one must do.

    Returns:
        The directory, and why it is not the one that was asked for, empty if it is.

    Raises:
        OSError, LogDirTaken: If none can be used.
    """
    asked = given or (resumed if resumed is not None and resumed.is_dir() else None)
    places: list[Callable[[], Path]] = [lambda: asked or _fresh_directory(Path("runs"))]
    if resumed is not None and resumed != asked and resumed.is_dir():
        places.append(lambda: resumed)
    places.append(lambda: _beside(asked or Path("runs")))
    places.append(lambda: Path(tempfile.mkdtemp(prefix=f"{(asked or Path('runs')).name}-")))
    first: Exception | None = None
    for place in places:
        try:
            log_dir = _writable(place, asked or Path("runs"))
            begin(log_dir)
        except (OSError, LogDirTaken) as error:
            if strict:
                raise
            first = first or error
        else:
            return log_dir, "" if first is None else str(first)
    assert first is not None
    raise first


def _writable(place: Callable[[], Path], asked: Path) -> Path:
    try:
        log_dir = place().absolute()  # the loop may change its directory
        log_dir.mkdir(parents=True, exist_ok=True)
        trial = log_dir / f".writable-{uuid.uuid4().hex}"
        trial.touch()
        trial.unlink()
        free = shutil.disk_usage(log_dir).free
        if free < RESERVE:
            raise OSError(f"only {free / 2**20:.0f} MiB are free, and {RESERVE / 2**20:.0f} are kept free")
    except OSError as error:
        raise OSError(f"`log_dir` {str(asked)!r} cannot be written: {error}. Pass another log_dir.") from error
    return log_dir


def _beside(asked: Path) -> Path:
    asked = asked if asked.name else asked.resolve()
    for count in range(2, 1000):
        try:
            (place := asked.with_name(f"{asked.name}_{count}")).mkdir(parents=True)
        except FileExistsError:
            continue
        return place
    raise FileExistsError(f"a thousand runs are called {asked}")


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
            if other is not manager and other._dispatch is not None and other.run.model is manager.run.model
        ),
        None,
    )


def _before_fork() -> None:
    # Python warns of a fork beside running threads; the next call into a plugin starts this one again.
    for manager in list(_attached):
        if manager._dispatch is not None:
            manager._dispatch.plugins.watchdog.stop()


def _silence_all() -> None:
    for manager in list(_attached):
        if manager._dispatch is not None:
            manager._dispatch.forked()
            manager._finalizer.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_silence_all)  # once for all: it cannot be undone
