"""Seeing the targets in the loss: a torch function mode that is on between a forward and what follows it."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batches import IGNORED, ignoring, tensors
from ..guard.handlers import suppressed
from ..guard.modes import unseen_by_modes
from ..picking import returned
from .criterion import OUTPUT, PRODUCTS, TARGETS, Called, Criterion
from .mode_stack import BottomMode

__all__ = ["LossWatch", "is_target"]


@functools.cache
def _compares(function: Callable[..., Any]) -> bool:
    """Whether a torch function is a loss: takes ``input`` and ``target`` first."""
    if getattr(function, "__module__", "") != "torch.nn.functional":
        return False
    try:
        return list(inspect.signature(function).parameters)[:2] == ["input", "target"]
    except (TypeError, ValueError):
        return False


_DIFFERENCES = {Tensor.sub, Tensor.__sub__, Tensor.__rsub__, torch.sub, torch.rsub}
_VIEWS = {
    Tensor.squeeze, torch.squeeze, Tensor.flatten, torch.flatten, Tensor.view, Tensor.reshape, torch.reshape,
    Tensor.float, Tensor.to, Tensor.__getitem__, Tensor.transpose, torch.transpose, Tensor.permute,
    Tensor.contiguous, Tensor.double,
    torch.sigmoid, Tensor.sigmoid, torch.log_softmax, Tensor.log_softmax, torch.nn.functional.log_softmax,
    torch.nn.functional.softmax, torch.softmax, Tensor.softmax,
}  # fmt: skip
_ESCAPES = {Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__, Tensor.__float__, Tensor.__int__}
_ENTRANCES = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy}
_GATHER = {Tensor.gather, torch.gather}
_REPLACED = {
    Tensor.clamp, torch.clamp, Tensor.clamp_min, torch.clamp_min, Tensor.where, torch.where, Tensor.masked_fill,
    torch.masked_fill,
}  # fmt: skip
"""What takes other numbers in the place of labels, such as 0 for those that are to count for nothing."""
MANY = 2000
"""Tensors that are remembered as computed, before those that are gone are forgotten."""


class LossWatch(BottomMode):
    """Sees what the loop compares the output with: in functional losses, loss modules too, and ``output - targets``.

    Also in a cross-entropy that is written out: the probabilities by which a ``log_softmax`` is multiplied, or the
    classes that are picked from it. What was computed from an output, detached or not, is no target: the largest logit
    that is taken off, a prediction that another one is to agree with, labels that are the model's own. Nor is what is
    taken off before the rest is compared with something else (noise, an offset), or is the same everywhere, unless
    nothing else is compared with. Where several are left, none is taken, unless one alone holds classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.candidates: list[tuple[Tensor, str, int, Criterion | None]] = []
        """Copies of what may be the targets, as the loop may write over it, the function in which it was seen, the
        number of the output that it was compared with, and the loss if it is that function's."""
        self._rows = self._n = self._losses = 0
        self._shapes: list[tuple[int, ...]] = []
        self._outputs: list[tuple[weakref.ref[Tensor], int, list[Called] | None]] = []
        """What may be the output, and what is a view or an activation of it, with the number of the output and the
        calls that lead there, where they are known."""
        self._residuals: list[tuple[weakref.ref[Tensor], Tensor]] = []
        """Differences of outputs, and the candidates that were taken off."""
        self._computed: dict[int, weakref.ref[Tensor]] = {}
        self._escaped = False
        """Whether what was computed has left torch, as numbers or arrays that may come back."""

    def look_at(self, outputs: Sequence[Tensor], rows: int, n: int) -> None:
        """Wait for the loss of one of these, and of no other; keep the first ``n`` of its ``rows`` targets."""
        self._rows, self._n = rows, n
        self._outputs = [(weakref.ref(output), number, []) for number, output in enumerate(outputs)]
        self._shapes = [tuple(output.shape) for output in outputs]  # may be gone when views of them are compared
        self.candidates, self._residuals, self._losses = [], [], 0

    def looks(self) -> bool:
        """Whether there is an output whose loss is waited for."""
        return bool(self._outputs)

    def computed(self, result: Any) -> None:
        """Of what a model returns, and of all that comes of it, nothing is a target."""
        if len(self._computed) > MANY:
            self._computed = {key: known for key, known in self._computed.items() if known() is not None}
        for item in returned(result):
            self._computed[id(item)] = weakref.ref(item)

    def stop(self) -> None:
        """Look no more."""
        super().stop()
        # To what a module converts nothing may refer weakly: torch would refuse to swap it.
        self._computed, self._outputs, self._residuals = {}, [], []

    @property
    def compared(self) -> int | None:
        """The number of the output that is compared with something; of several, the first, if not with a constant."""
        numbers = [(_constant(tensor), number) for tensor, _, number, _ in self.candidates]
        return min(numbers)[1] if numbers else None

    def targets(self) -> tuple[Tensor, str, Criterion | None] | None:
        """The targets, where they were seen, and the loss, where it is one function's."""
        different: list[tuple[Tensor, str]] = []
        for tensor, where, number, _ in self.candidates:
            if number == self.compared and not any(_equal(tensor, other) for other, _ in different):
                different.append((tensor, where))
        different = [item for item in different if not _constant(item[0])] or different
        chosen = [item for item in different if not item[0].is_floating_point()] or different
        if len(chosen) != 1:
            return None
        targets, where = chosen[0]
        trained = [
            criterion
            for tensor, _, number, criterion in self.candidates
            if criterion is not None and criterion.factor is not None
            if number == self.compared and _equal(tensor, targets)
        ]
        return targets, where, trained[0] if trained and self._losses == 1 else None  # of several none is the loss

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.stopped:
            return func(*args, **kwargs)
        self.prepare()
        computed, number, path = False, None, None
        before = len(self.candidates)
        with suppressed():  # a strange argument; the call itself must go on
            computed = any(self._is_computed(item) for item in tensors((args, kwargs)))
            number = self._look(func, args, kwargs) if computed else None
            own, (_, known) = self._own(args, kwargs)
            if number is not None and known is not None and func in _VIEWS:
                call = Called.of(func, args, kwargs, {id(own): OUTPUT})
                path = None if call is None else [*known, call]
            self._escaped |= computed and func in _ESCAPES
            computed |= self._escaped and func in _ENTRANCES
        result = func(*args, **kwargs)
        computed |= func in _REPLACED and isinstance(result, Tensor) and not result.is_floating_point()
        if computed:
            with suppressed():
                self._follow(func, args, result, before)
                self.computed(result)
                if _in_place(func):
                    self.computed((args[0], args[0]._base))
        if number is not None and isinstance(result, Tensor):
            self._outputs.append((weakref.ref(result), number, path))
            if func in _DIFFERENCES and len(self.candidates) > before:
                self._residuals.append((weakref.ref(result), self.candidates[-1][0]))
        return result

    def _follow(self, func: Callable[..., Any], args: tuple[Any, ...], result: Any, before: int) -> None:
        """See whether it is a loss itself that the loop trains, and not what comes of it."""
        for *_, criterion in self.candidates[before:]:
            if criterion is not None:
                criterion.gave(result)
        self._losses += func is Tensor.backward
        for *_, criterion in self.candidates[:before]:
            if criterion is not None:
                criterion.follow(func, args, result)
                if func is Tensor.backward:
                    criterion.differentiated(args[0])
        if _in_place(func):  # what leads there is not all that was seen
            self._outputs = [(o, n, None if o() is args[0] else path) for o, n, path in self._outputs]

    def _is_computed(self, item: Tensor) -> bool:
        known = self._computed.get(id(item))
        return known is not None and known() is item

    def _look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """Look for targets in a call; the number of the output as which what it gives is to be looked at, if any."""
        own, (number, before) = self._own(args, kwargs)
        if own is None:
            return None
        others = (item for item in tensors((args, kwargs)) if self._known(item) is None)
        other = kwargs.get("target", next(others, None))
        if before and before[-1].name == "log_softmax" and (func in PRODUCTS or func in _GATHER):
            self._written_out(func, own, other, number)
            return None
        count = len(self.candidates)
        looked_at = self._is_looked_at(func, own, other, number)
        if len(self.candidates) == count or not isinstance(other, Tensor):
            return number if looked_at else None
        kept, where, *_ = self.candidates[-1]
        self.candidates[-1] = ignoring(kept, kwargs.get("ignore_index", IGNORED)), where, number, None
        if before is not None and _compares(func):
            call = Called.of(func, args, kwargs, {id(own): OUTPUT, id(other): TARGETS})
            flat = self._flattened(func, other, self._shapes[number])
            if call is not None:
                self.candidates[-1] = (*self.candidates[-1][:3], Criterion([*before, call], flat))
        return number if looked_at else None

    def _own(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[int, list[Called] | None]]:
        """The output among the arguments of a call, with its number and the calls that lead there."""
        found = ((item, known) for item in [*args, *kwargs.values()] if (known := self._known(item)) is not None)
        return next(found, (None, (0, None)))

    def _known(self, item: Any) -> tuple[int, list[Called] | None] | None:
        known = ((n, path) for output, n, path in self._outputs if isinstance(item, Tensor) and item is output())
        return next(known, None)

    @unseen_by_modes()
    def _is_looked_at(self, func: Callable[..., Any], own: Tensor, other: Any, number: int) -> bool:
        difference = func in _DIFFERENCES
        if not (difference or _compares(func)):
            return func in _VIEWS
        if not isinstance(other, Tensor):
            return False
        if self._is_computed(other):
            return difference and not other.requires_grad  # shifted, by the largest logit for example
        taken_off = next((candidate for residual, candidate in self._residuals if residual() is own), None)
        if taken_off is not None:  # what is left of the output is compared with something else
            self.candidates = [item for item in self.candidates if item[0] is not taken_off]
            return False
        if difference and other.numel() != own.numel():
            return True  # shifted by a constant, such as a bias
        target = other.reshape(self._rows, -1) if self._flattened(func, other, self._shapes[number]) else other
        if not is_target(target, self._rows) or (difference and _constant(target)):
            return False
        name = getattr(func, "__name__", "a difference").strip("_")
        kept = target[: self._n].detach().clone()
        self.candidates.append((kept, f"output - targets ({name})" if difference else name, number, None))
        return difference

    @unseen_by_modes()
    def _written_out(self, func: Callable[..., Any], own: Tensor, other: Any, number: int) -> None:
        """Look for the targets of a cross-entropy: by what a logarithm is multiplied, or which classes are picked."""
        if not is_target(other, self._rows) or self._is_computed(other) or self._escaped:
            return  # actions that were drawn from the output may come back as numbers
        found: Tensor | None = None
        if func in _GATHER:
            found = other.squeeze(-1) if other.shape == (*own.shape[:-1], 1) else None
        elif other.shape == own.shape:
            signs = (other, -other) if other.dtype.is_signed else (other,)
            found = next((signed.to(own.dtype) for signed in signs if _probabilities(signed)), None)
        if found is not None:
            words = f"cross-entropy, written out ({getattr(func, '__name__', '')})"
            self.candidates.append((found[: self._n].detach().clone(), words, number, None))

    def _flattened(self, func: Callable[..., Any], other: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether these are the targets of all positions of all sequences in one row, as for a language model."""
        return _compares(func) and len(shape) == 3 and other.shape == (shape[0] * shape[1],)


def is_target(candidate: Any, rows: int) -> bool:
    return (
        isinstance(candidate, Tensor) and not candidate.requires_grad and candidate.ndim > 0 and len(candidate) == rows
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    )


def _constant(candidate: Tensor) -> bool:
    """Whether all numbers are one: zeros that a norm is taken of, the label "real" of a discriminator."""
    return candidate.is_floating_point() and candidate.numel() > 1 and bool((candidate == candidate.flatten()[0]).all())


def _probabilities(candidate: Tensor) -> bool:
    """Whether each row is a distribution."""
    return bool((candidate >= 0).all()) and bool(((candidate.float().sum(-1) - 1).abs() < 1e-2).all())


def _in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
