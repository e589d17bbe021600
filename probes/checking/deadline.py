"""An end for what may not end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..budget.clock import OwnTime
from ..sinks.recorder import Recorder as Recorder

__all__ = ["Overdue", "limited"]


class Overdue(BaseException):
    """A training with a probe has not ended in time. Not an Exception: a probe that catches those must not catch it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`Overdue` when it takes longer, where that can be done: in the main thread, on POSIX.

    What never returns from a C library is not stopped; the watchdog tells where it is.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    clock = OwnTime()
    begun = clock()

    def overdue(number: int, frame: FrameType | None) -> None:
        if clock() - begun > 0.9 * seconds:  # what other work on the machine took does not count; it is asked again
            raise Overdue(f"not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overdue)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, before)
