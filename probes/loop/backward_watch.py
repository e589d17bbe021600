"""What the loop calls ``backward()`` on, its loss: seen in the frame of that call, while the gradients arrive.

No function of torch is replaced and no mode is on, so that what is compiled stays as it is. While it watches, a hook
is called when a parameter's gradient has been accumulated, and looks at who is calling.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..guard.modes import keep_modes
from ..guard.undo import Undo, undo_all
from .frames import current_frames

__all__ = ["BackwardWatch", "GradientHook", "backward_call", "compiles_backward", "same", "trained"]

BACKWARD = torch.autograd.backward.__code__
"""What ``Tensor.backward`` calls, too."""
SCALED_STEP = torch.amp.GradScaler.step.__code__
MANY = 1000
"""Calls of ``backward()`` for one update, at most."""
DEPTH = 40
"""Frames between a gradient scaler and the hooks of the optimizer, at most."""


class GradientHook:
    """A hook of parameters that holds its watch weakly."""

    __torch_unserializable__ = True  # else torch warns where a model is sent to another process

    def __init__(self, watch: Any) -> None:
        self.watch = weakref.ref(watch)

    def __call__(self, parameter: Tensor) -> None:
        if not is_dynamo_compiling() and (watch := self.watch()) is not None:
            with suppress(Exception):  # a strange thing to call backward() on
                watch.look(sys._getframe())


def trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those whose gradients are added up."""
    # One that is lazy would refuse to be asked; it gets its numbers, and keeps its hook, in the loop.
    with torch._C.DisableTorchFunctionSubclass():
        return [parameter for parameter in parameters if parameter.requires_grad and parameter.is_leaf]


def same(some: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> bool:
    """Whether these are the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


class BackwardWatch:
    """Sees the loss of the updates of one model, while it is asked to.

    Args:
        busy: Whether a call of ``backward()`` is not the loop's.

    Example:
        >>> model, watch = nn.Linear(2, 1), BackwardWatch()
        >>> watch.begin(model.parameters())
        >>> model(torch.ones(3, 2)).square().mean().backward()
        >>> watch.update() is None
        False
        >>> watch.end()
    """

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._busy = busy
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._parameters: list[nn.Parameter] = []
        self._losses: list[Tensor] = []
        self._last: weakref.ref[Tensor] | None = None
        """What was seen last: it is seen again with every parameter."""
        self._scale: Tensor | None = None
        self._closure = False

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at every call of ``backward()`` that reaches one of these parameters.

        Not where backward passes are compiled: a hook would be part of their graphs.
        """
        if compiles_backward():
            self.end()
        elif not same(now := trained(parameters), self._parameters):  # some may have been unfrozen, or replaced
            self.end()
            arrived, self._parameters = GradientHook(self), now
            with torch._C.DisableTorchFunctionSubclass():
                self._handles = [
                    parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]
                    for parameter in now
                ]

    def end(self) -> None:
        """Leave no hook, and forget what was seen."""
        handles, self._handles, self._parameters = self._handles, [], []
        for handle in handles:
            handle.remove()
        self._forget()

    def before_update(self, optimizer: torch.optim.Optimizer | None, closure: bool) -> None:
        """Look at what the update is made with; called in its step hook.

        Args:
            optimizer: What makes it.
            closure: Whether a closure computes the gradients, several times perhaps: the first is at the weights as
                they are.
        """
        if closure and not self._closure:
            self._forget()
            self._closure = True
        scale = getattr(optimizer, "grad_scale", None)
        if scale is None:
            scale = _scale(sys._getframe())
        if scale is not None:
            self._scale = scale.detach().clone()

    def update(self) -> Tensor | None:
        """The sum of what ``backward()`` was called on for an update that was made, without the factor of a scaler.

        Of a closure, what it was called on first. None where nothing was seen, or nothing looked for.
        """
        losses, scale = self._losses[:1] if self._closure else self._losses, self._scale
        self._forget()
        if not losses:
            return None
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        return loss if scale is None else loss / scale.to(loss)

    def _forget(self) -> None:
        self._losses, self._last, self._scale, self._closure = [], None, None, False

    def look(self, frame: FrameType) -> None:
        """A gradient has arrived, in this frame."""
        if self._busy():
            return
        if (call := backward_call(frame)) is None:
            return
        given = call.f_locals.get("tensors")
        for root in (given,) if isinstance(given, Tensor) else given or ():
            if root.numel() != 1 or len(self._losses) >= MANY or (self._last is not None and self._last() is root):
                continue
            self._last = weakref.ref(root)
            undo: list[Undo] = []
            try:
                keep_modes(undo)  # a mode of the script's, which counts operations perhaps, does not see ours
                self._losses.append(root.detach().reshape(()).clone())
            finally:
                undo_all(undo)


def compiles_backward() -> bool:
    """Whether backward passes are compiled: a hook would be part of their graphs."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    return dynamo is not None and bool(getattr(dynamo.config, "compiled_autograd", False))


def backward_call(frame: FrameType) -> FrameType | None:
    """The call of ``backward`` within which a gradient arrives in this frame, if it is one.

    The outermost: what is checkpointed, and enters autograd again, calls it within. The gradients of an accelerator
    arrive on another thread than the call's.
    """
    found = _backward(frame)
    if found is not None:
        return found
    others = [call for other in current_frames().values() if (call := _backward(other)) is not None]
    return others[0] if len(others) == 1 else None


def _backward(frame: FrameType | None) -> FrameType | None:
    found = None
    while frame is not None:
        if frame.f_code is BACKWARD:
            found = frame
        frame = frame.f_back
    return found


def _scale(frame: FrameType | None) -> Tensor | None:
    """The factor of the gradient scaler within whose ``step`` this is."""
    for _ in range(DEPTH):
        if frame is None:
            return None
        if frame.f_code is SCALED_STEP:
            scale: Tensor | None = getattr(frame.f_locals.get("self"), "_scale", None)
            return scale
        frame = frame.f_back
    return None
