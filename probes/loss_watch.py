"""Seeing the targets in the loss: a torch function mode that is on between a forward and what follows it.

A mode is on a stack that belongs to the thread, and a user's own modes may begin and end at any time. Ours is therefore
put under all others, and taken out from wherever it then is.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from .batches import tensors

__all__ = ["LossWatch", "is_target", "push", "remove"]

# Torch offers no public way to look at, or to reorder, the modes of a thread.
_modes: Callable[[], list[Any]] = torch.overrides._get_current_function_mode_stack
_pop: Callable[[], Any] = torch.overrides._pop_mode
_put: Callable[[Any], None] = torch.overrides._push_mode
_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])


@functools.cache
def _compares(function: Callable[..., Any]) -> bool:
    """Whether a torch function is a loss: takes ``input`` and ``target`` first."""
    if getattr(function, "__module__", "") != "torch.nn.functional":
        return False
    try:
        return list(inspect.signature(function).parameters)[:2] == ["input", "target"]
    except (TypeError, ValueError):
        return False


_DIFFERENCES = {
    Tensor.sub,
    Tensor.__sub__,
    Tensor.__rsub__,
    torch.sub,
    torch.rsub,
}
_VIEWS = {
    Tensor.squeeze, torch.squeeze, Tensor.flatten, torch.flatten, Tensor.view, Tensor.reshape, torch.reshape,
    Tensor.float, Tensor.to, Tensor.__getitem__, Tensor.transpose, torch.transpose, Tensor.permute,
    Tensor.contiguous, Tensor.double,
    torch.sigmoid, Tensor.sigmoid, torch.log_softmax, Tensor.log_softmax, torch.nn.functional.log_softmax,
    torch.nn.functional.softmax, torch.softmax, Tensor.softmax,
}  # fmt: skip


class LossWatch(TorchFunctionMode):
    """Sees the first loss of the output: a functional loss, also inside a loss module, or ``output - targets``.

    What was computed from an output, detached or not, is no target: the largest logit that is taken off, a prediction
    that another one is to agree with.
    """

    def __init__(self, found: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self.rows, self.found, self.done = 0, found, False
        self.outputs: list[weakref.ref[Tensor]] = []
        """The output, and what is a view or an activation of it."""
        self._computed: dict[int, weakref.ref[Tensor]] = {}

    def look_at(self, output: Tensor, rows: int) -> None:
        """Wait for the loss of this output."""
        self.rows, self.outputs = rows, [weakref.ref(output)]

    def computed(self, result: Any) -> None:
        """Of what a model returns, and of all that comes of it, nothing is a target."""
        for item in tensors(result):
            self._computed[id(item)] = weakref.ref(item)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.done:
            return func(*args, **kwargs)
        view = computed = False
        with suppress(Exception):  # a strange argument; the call itself must go on
            computed = any(self._is_computed(item) for item in tensors((args, kwargs)))
            view = computed and self._look(func, args, kwargs)
        result = func(*args, **kwargs)
        if computed:
            with suppress(Exception):
                self.computed(args[0] if func is Tensor.__setitem__ else result)
        if view and isinstance(result, Tensor):
            self.outputs.append(weakref.ref(result))
        return result

    def _is_computed(self, item: Any) -> bool:
        known = self._computed.get(id(item))
        return known is not None and known() is item

    def _look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Look for targets in a call; whether what it gives is to be looked at as the output is."""
        given = [*args, *kwargs.values()]
        mine = [any(item is output() for output in self.outputs) for item in given]
        if not any(mine):
            return False
        if not (_compares(func) or func in _DIFFERENCES):
            return func in _VIEWS
        own = given[mine.index(True)]
        other = kwargs.get("target", next((item for item, is_own in zip(given, mine, strict=True) if not is_own), None))
        if not isinstance(other, Tensor):
            return False
        if self._is_computed(other):
            return func in _DIFFERENCES and not other.requires_grad  # shifted, by the largest logit for example
        if func in _DIFFERENCES and other.numel() != own.numel():
            return False  # by a constant, such as a bias
        if self._flattened(func, other):
            other = other.reshape(self.rows, -1)
        if is_target(other, self.rows):
            self.done = True
            name = getattr(func, "__name__", "a difference").strip("_")
            self.found(other, f"output - targets ({name})" if func in _DIFFERENCES else name)
        return False

    def _flattened(self, func: Callable[..., Any], other: Tensor) -> bool:
        """Whether these are the targets of all positions of all sequences in one row, as for a language model."""
        output = self.outputs[0]()
        return (
            _compares(func) and output is not None and output.ndim == 3
            and other.shape == (output.shape[0] * output.shape[1],)
        )  # fmt: skip


def is_target(candidate: Any, rows: int) -> bool:
    return (
        isinstance(candidate, Tensor) and not candidate.requires_grad and candidate.ndim > 0 and len(candidate) == rows
    )


def push(mode: TorchFunctionMode) -> bool:
    """Put a mode under every other mode, so that a user's mode that ends meanwhile pops itself and not ours."""
    others: list[Any] = []
    lowest = -1
    modes = _modes()
    # Torch keeps its device mode at the very bottom, and insists on finding it there (from 2.6; before, a device mode
    # is popped from the top like any other).
    for index, other in enumerate(modes):
        if isinstance(other, DeviceContext):
            if _VERSION < (2, 6):
                return False
            lowest = index
    for _ in range(len(modes) - lowest - 1):
        others.append(_pop())
    _put(mode)
    for other in reversed(others):
        _put(other)
    return True


def remove(mode: TorchFunctionMode) -> None:
    """Take a mode out of this thread's stack, wherever it is."""
    modes = _modes()
    if not any(other is mode for other in modes):
        return
    others: list[Any] = []
    while (top := _pop()) is not mode:
        others.append(top)
    for other in reversed(others):
        _put(other)
