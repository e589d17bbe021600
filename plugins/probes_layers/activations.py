"""What layers give on a batch: how large their outputs are, which units are dead and which are saturated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.batches import tensors
from probes.names import hookable_modules, own_parameters
from probes.outputs import ExampleAxis
from probes.precision import to_float64

from .units import Units
from .updates import nonzero_count, square_sum

__all__ = ["Activation", "activations", "output_entropy", "summarize"]

F = nn.functional
EDGE = 0.01
"""How near to a bound a saturated activation is, as a share of the range."""
BOUNDS: dict[str, tuple[float, float]] = {
    "sigmoid": (0, 1), "hardsigmoid": (0, 1), "tanh": (-1, 1), "hardtanh": (-1, 1), "softsign": (-1, 1),
    "relu6": (0, 6),
}  # fmt: skip
"""Of bounded activations, by the name of the function, or of the module's class in small letters: what they have unless
they are given others, as a Hardtanh is."""
CLIPPED = ("hardtanh", "relu6")
"""Activations that are a clipped ReLU where they begin at 0."""
FUNCTIONS: dict[Any, str] = {
    function: name
    for name, functions in {
        "relu": (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), "relu6": (F.relu6,), "elu": (F.elu,),
        "leaky_relu": (F.leaky_relu,), "gelu": (F.gelu,), "silu": (F.silu,), "selu": (F.selu, torch.selu),
        "mish": (F.mish,), "softplus": (F.softplus,), "hardswish": (F.hardswish,), "hardsigmoid": (F.hardsigmoid,),
        "softsign": (F.softsign,), "hardtanh": (F.hardtanh,),
        "sigmoid": (F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_),
        "tanh": (F.tanh, torch.tanh, Tensor.tanh, torch.tanh_, Tensor.tanh_),
    }.items()
    for function in functions
}  # fmt: skip
"""Activations that are called as functions, and the names under which they are recorded."""
GIVEN = ("min_val", "max_val")
"""What a hardtanh is given."""
PASSIVE = ("dropout", "flatten", "pooling", "upsampling", "padding", "pixelshuffle", "channelshuffle", "loss", "fold")
"""Modules of :mod:`torch.nn` that only hand on: no layers of their own."""
LINEAR = {
    f"torch.nn.modules.{name}"
    for name in ("linear", "conv", "batchnorm", "instancenorm", "normalization", "sparse", "rnn", "activation")
}
"""Where modules with parameters are that give no exact zeros."""
KEEPING = (nn.PReLU, nn.LayerNorm, nn.RMSNorm)
"""Modules with parameters that leave the units where they are, unless a function that they call says otherwise."""


class Bounds(NamedTuple):
    """Of what an activation gives."""

    low: float
    high: float
    clipped: bool
    """Whether it is a clipped ReLU: what is at its lower bound is not saturated."""


@dataclass
class Activation:
    """What a layer has given, in all its calls on the batch."""

    bounds: Bounds | None
    gated: bool = True
    """Whether zeros are looked for: not in what linear maps and normalizations give."""
    count: int = 0
    sums: Tensor | None = None
    """Of squares, of values, of squares of what all samples share, and numbers of what is not zero and of what is
    saturated; float64."""
    largest: Tensor | None = None
    """The largest magnitude."""
    alive: Tensor | None = None
    """Of each unit, whether it was not zero once; where zeros are looked for."""
    unknown: bool = False
    """Whether the axis of the units could not be told."""

    def add(self, output: Tensor, units: int | None, examples: int | None = 0) -> None:
        """Take what one call has given, with its units and the examples along these axes."""
        output = output.detach()
        squares = square_sum(output)
        axis = 0 if examples is None or examples == units else examples
        shared = output.sum(axis, keepdim=True, dtype=torch.float32 if output.dtype.itemsize < 4 else None)
        nonzero, saturated = torch.full_like(squares, torch.nan), torch.zeros_like(squares)
        if self.gated:
            nonzero = nonzero_count(output)
            self.unknown = self.unknown or units is None
        if self.gated and units is not None:
            alive = _alive(output, shared, units)
            same = self.alive is not None and self.alive.shape == alive.shape
            self.alive = self.alive | alive if same else alive  # type: ignore[operator]
        if self.bounds is not None:
            saturated = nonzero_count(_at_a_bound(output, self.bounds))
        low, high = torch.aminmax(output)
        largest = to_float64(torch.maximum(high, -low))
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest.to(self.largest.device))
        alike = square_sum(shared) / output.shape[axis] if axis == examples else torch.full_like(squares, torch.nan)
        parts = (squares, to_float64(shared.sum()), alike, nonzero, saturated)
        sums = torch.stack([part.to(squares.device) for part in parts])
        self.count += output.numel()
        self.sums = sums if self.sums is None else self.sums + sums


def summarize(items: Sequence[Activation]) -> Tensor:
    """RMS, mean, largest magnitude, variation, shares of zeros, dead units and saturated values. Shape ``(n, 7)``."""
    sums = torch.stack([item.sums.cpu() for item in items if item.sums is not None], 1)
    squares, total, shared, nonzero, saturated = sums / torch.tensor([item.count for item in items], device="cpu")
    # What differs from sample to sample, relative to all; in single precision no less than 3e-4 can be told.
    variation = (1 - shared / squares).clamp_min(0).sqrt()
    largest = torch.stack([item.largest.cpu() for item in items if item.largest is not None])
    dead = [math.nan if item.alive is None or item.unknown else 1 - float(item.alive.float().mean()) for item in items]
    columns = (squares.sqrt(), total, largest, variation, 1 - nonzero, squares.new_tensor(dead), saturated)
    # NaN is none of zero, dead or saturated, and says nothing of these shares.
    return torch.stack(columns, 1).where(~squares.isnan()[:, None], torch.nan)


def _at_a_bound(output: Tensor, bounds: Bounds) -> Tensor:
    edge = EDGE * (bounds.high - bounds.low)
    above = output >= bounds.high - edge
    return above if bounds.clipped else above | (output <= bounds.low + edge)


def _alive(output: Tensor, sums: Tensor, dim: int) -> Tensor:
    """Of each unit, whether it is not zero once, given the sums over the batch."""
    others = [other for other in range(output.ndim) if other != dim]
    if output.device.type != "cpu":
        return output.ne(0).any(others)
    alive = sums.ne(0).any(others)
    silent = (~alive).nonzero().squeeze(1)  # few; their sums may vanish, and they not
    if len(silent):
        alive[silent] = output.index_select(dim, silent).ne(0).any(others)
    return alive


def output_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the distributions that logits are, in nats. Scalar.

    Args:
        logits: Shape ``(..., c)``.

    Example:
        >>> output_entropy(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]])).item()  # half of log 2
        0.346573...
    """
    log = F.log_softmax(logits.double() if logits.device.type != "mps" else logits.float(), -1)
    each: Tensor = torch.special.entr(log.exp())
    return each.sum(-1).mean()


