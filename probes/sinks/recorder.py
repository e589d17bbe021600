"""Recorder: what is measured, in memory."""

from __future__ import annotations

from ..hookspecs import hookimpl
from ..measurement import Measurement
from ..run import Event

__all__ = ["Recorder"]


class Recorder:
    """A sink that keeps everything in memory."""

    name = "recorder"

    def __init__(self) -> None:
        self.rows: list[Measurement] = []
        self.events: list[Event] = []

    @hookimpl
    def write(self, measurements: list[Measurement]) -> None:
        """Keep them."""
        self.rows += measurements

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)
