"""What of torch a script has entered sees what the loop computes, and not what a measurement does.

Modes, and the hooks that a script has for what autograd saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext

from .undo import Undo, undo_all

__all__ = ["keep_modes", "keep_saved_tensors_hooks", "unseen_by_modes"]

# Torch offers no public way to look at, or to exchange, the modes of a thread.
_STACKS: tuple[tuple[Callable[[], list[Any]], Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.overrides._get_current_function_mode_stack, torch.overrides._pop_mode, torch.overrides._push_mode),
    (
        _python_dispatch._get_current_dispatch_mode_stack,
        _python_dispatch._pop_mode,
        _python_dispatch._push_mode,
    ),
)


@contextmanager
def unseen_by_modes() -> Iterator[None]:
    """What is computed within, no mode of the script's sees: it may count operations, or draw a number at each."""
    undo: list[Undo] = []
    try:
        keep_modes(undo)
        yield
    finally:
        undo_all(undo)


def keep_modes(undo: list[Undo]) -> None:
    """Leave all modes but those of a device that holds numbers; what a probe enters and does not leave is left."""
    for stack, pop, push in _STACKS:
        before = list(stack())
        if any(getattr(mode, "_mode_key", None) is not None for mode in before):
            continue  # torch's own, of fake tensors for example, without which nothing can be computed
        undo.append(_undo_of(before, stack, pop, push))
        devices = [mode for mode in before if isinstance(mode, DeviceContext) and mode.device.type != "meta"]
        _exchange(devices, stack, pop, push)


def keep_saved_tensors_hooks(undo: list[Undo]) -> None:
    """Save what a measurement saves as it is: on a disk, compressed, or rounded at random its gradient is another."""
    before: list[_Hooks] = []

    def restore() -> None:
        _pop_hooks([])
        for hooks in reversed(before):
            torch._C._autograd._push_saved_tensors_default_hooks(*hooks)

    undo.append(restore)
    _pop_hooks(before)


_Hooks = tuple[Callable[..., Any], Callable[..., Any]]


def _pop_hooks(popped: list[_Hooks]) -> None:
    while (hooks := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None:  # type: ignore[attr-defined,unused-ignore]
        popped.append(hooks)
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _undo_of(
    before: list[Any], stack: Callable[[], list[Any]], pop: Callable[[], Any], push: Callable[[Any], Any]
) -> Undo:
    return lambda: _exchange(before, stack, pop, push)


def _exchange(
    to: Sequence[Any], stack: Callable[[], list[Any]], pop: Callable[[], Any], push: Callable[[Any], Any]
) -> None:
    """Have these modes on the stack, from the bottom; what is right is not touched."""
    now = list(stack())
    if now and to and _is_default(now[0]) and _is_default(to[0]):
        to = [now[0], *to[1:]]  # a default device that was set again is another mode
    same = 0
    while same < min(len(now), len(to)) and now[same] is to[same]:
        same += 1
    for _ in now[same:]:
        pop()
    for mode in to[same:]:
        push(mode)


def _is_default(mode: Any) -> bool:
    """Whether a mode is that of the default device, which torch keeps at the very bottom."""
    return isinstance(mode, DeviceContext) and hasattr(mode, "old_device")