def activations(model: nn.Module, call: Callable[[], Any], n: int | None = None) -> tuple[dict[str, Activation], Any]:
    """What the layers of a model give while it is called, by name, in the order of the calls.

    A layer is a module with parameters of its own, or an activation: a module, or a function called within one, which
    is named after that (``features.relu``). One activation that is called after several layers is several: ``relu``,
    ``relu-2`` and so on, in the order of the first calls.

    Args:
        model: The model.
        call: Calls it.
        n: Number of examples, for their axis (:class:`~probes.outputs.ExampleAxis`); without it, it is the first.

    Returns:
        The activations, and what the call has returned.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> seen, _ = activations(net, lambda: net(torch.ones(5, 2)))
        >>> list(seen), seen["1"].count
        (['0', '1', '2'], 15)
    """
    watch = _Watch(None if n is None else ExampleAxis(model, n))
    with torch.no_grad(), watch.on(model), watch:
        result = call()
    return watch.seen, result


class _Watch(TorchFunctionMode):
    def __init__(self, examples: ExampleAxis | None) -> None:
        super().__init__()
        self.seen: dict[str, Activation] = {}
        self._within: list[tuple[str, nn.Module, dict[str, int] | None]] = []
        """Modules that are being called, and how often functions were in each; None in an activation."""
        self._examples = examples
        self._units = Units()
        self._before = ""
        """The layer with parameters that was called last."""
        self._places: dict[str, list[str]] = {}
        """Of each activation module, after which layers it was called: at each place its units are others."""

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        handles = []
        try:
            for name, module in hookable_modules(model):
                handles += self._hooked(name or type(model).__name__, module)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooked(self, name: str, module: nn.Module) -> list[Any]:
        kind, package = type(module).__name__.lower(), type(module).__module__
        own = bool(own_parameters(module))
        passive = package.startswith("torch.nn.modules.") and package.rpartition(".")[2] in PASSIVE
        leaf = next(module.children(), None) is None and not passive and kind != "identity"
        given = [getattr(module, bound, None) for bound in GIVEN]
        counts: list[int] = []

        def enter(*_: Any) -> None:
            counts.append(self._units.count)
            self._within.append((name, module, None if leaf and not own else {}))

        def leave(_: nn.Module, args: Any, result: Any) -> None:
            self._within.pop()
            if counts.pop() == self._units.count and own and not _keeps_units(module, args, result, self._units):
                self._units.set(-1, next(iter(tensors(result)), None))
            # What a stranger returns in a dict is no activation, as the random parameters of an augmentation.
            activates = package.startswith("torch.") or isinstance(result, Tensor)
            if own or (leaf and activates):
                called = name if own else self._placed(name)
                self._take(called, module, _bounds(kind, *given), result, gated=not (own and package in LINEAR))
            if own:
                self._before = name

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _placed(self, name: str) -> str:
        places = self._places.setdefault(name, [])
        if self._before not in places:
            places.append(self._before)
        number = places.index(self._before) + 1
        return name if number == 1 else f"{name}-{number}"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._units.see(func, args, kwargs, result)
        if func in FUNCTIONS and self._within:
            name, module, called = self._within[-1]
            if called is None:
                return result
            kind = FUNCTIONS[func]
            called[kind] = called.get(kind, 0) + 1
            given = [kwargs.get(name, args[i] if len(args) > i else None) for i, name in enumerate(GIVEN, 1)]
            bounds = _bounds(kind, *given) if kind == "hardtanh" else _bounds(kind)
            self._take(f"{name}.{kind}" + (f"-{called[kind]}" if called[kind] > 1 else ""), module, bounds, result)
        return result

    def _take(self, name: str, module: nn.Module, bounds: Bounds | None, result: Any, gated: bool = True) -> None:
        found = [item for item in tensors(result) if not item.is_nested]
        outputs = [item for item in found if item.is_floating_point() and item.ndim > 1 and item.numel()]
        if not outputs:
            return
        with torch._C.DisableTorchFunction():  # what is done here is no activation
            if name not in self.seen:
                self.seen[name] = Activation(bounds, gated)
            output: Tensor = outputs[0]
            examples: int | None = 0
            if self._examples is not None:
                n, examples = self._examples.n, self._examples.of(module, output)
                if examples is None and len(output) > n and len(output) % n == 0:
                    examples = 0  # as many rows for each example
            self.seen[name].add(output, self._units.of(output), examples)


def _bounds(kind: str, low: float | None = None, high: float | None = None) -> Bounds | None:
    """Of an activation that may have been given others than are usual."""
    if kind not in BOUNDS:
        return None
    usual = BOUNDS[kind]
    low, high = usual[0] if low is None else float(low), usual[1] if high is None else float(high)
    return Bounds(low, high, clipped=kind in CLIPPED and low == 0)


def _keeps_units(module: nn.Module, args: Any, result: Any, units: Units) -> bool:
    """Whether a layer has its units where the one before has them: a norm, or what of a stranger keeps the shape."""
    if type(module).__module__.startswith("torch."):
        return isinstance(module, KEEPING)
    given, output = next(iter(tensors(args)), None), next(iter(tensors(result)), None)
    if given is None or output is None or given.is_nested or output.is_nested:
        return False
    return given.shape == output.shape and units.count > 0
