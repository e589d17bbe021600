"""The clock by which probes are weighed against training: wall time, less what other work on the machine took of it."""

from __future__ import annotations

import math
import os
import threading
import time

__all__ = ["OwnTime"]


class OwnTime:
    """Seconds of wall time in which this thread ran, slept or waited for a device, but not for a core.

    Where other processes keep the cores busy, wall time says of a turn and of a step how long the queue for a core was.
    Linux counts that time for every thread (``/proc/thread-self/schedstat``, the second number), so it is left out
    here. CPU time would leave out waiting for a loader, a disk or an accelerator too, which costs the user as much as
    computing does. Elsewhere this is :func:`time.perf_counter`.

    A busy Linux (6.18) counts a part of some sleeps as waiting: of 300 sleeps of 40 ms beside eight other processes on
    two cores, one read as 20 ms. Computing is never counted so.

    Cost: a few microseconds a call.

    Example:
        >>> clock = OwnTime()
        >>> first = clock()
        >>> 0 <= clock() - first < 1
        True
    """

    def __init__(self) -> None:
        self._waited, self._last = 0.0, -math.inf
        self._delays: dict[int, float] = {}
        """By thread. Not a ``threading.local``, whose end waits for a lock of the interpreter."""

    def __call__(self) -> float:
        delay, before, now = self._delay(), -1.0, 0.0
        for _ in range(4):  # a thread may lose its core between two looks: the time is right where it has not
            if delay == before:
                break
            before, now = delay, time.perf_counter()
            delay = self._delay()
        thread = threading.get_native_id()
        self._waited += max(0.0, delay - self._delays.get(thread, delay))
        self._delays[thread] = delay
        self._last = max(self._last, now - self._waited)
        return self._last

    def __reduce__(self) -> tuple[type[OwnTime], tuple[()]]:
        return OwnTime, ()  # a copy begins anew

    def _delay(self) -> float:
        """For how long this thread has waited for a core so far, in seconds."""
        try:
            with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
                return int(file.read(64).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0


if not os.path.exists("/proc/thread-self/schedstat"):
    OwnTime.__call__ = lambda self: time.perf_counter()  # type: ignore[method-assign]
