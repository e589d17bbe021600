"""What every thread of the process is doing."""

from __future__ import annotations

import gc
import sys
from types import FrameType

__all__ = ["current_frames"]


def current_frames() -> dict[int, FrameType]:
    """:func:`sys._current_frames`, without garbage collection meanwhile.

    Before Python 3.12 a collection within that call may wait for ever for a lock which the call holds: where what is
    collected has a :class:`threading.local` (CPython issue 106883).

    Example:
        >>> import threading
        >>> threading.get_ident() in current_frames()
        True
    """
    collecting = gc.isenabled()
    try:
        gc.disable()
        return sys._current_frames()
    finally:
        if collecting:
            gc.enable()
