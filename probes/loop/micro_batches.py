"""How the gradients of micro-batches and ranks relate, of which the optimizer is given the sum or the average alone."""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parallel import DistributedDataParallel

from ..batches import MicroBatches
from ..guard.handlers import raised_by_handler
from ..guard.modes import unseen_by_modes
from ..precision import to_float64
from .backward_watch import GradientHook, compiles_backward, same, trained
from .frames import backward_call
from .wrappers import wrappers

__all__ = ["MicroBatchWatch"]

PIECE = 1 << 17
"""Products that are added in single precision: in the sum of more, digits are lost."""


class MicroBatchWatch:
    """Compares each gradient that arrives with those that were accumulated before it, without a copy of either.

    Under DDP the last sum, this rank's own, is compared with the average over ranks that takes its place when the pass
    ends: no rank is asked for anything. Else nothing is computed where the loop calls ``backward()`` once. What is no
    accumulation of micro-batches is left out: several losses of one forward pass, parameters that some of them leave
    out, gradients that are sparse, sharded, not zero at first, computed within a closure of the optimizer or by other
    means than ``backward()``, or changed between two passes: clipped, set to zero, averaged over ranks.

    Args:
        busy: Whether a backward pass is not the loop's.

    Example:
        >>> model, watch = nn.Linear(1, 1, bias=False), MicroBatchWatch()
        >>> watch.begin(model.parameters())
        >>> for x in (1.0, 2.0, 3.0):
        ...     model(torch.tensor([[x]])).sum().backward()
        >>> watch.update()
        MicroBatches(squares=tensor([1., 4., 9.], dtype=torch.float64), with_earlier=tensor([0., 2., 9.], ...), ...)
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
        self._ranks = 1
        self._task = -1
        """Autograd's, at whose end the average is looked at."""
        self._averaged: list[Tensor] = []
        """Its square, of each parameter."""

    def begin(self, parameters: Iterable[nn.Parameter], called: nn.Module | None = None) -> None:
        """Look at every gradient that arrives; not where backward passes are compiled, whose part a hook would be.

        Args:
            parameters: Those of the model.
            called: The model as the loop calls it: DDP perhaps.
        """
        self._ranks = averaging_ranks(called, now := trained(parameters))
        if compiles_backward():
            self.end()
        elif not self._looks_at(now):
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
        arrived = len(self._counts)
        digits, averaged = self._digits, self._averaged
        self._forget()
        if other or len(counts) != 1 or not sums or any(bool(count) for count in first):
            return None
        rows = [torch.stack([each.cpu() for each in sums[number]]).sum(0) for number in sorted(sums)]
        squares, products, before = torch.stack(rows).T
        expected = (squares + 2 * products).cumsum(0)[:-1]
        # Else they were clipped, set to zero or averaged over ranks between two of them.
        whole = bool(squares[0] > 0) and torch.allclose(before[1:], expected, rtol=digits, atol=0)
        if not whole or not averaged:
            return MicroBatches(squares, products) if whole and len(squares) > 1 else None
        if arrived < len(self._parameters):  # some may hold an old gradient, or one of other ranks alone
            return None
        own, average = float((squares + 2 * products).sum()), math.fsum(map(float, averaged))
        if not math.isfinite(own + average) or math.isclose(own, average, rel_tol=digits):  # not averaged, or all alike
            return None
        return MicroBatches(squares, products, self._ranks, average)

    def _forget(self) -> None:
        self._counts, self._sums, self._at_first, self._other = {}, {}, [], False
        self._passes, self._last, self._digits = 0, None, 1e-4
        self._task, self._averaged = -1, []

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
        if self._ranks > 1 and _changed(self._parameters[index]):
            self._other = True
            return
        if number == 1:
            if before is not None:
                self._at_first.append(torch.count_nonzero(before))
            if self._ranks > 1:
                self._first(inner(gradient, gradient))
                self._at_end()
            return
        assert before is not None
        past = inner(before, before)
        if self._ranks > 1:
            self._at_end()
        elif number == 2:
            self._first(past)
        new = torch.stack([inner(gradient, gradient), inner(gradient, before), past])
        self._sums.setdefault(number, []).append(new)
        if before.dtype in (torch.float16, torch.bfloat16):
            self._digits = 0.01  # each sum is rounded

    def _first(self, square: Tensor) -> None:
        self._sums.setdefault(1, []).append(torch.stack([square, *torch.zeros_like(square).expand(2)]))

    def _at_end(self) -> None:
        """Have the average looked at when it is there: what autograd does last is to end the passes of DDP."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(_End(self)))  # DDP's own is queued between them

    def look_at_average(self) -> None:
        """A pass has ended."""
        if not self._other:
            gradients = [parameter.grad for parameter in self._parameters]
            whole = [each for each in gradients if each is not None and each.layout is torch.strided]
            self._other = len(whole) < len(gradients)
            self._averaged = [inner(each, each) for each in whole]

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
        if not is_dynamo_compiling() and watch is not None:
            # In a local, its own frame would hold itself and the gradient: autograd would copy what it takes.
            _unseen(watch, lambda: watch.look(self._index, gradient, sys._getframe()))


class _End(GradientHook):
    """Called by autograd when a pass has ended."""

    def __call__(self) -> None:  # type: ignore[override]
        if (watch := self.watch()) is not None:
            _unseen(watch, watch.look_at_average)


def _unseen(watch: MicroBatchWatch, look: Callable[[], None]) -> None:
    """Let it look, within the loop's own backward pass."""
    start = time.perf_counter()
    try:
        with unseen_by_modes(), torch.no_grad():
            look()
    except Exception as error:
        if raised_by_handler(error):
            raise
        watch.give_up()
    finally:
        watch.seconds += time.perf_counter() - start


def _changed(parameter: nn.Parameter) -> bool:
    """Whether a hook of the user's may change its gradient between our look and the average."""
    tables = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))
    return any(not isinstance(hook, GradientHook) for table in tables for hook in (table or {}).values())


def averaging_ranks(called: nn.Module | None, parameters: list[nn.Parameter]) -> int:
    """How many ranks plain DDP averages the gradients of a model over; 1 where it does not, or does more than that."""
    around = [] if called is None else wrappers(called)
    ddp: Any = next((each for each in around if isinstance(each, DistributedDataParallel)), None)
    if ddp is None:
        return 1
    known = ddp._get_ddp_logging_data()
    more = (ddp.mixed_precision, ddp._delay_all_reduce_params, known.get("comm_hook"), ddp._comm_hooks)
    # Of those that were unfrozen later nothing is averaged; nor do ranks count that have no data.
    if any(more) or ddp._join_config.enable or known.get("num_parameter_tensors") != len(parameters):
        return 1
    return torch.distributed.get_world_size(ddp.process_group)


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
