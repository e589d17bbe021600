"""What the loop calls ``backward()`` on, its loss: seen in the frame of that call, while the gradients arrive.

No function of torch is replaced and no mode is on, so that what is compiled stays as it is. While it watches, a hook
is called when a parameter's gradient has been accumulated, and looks at who is calling.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..guard.handlers import suppressed
from ..guard.modes import unseen_by_modes
from .frames import backward_call, gradient_scale, within_backward
from .gradients import Seen, is_zero
from .sharding import whole

__all__ = ["BackwardWatch", "GradientHook", "compiles_backward", "same", "trained"]

MANY = 1000
"""Calls of ``backward()`` for one update, at most; of one with more the loss is not known."""


class GradientHook:
    """A hook of parameters that holds its watch weakly."""

    __torch_unserializable__ = True  # else torch warns where a model is sent to another process

    def __init__(self, watch: Any) -> None:
        self.watch = weakref.ref(watch)

    def __call__(self, parameter: Tensor) -> None:
        if not is_dynamo_compiling() and (watch := self.watch()) is not None:
            with suppressed():  # a strange thing to call backward() on
                watch.look(parameter, sys._getframe())


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

    Of each parameter it knows which losses its gradient holds: those that reached it since it was set to None, or since
    the last update of it. The loss of an update is the sum of those that the gradients of its parameters hold.

    Args:
        busy: Whether a call of ``backward()`` is not the loop's.
        apart: Whether there are gradients of calls that no hook was told of.

    Example:
        >>> model, watch = nn.Linear(2, 1), BackwardWatch()
        >>> watch.begin(model.parameters())
        >>> model(torch.ones(3, 2)).square().mean().backward()
        >>> watch.update() is None
        False
        >>> watch.end()
    """

    def __init__(self, busy: Callable[[], bool] = lambda: False, apart: Callable[[], bool] = lambda: False) -> None:
        self._busy, self._apart = busy, apart
        self._mine: dict[int, nn.Parameter] = {}
        """All parameters of the model, by identity."""
        self._handles: dict[int, torch.utils.hooks.RemovableHandle] = {}
        self._losses: dict[int, Tensor | None] = {}
        """By number, in the order in which they came; None for those beyond ``MANY``."""
        self._count = 0
        self._held: dict[int, list[int]] = {}
        """The numbers of those that the gradient of each parameter holds."""
        self._last: weakref.ref[Tensor] | None = None  # what backward() was called on: seen with every parameter
        self._gradients: dict[int, Seen] = {}
        """That of each parameter as it was last."""
        self._discarded: set[int] = set()
        """The parameters of which a gradient was emptied, and not used in an update."""
        self._updated: set[int] = set()  # the parameters of the update that is being made
        self._closure = False
        self._found: list[int] = []  # the losses of what a closure has computed first
        self._again = False  # whether it has begun to compute again
        self._scale: Tensor | None = None

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at every call of ``backward()`` that reaches one of these parameters.

        Not where backward passes are compiled: a hook would be part of their graphs.
        """
        if compiles_backward():
            self.end()
            return
        self._mine = {id(parameter): parameter for parameter in parameters}
        for replaced in self._handles.keys() - self._mine.keys():
            self._handles.pop(replaced).remove()
            self._held.pop(replaced, None)
        self._hook(self._mine.values())

    def _hook(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at these too, as far as they are trained now: some may have been unfrozen."""
        new = [each for each in parameters if id(each) in self._mine and id(each) not in self._handles]
        arrived = GradientHook(self)
        for parameter in trained(new):
            with torch._C.DisableTorchFunctionSubclass():
                handle = parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]
            self._handles[id(parameter)] = handle

    def end(self) -> None:
        """Leave no hook, and forget what was seen."""
        handles, self._handles, self._mine = self._handles, {}, {}
        for handle in handles.values():
            handle.remove()
        self._held.clear()
        self._gradients.clear()
        self._forget()

    def before_update(self, optimizer: torch.optim.Optimizer | None, closure: bool) -> None:
        """Look at what the update is made with; called in its step hook.

        Args:
            optimizer: What makes it; None where that is not known, and comes later.
            closure: Whether a closure may compute gradients, several times perhaps: the first is at the weights as they
                are.
        """
        if optimizer is None or not self._mine:
            return
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._hook(parameters)
        frame = sys._getframe(1)  # not its own, which would hold itself, and all that has called it
        if within_backward(frame) is not None:  # the step is made as soon as a gradient is there, by a hook before ours
            for parameter in parameters:
                self.look(parameter, frame)
        updated = self._mine.keys() & map(id, parameters)
        if updated.isdisjoint(self._updated):  # the one before is over, and was not the last of its step
            self._used(self._updated)
            self._found, self._again = [], False
        self._updated, self._closure = updated, closure
        if any(map(self._is_other, updated & self._discarded)):  # made of several, as by PCGrad
            self._found, self._again = [0], True
        scale = getattr(optimizer, "grad_scale", None)
        if scale is None:
            scale = gradient_scale(frame)
        if scale is not None:
            self._scale = scale.detach().clone()

    def update(self) -> Tensor | None:
        """The loss of the update that was made last, without the factor of a scaler.

        What a closure computes counts once. None where nothing was seen, or nothing looked for.
        """
        updated = self._updated or set(self._mine)
        numbers, scale = self._found or self._holding(updated), self._scale
        losses = [loss for number in numbers if (loss := self._losses.get(number)) is not None]
        self._used(updated)
        self._forget()
        if not losses or len(losses) < len(numbers):
            return None
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        return loss if scale is None else loss / scale.to(loss)

    def _holding(self, parameters: Iterable[int]) -> list[int]:
        return sorted({number for each in parameters for number in self._held.get(each, ())})

    def _used(self, parameters: Iterable[int]) -> None:
        """An update was made with these gradients: they are zeroed in place perhaps, which nobody sees."""
        for each in parameters:
            self._held.pop(each, None)
        self._discarded.difference_update(parameters)

    def _forget(self) -> None:
        self._updated, self._closure, self._found, self._again, self._scale = set(), False, [], False, None
        held = {number for numbers in self._held.values() for number in numbers}
        self._losses = {number: loss for number, loss in self._losses.items() if number in held}

    def look(self, parameter: Tensor, frame: FrameType) -> None:
        """The gradient of a parameter has arrived, in this frame."""
        if self._busy() or id(parameter) not in self._mine or (call := backward_call(frame)) is None:
            return
        roots = _several(call.f_locals.get("tensors"))
        weights = _several(call.f_locals.get("grad_tensors")) or (None,) * len(roots)
        if not roots or any(root.dim() > 1 and root.numel() > 1 for root in roots):
            return  # not what the loop minimizes, but something within
        if self._last is None or self._last() is not roots[0] or self._count not in self._losses:
            with unseen_by_modes():
                self._clear(parameter)
                self._count += 1
                known = len(self._losses) < MANY and not self._apart()
                self._losses[self._count] = _objective(roots, weights) if known else None
            if self._closure and not self._again:
                self._found = self._found or self._holding(self._updated)
                self._found.append(self._count)
            self._last = weakref.ref(roots[0])
        if (held := self._held.setdefault(id(parameter), []))[-1:] != [self._count] and len(held) <= MANY:
            held.append(self._count)
            with torch._C.DisableTorchFunctionSubclass():
                if (gradient := parameter.grad) is not None:
                    self._gradients[id(parameter)] = Seen(gradient)

    def _clear(self, arrived: Tensor) -> None:
        """Another call has begun, and this gradient is there first: of the others it is seen which were emptied."""
        with torch._C.DisableTorchFunctionSubclass():
            own, others = id(arrived), [key for key in self._held if key != id(arrived)]
            empty = {key for key in others if self._is_empty(key)}
            voters = [key for key in others if self._held[key] == self._held.get(own)]
            # Zeroed through .data, which does not tell: one that is not zero settles it, a small one soonest.
            if voters and not empty and all(is_zero(p.grad) for p in self._smallest_first(voters)):
                empty.update(voters)
            verdicts = {key in empty for key in voters}
            # Where those that held the same do not agree: its own says less, for DDP may put another in its place.
            if verdicts == {True} or (len(verdicts) != 1 and self._is_new(arrived, alone=not others)):
                empty.add(own)
            self._again = self._again or bool(self._found and self._updated & empty)
            lost = {key for key in empty if self._held.get(key)}
            self._used(empty)
            self._discarded |= lost

    def _smallest_first(self, keys: Iterable[int]) -> list[nn.Parameter]:
        return sorted((self._mine[key] for key in keys), key=lambda parameter: parameter.numel())

    def _is_new(self, arrived: Tensor, alone: bool) -> bool:
        """Whether a gradient that has arrived was empty before, as far as it can tell by itself."""
        gradient, last = arrived.grad, self._gradients.get(id(arrived))
        if gradient is None or last is None or not last.is_same(gradient):
            return True
        return alone and last.changes(gradient) > 1

    def _is_other(self, key: int) -> bool:
        """Whether a gradient is another tensor than its last loss arrived in, and not because of DDP."""
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        with torch._C.DisableTorchFunctionSubclass():
            gradient, last = self._mine[key].grad, self._gradients.get(key)
            return alone and gradient is not None and (last is None or not last.is_same(gradient))

    def _is_empty(self, key: int) -> bool:
        """Whether the gradient of a parameter was set to None, or to zeros, since its last loss arrived."""
        gradient, last = self._mine[key].grad, self._gradients.get(key)
        if gradient is None:
            return True
        # Its numbers are read only where something has changed them: zeros, or what scales or clips.
        changed = last is not None and (not last.is_same(gradient) or last.changes(gradient) != 0)
        return changed and is_zero(gradient)


def _several(given: Any) -> tuple[Any, ...]:
    return (given,) if isinstance(given, Tensor) else tuple(given or ())


def _objective(roots: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor | None:
    """What ``backward()`` of these differentiates, the sum of each with its weights; in single precision at least.

    None where no rank holds it in whole.
    """
    terms = []
    for root, weight in zip(map(whole, roots), map(whole, weights), strict=True):
        if root is None:
            return None
        value = root.detach().to(torch.promote_types(root.dtype, torch.float32))
        terms.append((value if weight is None else value * weight.detach()).sum())
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0].clone()


def compiles_backward() -> bool:
    """Whether backward passes are compiled: a hook would be part of their graphs."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    return dynamo is not None and bool(getattr(dynamo.config, "compiled_autograd", False))
