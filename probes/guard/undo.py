"""Undoing, in order and whatever happens; by one thread at a time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

__all__ = ["Undo", "keep_others_out", "undo_all", "within_guard"]

Undo = Callable[[], object]


def undo_all(undo: list[Undo]) -> None:
    """Undo in reverse order; one that fails is tried again, and does not keep the others from being done."""
    failure: Exception | None = None
    while undo:
        for again in (True, False):
            try:
                undo[-1]()
                break
            except Exception as error:
                failure = failure if again else failure or error
        undo.pop()
    if failure is not None:
        raise RuntimeError(f"what a probe did could not be undone: {failure!r}") from failure


_inside: dict[str, tuple[int, object]] = {}
"""The thread that is within a guard, and what it came with."""
PATIENCE = 60.0
"""Seconds for which a thread waits for another that is within a guard."""


def keep_others_out(undo: list[Undo]) -> None:
    """Wait until no other thread is within a guard: what the process shares can be put back by one at a time."""
    mine = threading.get_ident(), object()
    undo.append(lambda: _inside.pop("guard") if _inside.get("guard") is mine else None)
    end = time.monotonic() + PATIENCE
    # setdefault is one operation: whatever interrupts this finds it done, and undone above, or not.
    while (there := _inside.setdefault("guard", mine))[0] != mine[0] and time.monotonic() < end:
        if there[0] not in sys._current_frames():  # it was forked away, or killed
            _inside.pop("guard", None)
        else:
            time.sleep(0.001)


def within_guard() -> bool:
    """Whether this thread is within a guard: what calls a model now is a probe of some manager, not the loop."""
    return _inside.get("guard", (0, None))[0] == threading.get_ident()
