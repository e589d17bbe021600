"""The loss of the loop as a function of outputs and targets: the torch functions that were seen, called again."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batches import IGNORED

__all__ = ["PRODUCTS", "Called", "Criterion"]

OWNERS: dict[str, Any] = {"functional": torch.nn.functional, "Tensor": Tensor, "torch": torch}
_QUOTIENTS: set[Any] = {Tensor.div, Tensor.__truediv__, torch.div, Tensor.div_, Tensor.__itruediv__}
PRODUCTS: set[Any] = {Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul, Tensor.mul_, Tensor.__imul__}
SCALES = torch.amp.GradScaler.scale.__code__
DEPTH = 10
"""Frames between a gradient scaler and a torch function that it calls, at most."""
OUTPUT, TARGETS = "the output", "the targets"
"""What stands for them among the arguments of a call."""


class Called(NamedTuple):
    """A torch function and what it was called with, in a form that a checkpoint can hold."""

    owner: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]

    @classmethod
    def of(
        cls, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], roles: Mapping[int, str]
    ) -> Called | None:
        """The call, with ``roles`` by identity in place of the output and the targets; None if it cannot be kept."""
        name = getattr(function, "__name__", "")
        owner = next((key for key, value in OWNERS.items() if getattr(value, name, None) is function), None)
        try:
            kept = [_kept(item, roles) for item in args], {key: _kept(item, roles) for key, item in kwargs.items()}
        except TypeError:
            return None
        return None if owner is None else cls(owner, name, *kept)

    def __call__(self, output: Tensor, targets: Tensor) -> Any:
        roles = {OUTPUT: output, TARGETS: targets}
        args = [_given(item, roles) for item in self.args]
        kwargs = {key: _given(item, roles) for key, item in self.kwargs.items()}
        return getattr(OWNERS[self.owner], self.name)(*args, **kwargs)


class Criterion:
    """What the loop was seen to compute from an output and targets, for any number of rows.

    Args:
        calls: From the output on, each of what the one before gave; the last one compares it with the targets.
        flat: Whether that wants the targets of all positions of all rows in one row.
    """

    def __init__(self, calls: Sequence[Called], flat: bool = False) -> None:
        self.calls, self.flat = list(calls), flat
        self.factor: float | None = None
        """What the loop had multiplied it with when it called ``backward()``; None where it was not seen to."""
        self._results: list[tuple[weakref.ref[Tensor], float]] = []
        """What the last call gave in the loop, and its multiples, with their factors."""

    def gave(self, result: Any, factor: float = 1.0) -> None:
        """Called with what the last call gave in the loop."""
        if isinstance(result, Tensor) and result.numel() == 1:
            self._results.append((weakref.ref(result), factor))

    def follow(self, function: Callable[..., Any], args: Sequence[Any], result: Any) -> None:
        """See whether a call gives a multiple of the loss, as for accumulated batches or by a gradient scaler."""
        if function in _QUOTIENTS | PRODUCTS and len(args) == 2 and (known := self._factor(args[0])) is not None:
            if type(args[1]) in (int, float):
                self.gave(result, known / args[1] if function in _QUOTIENTS else known * args[1])
            elif function in PRODUCTS and _within(SCALES):
                self.gave(result, known)

    def differentiated(self, loss: Any) -> None:
        """Called with what the loop calls ``backward()`` on."""
        if (factor := self._factor(loss)) is not None:
            self.factor = factor

    def _factor(self, tensor: Any) -> float | None:
        return next((factor for result, factor in reversed(self._results) if result() is tensor), None)

    @property
    def ignored(self) -> int:
        """The label that counts for nothing."""
        return int(self.calls[-1].kwargs.get("ignore_index", IGNORED))

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss as the function that was seen gives it; a label of -100 is ignored."""
        if self.ignored != IGNORED and not targets.is_floating_point():
            targets = targets.masked_fill(targets == IGNORED, self.ignored)
        for call in self.calls[:-1]:
            output = call(output, targets)
        found: Tensor = self.calls[-1](output, targets.flatten() if self.flat else targets)
        return found.reshape(())

    def __str__(self) -> str:
        call = self.calls[-1]
        given = [f"{key}={value}" for key, value in call.kwargs.items() if isinstance(value, str | int | float)]
        chosen = [text for text in given if text.split("=")[0] in ("reduction", "label_smoothing", "ignore_index")]
        usual = {"reduction=mean", "label_smoothing=0.0", "ignore_index=-100"}
        return f"{call.name}({', '.join(text for text in chosen if text not in usual)})"

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, numbers, strings and containers of them."""
        return {"calls": [list(call) for call in self.calls], "flat": int(self.flat)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Criterion:
        """What :meth:`state` gave."""
        return cls([Called(*call) for call in state["calls"]], bool(state["flat"]))


def _within(code: CodeType) -> bool:
    frame: FrameType | None = sys._getframe()
    for _ in range(DEPTH):
        if frame is None or frame.f_code is code:
            return frame is not None
        frame = frame.f_back
    return False


def _kept(item: Any, roles: Mapping[int, str]) -> Any:
    """An argument as tensors, numbers, strings and containers of them; what is none of these has its kind before it.

    Raises:
        TypeError: If it cannot be kept.
    """
    if id(item) in roles:
        return {"role": roles[id(item)]}
    if isinstance(item, Tensor) and not item.requires_grad:  # else it is computed, and another one at each step
        return item.detach().clone()
    if item is None or type(item) in (bool, int, float, str):
        return item
    if isinstance(item, torch.dtype):
        return {"dtype": str(item).removeprefix("torch.")}
    if item is Ellipsis:
        return {"ellipsis": 0}
    if isinstance(item, slice):
        return {"slice": [_kept(part, {}) for part in (item.start, item.stop, item.step)]}
    if isinstance(item, tuple | list):
        return {"tuple": [_kept(part, roles) for part in item]}
    raise TypeError(f"{type(item).__name__} cannot be kept")


def _given(item: Any, roles: Mapping[str, Tensor]) -> Any:
    """What :func:`_kept` keeps, on the device of the output."""
    if isinstance(item, Tensor):
        return item.to(roles[OUTPUT].device)
    if not isinstance(item, Mapping):
        return item
    kind, value = next(iter(item.items()))
    if kind == "role":
        return roles[value]
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "slice":
        return slice(*value)
    return Ellipsis if kind == "ellipsis" else tuple(_given(part, roles) for part in value)
