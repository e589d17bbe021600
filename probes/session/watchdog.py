"""Telling of a call into a plugin that takes very long while it still does."""

from __future__ import annotations

import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from ..loop.frames import current_frames
from .plugins import log

__all__ = ["DEADLINE", "Watchdog"]

DEADLINE = 60.0
"""Seconds after which it is told that a call is not over."""


class Watchdog:
    """Looks at the calls into plugins, and warns of one that is not over after a deadline, with where it is.

    A call that hangs for ever cannot be stopped from Python: the training then hangs with it, but the log says in which
    line of whose code. A call that never lets go of the interpreter, inside a C library, can only be told of once it is
    over.

    It is one daemon thread, started with the first call that it looks at, which sleeps a quarter of the deadline at a
    time; it is gone after :meth:`stop`. Cost: about 2 us a call, and 0.2 ms once for starting the thread.

    Args:
        deadline: In seconds.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._call: tuple[str, float, int] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Look at a call until it is over."""
        self._call = (what, time.monotonic(), threading.get_ident())
        try:
            if self._thread is None:
                self._start()
            yield
        finally:
            self._call = None

    def stop(self) -> None:
        """End the thread; the next call starts another."""
        thread, self._thread = self._thread, None
        self._over.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def forget(self) -> None:
        """In a forked child, to which the thread did not come along."""
        self._thread = self._call = None

    def _start(self) -> None:
        self._over = threading.Event()
        # It refers to us weakly: nothing is to be looked at once the run is gone, however it has ended.
        arguments = weakref.ref(self), self._over, self._deadline
        thread = threading.Thread(target=_watch, args=arguments, name="probes-watchdog", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no thread can be started, or the interpreter is ending: it is watched by no one
            self._thread = None


def _watch(watchdog: weakref.ref[Watchdog], over: threading.Event, deadline: float) -> None:
    told = None
    while not over.wait(min(deadline / 4, threading.TIMEOUT_MAX)) and (looking := watchdog()) is not None:
        call = looking._call
        del looking
        if call is None or call is told:
            continue
        what, start, ident = call
        seconds = time.monotonic() - start
        if seconds >= deadline:
            told = call
            frame = current_frames().get(ident)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else "(unknown)"
            log.warning("Training has been waiting %.0f s for %s, which is here:\n%s", seconds, what, stack)
