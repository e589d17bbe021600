"""A torch function mode of ours on a thread's stack: under all others, and taken out from wherever it is.

The stack belongs to the thread, and a script's own modes may begin and end at any time.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

__all__ = ["BottomMode"]

# Torch offers no public way to look at, or to reorder, the modes of a thread.
_modes: Callable[[], list[Any]] = torch.overrides._get_current_function_mode_stack
_pop: Callable[[], Any] = torch.overrides._pop_mode
_put: Callable[[Any], None] = torch.overrides._push_mode


class BottomMode(TorchFunctionMode):
    """A mode that sees what a thread calls of torch, and changes none of it.

    It leaves before Dynamo compiles. Modules of attention that take another path under any mode, with other roundings,
    are told that there is none; not before Dynamo is loaded, which looks at what they ask when it compiles them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pushed = False
        """Whether it may be on a thread's stack still."""
        self.stopped = False
        self._ready = False
        """Whether it leaves before Dynamo compiles."""

    def begin(self) -> None:
        """Begin, or go on, to look at what this thread calls; under every other mode."""
        if not (self.stopped or self.pushed) and (self.prepare() or "torch._dynamo" not in sys.modules):
            _push(self)
            self.pushed = True

    def prepare(self) -> bool:
        """Called as long as it is on, as Dynamo may be loaded meanwhile; whether it is, and can be waited for."""
        if not self._ready and _before_compilations(self._compiles, add=True):
            self._ready = True
            _hide(self)
        return self._ready

    def remove(self) -> None:
        """Leave this thread's stack; ``pushed`` stays if it is not there: on another's, or in use by a call above."""
        self.pushed = self.pushed and not _remove(self)
        if not self.pushed:
            self._ready = False
            _before_compilations(self._compiles, add=False)
            _reveal(self)

    def stop(self) -> None:
        """Look no more."""
        self.stopped = True
        self.remove()

    def _compiles(self, *_: object) -> None:
        # Dynamo would trace this mode into the user's graph, and compile again when it is gone.
        self.stopped = True
        self.remove()
        _reveal(self)  # also where it is on another thread


_hidden: weakref.WeakSet[BottomMode] = weakref.WeakSet()
_made: dict[int, tuple[Any, Any]] = {}
"""What stands for each function that was found, kept as long as TorchScript knows it by its id."""


def _unseen(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """What ``torch.overrides.has_torch_function`` says when none of ours is on."""

    def has_torch_function(tensors: Any) -> bool:
        ours = [mode for mode in _modes() if isinstance(mode, BottomMode)]
        try:
            for mode in ours:
                _remove(mode)
            return function(tensors)
        finally:
            for mode in ours:
                mode.pushed = not mode.stopped  # it may have been on another thread
                if mode.pushed:
                    _push(mode)
                else:
                    mode.remove()

    torch.jit._builtins._register_builtin(has_torch_function, "aten::has_torch_function")
    return has_torch_function


def _is_ours() -> bool:
    return any(ours is torch.overrides.has_torch_function for _, ours in _made.values())


def _hide(mode: BottomMode) -> None:
    _hidden.add(mode)
    if not _is_ours():
        there = torch.overrides.has_torch_function
        _, ours = _made.setdefault(id(there), (there, None))
        if ours is None:
            ours = _unseen(there)
            _made[id(there)] = there, ours
        torch.overrides.has_torch_function = ours


def _reveal(mode: BottomMode) -> None:
    _hidden.discard(mode)
    for there, ours in () if _hidden else list(_made.values()):
        if torch.overrides.has_torch_function is ours:
            torch.overrides.has_torch_function = there
            return


def _push(mode: TorchFunctionMode) -> None:
    """Put a mode under every other mode, so that a user's mode that ends meanwhile pops itself and not ours."""
    modes = _modes()
    # Torch keeps the default device at the very bottom, and insists on finding it there. `with torch.device(...)`
    # is another: it pushes and pops without entering.
    keep = int(bool(modes) and isinstance(modes[0], DeviceContext) and hasattr(modes[0], "old_device"))
    others = [_pop() for _ in modes[keep:]]
    _put(mode)
    for other in reversed(others):
        _put(other)


def _remove(mode: TorchFunctionMode) -> bool:
    """Take a mode out of this thread's stack, wherever it is; whether it was there."""
    if not any(other is mode for other in _modes()):
        return False
    others: list[Any] = []
    while (top := _pop()) is not mode:
        others.append(top)
    for other in reversed(others):
        _put(other)
    return True


def _before_compilations(callback: Callable[[Any], None], add: bool) -> bool:
    """Be called, or no more, before Dynamo compiles; whether it is loaded, and that is possible."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    callbacks = getattr(getattr(dynamo, "callback_handler", None), "start_callbacks", None)
    if not isinstance(callbacks, list):
        return False
    if add:
        callbacks.append(callback)
    elif callback in callbacks:
        callbacks.remove(callback)
    return True
