"""How the gradients of accumulated micro-batches relate, of which the optimizer is given the sum alone."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..batches import MicroBatches
from ..guard.modes import keep_modes
from ..guard.undo import Undo, undo_all
from ..precision import to_float64
from .backward_watch import GradientHook, backward_call, compiles_backward, same, trained

__all__ = ["MicroBatchWatch"]

PIECE = 1 << 17
"""Products that are added in single precision: in the sum of more, digits are lost."""


class MicroBatchWatch:
    """Compares each gradient that arrives with those that were accumulated before it, without a copy of either.

    Nothing is computed where the loop calls ``backward()`` once. What is no accumulation of micro-batches is left out:
    several losses of one forward pass, parameters that some of them leave out, gradients that are sparse, sharded, not
    zero at first, computed within a closure of the optimizer or by other means than ``backward()``, or changed between
    two passes: clipped, set to zero, averaged over ranks.

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
        self._tensors: list[int] = []
        self._counts: dict[int, int] = {}
        """Of the gradients of each parameter."""
        self._sums: dict[int, list[Tensor]] = {}
        """By micro-batch, of each parameter the square, the product and the square of the sum before; of the first from
        when the second arrives."""
        self._at_first: list[Tensor] = []
        """How many numbers were not zero, where there was a gradient before the first."""
        self._other = False
        """Whether something else than an accumulation was seen."""
        self._passes = 0
        self._last: weakref.ref[Tensor] | None = None
        """What ``backward()`` was called on last."""
        self._digits = 1e-4
        """How far sums may be from what they are of, for rounding."""

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at every gradient that arrives; not where backward passes are compiled, whose part a hook would be."""
        if compiles_backward():
            self.end()
        elif not self._looks_at(now := trained(parameters)):
            self.end()
            self._parameters, self._tensors = now, [parameter._cdata for parameter in now]
            with torch._C.DisableTorchFunctionSubclass():
                self._handles = [
                    parameter.register_hook(_Arrival(self, index))  # type: ignore[no-untyped-call]
                    for index, parameter in enumerate(self._parameters)
                ]

    def _looks_at(self, parameters: list[nn.Parameter]) -> bool:
        """Whether they are the same, and were not given other tensors, which have no hook (``swap_tensors``)."""
        return same(parameters, self._parameters) and self._tensors == [parameter._cdata for parameter in parameters]

    def end(self) -> None:
        """Leave no hook, and forget what was seen."""
        handles, self._handles, self._parameters = self._handles, [], []
        for handle in handles:
            handle.remove()
        self._forget()

    def before_update(self, parameters: Iterable[nn.Parameter], closure: bool) -> None:
        """An update is about to be made of these; within it, perhaps, gradients are computed."""
        self._other |= closure or not self._looks_at(trained(parameters))

    def update(self) -> MicroBatches | None:
        """What one update was made of; None where it was not of several micro-batches, each of all parameters."""
        counts, sums, first, other = set(self._counts.values()), self._sums, self._at_first, self._other
        digits = self._digits
        self._forget()
        if other or len(counts) != 1 or not sums or any(bool(count) for count in first):
            return None
        rows = [torch.stack([each.cpu() for each in sums[number]]).sum(0) for number in sorted(sums)]
        squares, products, before = torch.stack(rows).T
        expected = (squares + 2 * products).cumsum(0)[:-1]
        # Else they were clipped, set to zero or averaged over ranks between two of them.
        whole = bool(squares[0] > 0) and torch.allclose(before[1:], expected, rtol=digits, atol=0)
        return MicroBatches(squares, products) if whole else None

    def _forget(self) -> None:
        self._counts, self._sums, self._at_first, self._other = {}, {}, [], False
        self._passes, self._last, self._digits = 0, None, 1e-4

    def look(self, index: int, gradient: Tensor, frame: FrameType) -> None:
        """One more gradient of a parameter has arrived, in this frame."""
        if self._busy():
            return
        call, before = backward_call(frame), self._parameters[index].grad
        number = self._counts[index] = self._counts.get(index, 0) + 1
        plain = gradient.layout is torch.strided and type(gradient) is Tensor and not gradient.requires_grad
        several = call is None or bool(call.f_locals.get("retain_graph"))  # losses of one forward pass
        self._other |= several or not plain or number != self._number(call) or (number > 1 and before is None)
        if self._other:
            return
        if number == 1:
            if before is not None:
                self._at_first.append(torch.count_nonzero(before))
            return
        assert before is not None
        past = inner(before, before)
        if number == 2:
            self._sums.setdefault(1, []).append(torch.stack([past, *torch.zeros_like(past).expand(2)]))
        new = torch.stack([inner(gradient, gradient), inner(gradient, before), past])
        self._sums.setdefault(number, []).append(new)
        if before.dtype in (torch.float16, torch.bfloat16):
            self._digits = 0.01  # each sum is rounded

    def _number(self, call: FrameType | None) -> int:
        """The number of the backward pass, by what ``backward`` was called on."""
        given = None if call is None else call.f_locals.get("tensors")
        root = given if isinstance(given, Tensor) else next(iter(given or ()), None)
        if root is not None and (self._last is None or self._last() is not root):
            self._passes, self._last = self._passes + 1, weakref.ref(root)
        return self._passes

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
