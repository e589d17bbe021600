"""How the gradients of accumulated micro-batches relate, of which the optimizer is given the sum alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..batches import MicroBatches
from ..guard.modes import keep_modes
from ..guard.undo import Undo, undo_all
from ..precision import to_float64
from .backward_watch import GradientHook, backward_call, compiles_backward

__all__ = ["MicroBatchWatch"]

PIECE = 1 << 17
"""Products that are added in single precision: in the sum of more, digits are lost."""


class MicroBatchWatch:
    """Compares each gradient that arrives with those that were accumulated before it, without a copy of either.

    Nothing is computed where the loop calls ``backward()`` once. What is no accumulation of micro-batches is left out:
    several losses of one forward pass, parameters that some of them leave out, gradients that are sparse, sharded, not
    zero at first, or computed within a closure of the optimizer or by other means than ``backward()``.

    Args:
        busy: Whether a backward pass is not the loop's.

    Example:
        >>> model, watch = nn.Linear(1, 1, bias=False), MicroBatchWatch()
        >>> watch.begin(model.parameters())
        >>> for x in (1.0, 2.0, 3.0):
        ...     model(torch.tensor([[x]])).sum().backward()
        >>> watch.update()
        MicroBatches(squares=tensor([1., 4., 9.], dtype=torch.float64), with_earlier=tensor([0., 2., 9.], ...))
        >>> watch.end()
    """

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._busy = busy
        self.seconds = 0.0
        """Of the loop's time, that all looks have taken."""
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._parameters: list[nn.Parameter] = []
        self._counts: dict[int, int] = {}
        """Of the gradients of each parameter."""
        self._sums: dict[int, list[Tensor]] = {}
        """By micro-batch, the square and the product of each parameter; of the first from when the second arrives."""
        self._at_first: list[Tensor] = []
        """How many numbers were not zero, where there was a gradient before the first."""
        self._other = False
        """Whether something else than an accumulation was seen."""

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at every gradient that arrives; not where backward passes are compiled, whose part a hook would be."""
        if compiles_backward():
            self.end()
        elif not self._handles:
            # A parameter that is lazy would refuse the call.
            with torch._C.DisableTorchFunctionSubclass():
                self._parameters = [
                    parameter for parameter in parameters if parameter.requires_grad and parameter.is_leaf
                ]
                self._handles = [
                    parameter.register_hook(_Arrival(self, index))  # type: ignore[no-untyped-call]
                    for index, parameter in enumerate(self._parameters)
                ]

    def end(self) -> None:
        """Leave no hook, and forget what was seen."""
        handles, self._handles, self._parameters = self._handles, [], []
        for handle in handles:
            handle.remove()
        self._forget()

    def before_update(self, closure: bool) -> None:
        """An update is about to be made; within it, perhaps, gradients are computed."""
        self._other |= closure

    def update(self) -> MicroBatches | None:
        """What one update was made of; None where it was not of several micro-batches, each of all parameters."""
        counts, sums, first, other = set(self._counts.values()), self._sums, self._at_first, self._other
        self._forget()
        if other or len(counts) != 1 or not sums or any(bool(count) for count in first):
            return None
        rows = [torch.stack([pair.cpu() for pair in sums[number]]).sum(0) for number in sorted(sums)]
        squares, products = torch.stack(rows).T
        return MicroBatches(squares, products) if bool(squares[0] > 0) else None  # else set to zero meanwhile

    def _forget(self) -> None:
        self._counts, self._sums, self._at_first, self._other = {}, {}, [], False

    def look(self, index: int, gradient: Tensor, frame: FrameType) -> None:
        """One more gradient of a parameter has arrived, in this frame."""
        if self._busy():
            return
        call, before = backward_call(frame), self._parameters[index].grad
        number = self._counts[index] = self._counts.get(index, 0) + 1
        plain = gradient.layout is torch.strided and type(gradient) is Tensor and not gradient.requires_grad
        several = call is None or bool(call.f_locals.get("retain_graph"))  # losses of one forward pass
        self._other |= several or not plain or (number > 1 and before is None)
        if self._other:
            return
        if number == 1:
            if before is not None:
                self._at_first.append(torch.count_nonzero(before))
            return
        assert before is not None
        if number == 2:
            square = inner(before, before)
            self._sums.setdefault(1, []).append(torch.stack([square, torch.zeros_like(square)]))
        self._sums.setdefault(number, []).append(torch.stack([inner(gradient, gradient), inner(gradient, before)]))

    def give_up(self) -> None:
        """Something that was not foreseen: of this update nothing is known."""
        self._other = True


class _Arrival(GradientHook):
    """A hook of one parameter, before its gradient is added to those that are there."""

    def __init__(self, watch: MicroBatchWatch, index: int) -> None:
        super().__init__(watch)
        self._index = index

    def __call__(self, gradient: Tensor) -> None:
        watch = self.watch()
        if is_dynamo_compiling() or watch is None:
            return
        undo: list[Undo] = []
        start = time.perf_counter()
        try:
            keep_modes(undo)
            with torch.no_grad():
                watch.look(self._index, gradient, sys._getframe())
        except Exception:
            watch.give_up()
        finally:
            undo_all(undo)
            watch.seconds += time.perf_counter() - start


def inner(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of two tensors, to six digits at the cost of single precision. Scalar, float64."""
    one, other = one.detach().reshape(-1), other.detach().reshape(-1)
    if one.dtype in (torch.float16, torch.bfloat16):
        one, other = one.float(), other.float()
    other = other.to(one.dtype)
    if one.is_complex():
        one, other = torch.view_as_real(one).flatten(), torch.view_as_real(other).flatten()
    pieces = zip(torch.split(one, PIECE), torch.split(other, PIECE), strict=True)
    return torch.stack([to_float64(torch.dot(*pair)) for pair in pieces]).sum()
