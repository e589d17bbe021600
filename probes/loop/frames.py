"""Within which calls of torch something happens, on this thread or on others."""

from __future__ import annotations

import gc
import sys
from types import FrameType

import torch
from torch import Tensor, nn

__all__ = [
    "backward_call", "bare", "call_raised", "current_frames", "gradient_scale", "nested", "within_backward",
]  # fmt: skip

BACKWARD = torch.autograd.backward.__code__
"""What ``Tensor.backward`` calls, too."""
CALL = nn.Module._call_impl.__code__
"""What calls a forward, and its hooks."""
SCALED_STEP = torch.amp.GradScaler.step.__code__
DEPTH = 40
"""Frames between a gradient scaler and the hooks of the optimizer, at most."""


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


def backward_call(frame: FrameType) -> FrameType | None:
    """The call of ``backward`` within which a gradient arrives in this frame, if it is one.

    The outermost: what is checkpointed, and enters autograd again, calls it within. The gradients of an accelerator
    arrive on another thread than the call's.
    """
    found = within_backward(frame)
    if found is not None:
        return found
    others = [call for other in current_frames().values() if (call := within_backward(other)) is not None]
    return others[0] if len(others) == 1 else None


def within_backward(frame: FrameType | None) -> FrameType | None:
    """The outermost call of ``backward`` that a frame is within."""
    found = None
    while frame is not None:
        if frame.f_code is BACKWARD:
            found = frame
        frame = frame.f_back
    return found


def gradient_scale(frame: FrameType | None) -> Tensor | None:
    """The factor of the gradient scaler within whose ``step`` this is."""
    for _ in range(DEPTH):
        if frame is None:
            return None
        if frame.f_code is SCALED_STEP:
            scale: Tensor | None = getattr(frame.f_locals.get("self"), "_scale", None)
            return scale
        frame = frame.f_back
    return None


def nested(module: nn.Module) -> bool:
    """Whether what runs is a call of a module from within another call of it."""
    frame, count = sys._getframe(1), 0
    while frame is not None and count < 2:
        count += frame.f_code is CALL and frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return count > 1


def call_raised() -> bool:
    """Whether the forward hook that runs is called because the forward has raised."""
    trace = getattr(sys.exc_info()[1], "__traceback__", None)
    return trace is not None and trace.tb_frame.f_code is CALL


def bare(error: Exception) -> Exception:
    """An exception that is kept, without the frames that it came through, and all that they hold."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
