"""What a model is given while it is measured: copies, unless it is known to leave what it is given as it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_structure

from ..batches import mapped, tensors
from .fingerprint import same_bits
from .undo import Undo

__all__ = ["keep_given"]

CHANGED = -1
_left: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Of how many samples a model has left all that it was given as it was; -1 of one that has not."""


class _Hook:
    """A forward hook that does nothing in a copy or a pickle of the model."""

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self.function, self.__name__ = function, "probes"

    def __call__(self, *args: Any) -> Any:
        return None if self.function is None else self.function(*args)

    def __deepcopy__(self, memo: object) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nn.Identity(), "__init__")  # takes any arguments, returns None, and is there without us


def keep_given(undo: list[Undo], model: nn.Module) -> None:
    """Call the model with copies: it may clamp its input in place, or take entries out of a dict.

    At its first call with so many samples it is seen whether it does; a model that does not is given no copies after.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return
    calls: list[tuple[Any, Any] | None] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = _left.get(model, 0)
        calls.append(None)
        if 0 < _samples((args, kwargs)) <= known:
            return None
        copies: dict[int, Tensor] = {}

        def copied(leaf: Tensor) -> Tensor:  # one that is given twice is one
            if id(leaf) not in copies:
                copies[id(leaf)] = leaf.clone()
            return copies[id(leaf)]

        given = mapped((args, kwargs), copied)
        calls[-1] = ((args, kwargs), given) if known != CHANGED else None
        return given

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        looked = calls.pop() if calls else None
        if looked is None or result is None or any(map(_is_wrapped, tensors(looked))):
            return
        (own, given), known = looked, _left.get(model, 0)
        left = tree_structure(own) == tree_structure(given) and all(map(_same, tensors(own), tensors(given)))
        _left[model] = max(known, _samples(own)) if left and known != CHANGED else CHANGED

    handles = [model.register_forward_pre_hook(_Hook(before), prepend=True, with_kwargs=True)]
    undo.append(handles[0].remove)
    handles.append(model.register_forward_hook(_Hook(after), with_kwargs=True, always_call=True))
    undo.append(handles[1].remove)


def _samples(given: Any) -> int:
    return next((len(leaf) for leaf in tensors(given) if leaf.ndim), 0)


def _is_wrapped(leaf: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(leaf)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they hold the same; of what has no plain memory, whether the copy was never written."""
    if one.layout is not torch.strided or one.is_nested or type(one) not in (Tensor, nn.Parameter):
        return other.is_inference() or other._version == 0
    return one.shape == other.shape and one.dtype == other.dtype and same_bits(one.detach(), other.detach())
