"""What probes and sinks have spent, and what the training has taken: the accounts that the budget is kept by."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .clock import OwnTime

__all__ = ["CORE", "Spending"]

CORE = "(core)"
"""To whom is booked what is no plugin's: attaching, guarding, planning, recording events."""
imported = 0.0
"""Seconds that importing probes took, until the first manager books them."""


class Spending:
    """Seconds of one run: since attach, and of each plugin.

    Args:
        clock: Seconds, monotonic; by default wall time less the time that this thread waits for a core.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or OwnTime()
        self.wall = clock or time.perf_counter
        """A clock that is quicker to read, and runs at least as fast."""
        self.start = self.clock()
        self.spent: dict[str, float] = defaultdict(float)
        self._paused: float | None = None
        self._booked = 0.0
        self._open: tuple[float, float] | None = None
        """The clock and what was booked, when the present stretch of time of ours began."""

    @property
    def elapsed(self) -> float:
        """Time since attach, over all sessions, in seconds of the clock."""
        return (self.clock() if self._paused is None else self._paused) - self.start

    @property
    def total(self) -> float:
        """Time spent by all probes and sinks, in seconds, also what is being spent and not booked yet."""
        unbooked = 0.0
        if self._open is not None:
            start, before = self._open
            unbooked = self.clock() - start - (self._booked - before)
        return sum(self.spent.values()) + unbooked

    @property
    def share(self) -> float:
        """Time spent by probes and sinks over time since attach."""
        return self.total / max(self.elapsed, 1e-9)

    def pause(self) -> None:
        """Nothing is watched from here on: this time does not count."""
        self._paused = self.clock()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        if self._paused is not None:
            self.start += self.clock() - self._paused
            self._paused = None

    @property
    def training(self) -> float:
        """The training time: since attach, without what was spent."""
        return self.elapsed - self.total

    def charge(self, plugin: str, seconds: float) -> None:
        """Book time spent by a plugin."""
        self.spent[plugin] += seconds
        self._booked += seconds

    @contextmanager
    def charged_to_core(self) -> Iterator[None]:
        """Book to the core what passes inside and is booked to no plugin."""
        start, before = self._open = self.clock(), self._booked
        try:
            yield
        finally:
            self._open = None
            self.charge(CORE, self.clock() - start - (self._booked - before))

    def begin(self) -> None:
        """Book to the core what has passed so far, and what importing took."""
        global imported
        self.start, imported = self.start - imported, 0.0
        self.charge(CORE, self.elapsed)
