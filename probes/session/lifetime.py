"""In which process a run lives, and how long: as long as its model."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Protocol

import torch
from torch import nn

from ..loop.hidden import hide, reveal
from ..run import Run
from .calls import Plugins
from .plugins import log

__all__ = [
    "ANOTHER_MODEL",
    "OTHER_RANK",
    "Inactive",
    "Lifetime",
    "beside_others",
    "copied",
    "failure",
    "in_ranks",
    "isolated",
    "why_inactive",
]

ANOTHER_MODEL = (
    "Another model is watched now, and probes given as objects go on with what they hold of the first. Make a "
    "ProbesCallback for each model."
)
"""What a training framework's callback says that is used for a second model."""
OTHER_RANK = "rank 0 measures and writes for all processes"


def why_inactive() -> str:
    """Why nothing is watched in this process; empty if it is."""
    if os.environ.get("PROBES", "").strip().lower() in ("off", "0", "false", "no"):
        return "the environment variable PROBES switches the probes off"
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The script is imported by a process that it has started, e.g. a loader's worker.
        return "this process only imports the training script"
    if in_ranks():
        return OTHER_RANK if torch.distributed.get_rank() else ""
    rank = os.environ.get("RANK", "")
    return OTHER_RANK if rank.isdecimal() and int(rank) else ""  # other words are not a launcher's


def in_ranks() -> bool:
    """Whether this process trains with others."""
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


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


@dataclass
class Inactive:
    """In a process where nothing is watched."""

    reason: str
    close: Callable[[], None] = lambda: None
    """Ends what this process does for another one."""

    def detach(self) -> None:
        """End it."""
        self.close()

    def step(self) -> None:
        """Counts nothing."""

    def report(self) -> str:
        """Why nothing is watched."""
        return f"Inactive: {self.reason}.\n"

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def copied(kind: type) -> Any:
    """A manager that came with a copy, or a pickle, of the model that holds it: it watches nothing."""

    def refuse(*_: object) -> None:
        raise RuntimeError("This ProbeManager came with a copy of a model. Make a ProbeManager of that one.")

    copy: Any = object.__new__(kind)
    copy.attach = refuse
    copy._now = Inactive("it came with a copy of a model; make a ProbeManager of that one to watch it")
    return copy


def failure(error: BaseException | None) -> str:
    """The name of an exception that ended a training; empty where that is no failure.

    Example:
        >>> failure(ZeroDivisionError()), failure(SystemExit(0)), failure(SystemExit("no data"))
        ('ZeroDivisionError', '', 'SystemExit')
    """
    fine = error is None or isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and not error.code)
    return "" if fine else type(error).__name__


class Opened(Protocol):
    """A run that has been opened: :class:`probes.session.opening.Attached`."""

    run: Run
    plugins: Plugins
    ended: bool

    def detach(self) -> None: ...
    def forked(self) -> None: ...


_opened: weakref.WeakSet[Opened] = weakref.WeakSet()


class Lifetime:
    """Ends a run that nobody ends, with the interpreter at the latest.

    The run lives as long as the model, which holds it, also when the script keeps no reference to its manager. Made
    when the sinks are open: what is registered last for the end of the interpreter runs first, and h5py cannot write
    any more after a handler of its own, registered when it was imported, has run.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = weakref.ref(opened)
        self._in_child: Finalize | None = None

    def begin(self, opened: Opened) -> None:
        """The run has been opened. Whatever interrupts this, :meth:`end` undoes it."""
        hide(opened.run.model, opened)
        atexit.register(self._at_exit)
        if multiprocessing.parent_process() is not None:  # forked, it ends without what is registered above
            self._in_child = Finalize(None, self._at_exit, exitpriority=10)
        _opened.add(opened)

    def _at_exit(self) -> None:
        if (opened := self._opened()) is not None:
            if not hasattr(sys, "ps1"):  # at a prompt, the last exception may be an old one
                opened.run.ended_by = failure(getattr(sys, "last_value", None))
            opened.detach()

    def end(self, opened: Opened) -> None:
        """The run has been ended."""
        reveal(opened.run.model, opened)
        atexit.unregister(self._at_exit)
        if self._in_child is not None:
            self._in_child.cancel()


def beside_others(model: nn.Module) -> str:
    """What is to say where a run of this process is open and watches the same model; empty where none does.

    Those that nobody has ended, and whose models nobody holds, are ended: each refers to its model and is held by it,
    so that the memory of the last fold's would be freed when Python looks for cycles, which may be late.
    """
    if any(not opened.ended for opened in _opened):
        gc.collect()
    other = next((opened for opened in _opened if not opened.ended and opened.run.model is model), None)
    if other is None:
        return ""
    return (
        f"This process watches this model already, into {other.run.log_dir}, and goes on to: both measure, and both "
        f"take time. Call detach() of the first manager before the second attaches, or use it as "
        f"`with manager.attach():`."
    )


def _before_fork() -> None:
    # Python warns of a fork beside running threads; the next call into a plugin starts this one again.
    for opened in list(_opened):
        if not opened.ended:
            opened.plugins.watchdog.stop()


def _silence_all() -> None:
    for opened in list(_opened):
        if not opened.ended:
            opened.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_silence_all)  # once for all: it cannot be undone
