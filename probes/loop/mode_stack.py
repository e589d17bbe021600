"""The torch function modes of a thread: a mode of ours under all others, and taken out from wherever it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

__all__ = ["before_compilations", "push", "remove"]

# Torch offers no public way to look at, or to reorder, the modes of a thread.
_modes: Callable[[], list[Any]] = torch.overrides._get_current_function_mode_stack
_pop: Callable[[], Any] = torch.overrides._pop_mode
_put: Callable[[Any], None] = torch.overrides._push_mode
_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])


def push(mode: TorchFunctionMode) -> bool:
    """Put a mode under every other mode, so that a user's mode that ends meanwhile pops itself and not ours.

    Returns:
        False where that cannot be.
    """
    modes = _modes()
    # Torch keeps the default device at the very bottom, and insists on finding it there (from 2.6; before, it is popped
    # from the top like any other mode). `with torch.device(...)` is another: it pushes and pops without entering.
    keep = int(bool(modes) and isinstance(modes[0], DeviceContext) and hasattr(modes[0], "old_device"))
    if keep and _VERSION < (2, 6):
        return False
    others = [_pop() for _ in modes[keep:]]
    _put(mode)
    for other in reversed(others):
        _put(other)
    return True


def remove(mode: TorchFunctionMode) -> bool:
    """Take a mode out of this thread's stack, wherever it is; whether it was there."""
    if not any(other is mode for other in _modes()):
        return False
    others: list[Any] = []
    while (top := _pop()) is not mode:
        others.append(top)
    for other in reversed(others):
        _put(other)
    return True


def before_compilations(callback: Callable[[Any], None], add: bool) -> bool:
    """Be called, or no more, before Dynamo compiles; whether that is possible, where it is loaded at all."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return True
    callbacks = getattr(getattr(dynamo, "callback_handler", None), "start_callbacks", None)
    if not isinstance(callbacks, list):
        return False
    if add:
        callbacks.append(callback)
    elif callback in callbacks:
        callbacks.remove(callback)
    return True
