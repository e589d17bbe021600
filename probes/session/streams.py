"""Which measurements fit: a stream is a name, which belongs to one probe and keeps its axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..measurement import Measurement

__all__ = ["Streams"]

LARGE_BYTES = 4 * 2**20


class Streams:
    """The streams of one run, by what came first in each."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, Measurement]] = {}
        """The owner of each stream and its first measurement, which the later ones must fit."""
        self._noted: set[tuple[str, str]] = set()
        self._undefined: list[str] = []

    def __len__(self) -> int:
        return len(self._first)

    def misfit(self, owner: str, item: Any) -> str:
        """Why what a probe has yielded cannot be recorded; empty if it can."""
        if not isinstance(item, Measurement):
            return f"yielded {type(item).__name__} instead of a Measurement"
        known, first = self._first.setdefault(item.name, (owner, item))
        if first is item and (clash := self._clash(item.name)):
            del self._first[item.name]
            return f"yielded {item.name!r}, but {clash!r} is a stream: one cannot hold the other"
        wrong = f"it belongs to {known!r}" if known != owner else first.disagreement(item)
        if wrong is None:
            return ""
        return f"yielded {item.name!r} that does not fit its stream: {wrong}; it is left out"

    def remark(self, item: Measurement) -> str:
        """What is to be said, once, of a measurement that is recorded: that it is large, or of other samples than what
        the stream says, which is what its first row says; empty if nothing."""
        if item.value.dtype.kind in "fc" and bool(np.isnan(item.value).any()) and self.is_new(item.name, "nan"):
            self._undefined.append(item.name)
        if item.value.nbytes > LARGE_BYTES and self.is_new(item.name, "large"):
            return (
                f"yields {item.value.nbytes / 2**20:.0f} MiB in each {item.name!r}; it is recorded, and may fill the "
                f"disk. Measure it more rarely, or reduce it."
            )
        was, now = self._first[item.name][1].num_samples, item.num_samples
        if was != now and self.is_new(item.name, "samples"):
            return (
                f"yields {item.name!r} of {now} samples, and of {was} in its first row: it is recorded, but the stream "
                f"says {was} of every row. Yield it under another name."
            )
        return ""

    def undefined(self) -> str:
        """The streams that have had NaN for the first time since this was last asked, in one line."""
        names, self._undefined = self._undefined, []
        if not names:
            return ""
        text = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"{text}; {'it is recorded as it is' if len(names) == 1 else 'they are recorded as they are'}"

    def is_new(self, name: str, what: str) -> bool:
        """Whether this has not been asked before."""
        new = (name, what) not in self._noted
        self._noted.add((name, what))
        return new

    def _clash(self, name: str) -> str | None:
        return next(
            (other for other in self._first if other.startswith(name + "/") or name.startswith(other + "/")), None
        )
