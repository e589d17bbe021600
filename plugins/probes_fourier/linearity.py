"""Watches a function run: finds where its operations bend it, and says which of them are not piecewise linear."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.measurement import CannotMeasure

from .kinks import envelope_kinks, pool_windows, zero_crossings
from .operations import (
    AFFINE,
    BENT_AT,
    EXTREMA,
    JUMPING,
    NOT_LINEAR,
    POOLS,
    PRODUCTS,
    QUOTIENTS,
    SHAPE_ONLY,
    SWITCHED,
)

__all__ = ["KinkFound", "Observer"]


class KinkFound(Exception):
    """Ends a run early: the operation that was waited for has been seen."""


class Observer(TorchFunctionMode):
    """Sees every torch function that runs under it, and which tensors depend on the rows given to :meth:`watch`.

    Args:
        positions: Position of each row of the input. Shape ``(m,)``.
        call: Which piecewise-linear operation, counted in the order in which they run, is looked at; all earlier ones
            must bend only at the positions. Its kinks are put in ``kinks`` and :class:`KinkFound` is raised. None: run
            to the end.

    Raises:
        ValueError: (from the function under it) If data that depends on the rows meets an operation that is not
            piecewise linear, or leaves float64.
    """

    def __init__(self, positions: Tensor, call: int | None = None) -> None:
        super().__init__()
        self.positions = positions
        self.waiting = -1 if call is None else call
        self.kinks = positions[:0]
        self.unknown: list[str] = []
        # "linear" or "constant" (between two positions) for each tensor that depends on the rows, by identity.
        self._kinds: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def watch(self, tensor: Tensor, kind: str = "linear") -> Tensor:
        """Note that a tensor depends on the rows."""
        self._kinds[id(tensor)] = (weakref.ref(tensor), kind)
        return tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kinds = [self._kind(tensor) for tensor in _tensors((args, kwargs))]
        full_name = getattr(func, "__name__", str(func))
        name = full_name.strip("_").removesuffix("_with_indices")
        if not any(kinds) or name in SHAPE_ONLY:
            return func(*args, **kwargs)
        if "linear" in kinds:
            self._refuse(name, args, kwargs)
            if self._bends(name, args, kwargs):
                if self.waiting == 0:
                    # Before the call: it may overwrite its input.
                    self.kinks = self._kinks(name, args, kwargs)
                    raise KinkFound
                self.waiting -= 1
        result = func(*args, **kwargs)
        written = list(_tensors((result, kwargs.get("out"))))
        if name == "setitem" or (full_name.endswith("_") and not full_name.endswith("__")):
            # What is written into depends on what was written, and so does the whole that it is a view of.
            written += [tensor for tensor in (args[0], args[0]._base) if isinstance(tensor, Tensor)]
        for tensor in written:
            if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype != torch.float64):
                raise CannotMeasure(
                    f"The function must compute in float64 throughout, but `{name}` gave {tensor.dtype}; "
                    f"measure it on a grid instead."
                )
            self.watch(tensor, "linear" if "linear" in kinds and tensor.is_floating_point() else "constant")
        return result

    def _kind(self, tensor: Tensor) -> str | None:
        for candidate in (tensor, tensor._base):
            if candidate is not None and id(candidate) in self._kinds:
                reference, kind = self._kinds[id(candidate)]
                if reference() is candidate:
                    return kind
        return None

    def _linear(self, value: Any) -> bool:
        return any(self._kind(tensor) == "linear" for tensor in _tensors(value))

    def _refuse(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        what = None
        if name in NOT_LINEAR:
            what = f"`{name}`"
        elif name in JUMPING:
            what = f"`{name}`, which jumps,"
        elif name in SWITCHED and _argument(args, kwargs, *SWITCHED[name]):
            if not (name.endswith("dropout") and _argument(args, kwargs, "p", 1, 0.5) == 0):
                what = f"`{name}` in training mode"
        elif name == "rrelu" and _argument(args, kwargs, "training", 3, False):
            what = "`rrelu` in training mode"
        elif name in PRODUCTS and all(self._linear(args[i : i + 1]) for i in PRODUCTS[name]):
            what = f"`{name}` to two tensors that both depend on the input"
        elif name == "einsum" and sum(self._linear(operand) for operand in _tensors(args)) > 1:
            what = "`einsum` to several tensors that depend on the input"
        elif name in QUOTIENTS and self._linear(args[QUOTIENTS[name] : QUOTIENTS[name] + 1]):
            what = f"`{name}` with a denominator that depends on the input"
        elif name in EXTREMA and _argument(args, kwargs, "dim", 1, kwargs.get("other")) in (None, ()):
            what = f"`{name}` over all rows at once"
        if what is not None:
            raise CannotMeasure(
                f"The network is not piecewise linear: it applies {what} to data that depends on the input; measure it "
                f"on a grid instead."
            )

    def _bends(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if name in BENT_AT or name in EXTREMA or name in POOLS:
            return True
        if name not in AFFINE and name not in PRODUCTS and name not in QUOTIENTS and name not in SWITCHED:
            self.unknown.append(name)
        return False

    def _kinks(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        x = args[0] if args else kwargs["input"]
        if name in POOLS:
            return envelope_kinks(self.positions, self._rows(_competing(name, x, args, kwargs), 2))
        if name in EXTREMA:
            sign = -1 if "min" in name else 1
            other = _argument(args, kwargs, "other", 1, None)
            if isinstance(other, Tensor):
                return zero_crossings(self.positions, self._rows(x - other, 1))
            given = _argument(args, kwargs, "dim", 1, None)
            dims = [dim % x.ndim for dim in ([given] if isinstance(given, int) else given)]
            kept = [dim for dim in range(x.ndim) if dim not in dims]
            moved = x.permute([*kept, *dims])
            lines = moved.reshape(*moved.shape[: len(kept)], -1)
            return envelope_kinks(self.positions, self._rows(sign * lines, 2))
        bounds = [b if isinstance(b, float) else _argument(args, kwargs, *b) for b in BENT_AT[name]]
        # A comparison may have its tensor on the right: (0 < x) comes as gt(x, 0), but lt(constant, x) stays.
        crossing = [zero_crossings(self.positions, self._rows(x - b, 1)) for b in bounds if b is not None]
        return torch.cat([self.positions[:0], *crossing])

    def _rows(self, values: Tensor, ndim: int) -> Tensor:
        """As (m, q) or (m, q, k): the rows come first, alone or merged with dimensions that followed them."""
        m = len(self.positions)
        if values.ndim == 0 or len(values) % m:
            raise CannotMeasure(
                f"The rows of the input must stay in the first dimension, but a tensor of {m} rows has the shape "
                f"{tuple(values.shape)} where an operation bends it; measure the function on a grid instead."
            )
        return values.reshape(m, -1) if ndim == 1 else values.reshape(m, -1, values.shape[-1])


def _competing(name: str, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    d = int(name[name.index("pool") + 4])
    spatial = x.shape[x.ndim - d :]

    def each(value: Any) -> list[Any]:
        return list(value) * (d if len(value) == 1 else 1) if isinstance(value, tuple | list) else [value] * d

    if name.startswith("adaptive"):
        counts = each(_argument(args, kwargs, "output_size", 1, None))
        return pool_windows(x, [(n if c is None else c, 0, 0, 0, 0) for c, n in zip(counts, spatial, strict=True)])
    size = each(_argument(args, kwargs, "kernel_size", 1, None))
    stride = each(_argument(args, kwargs, "stride", 2, None) or size)
    padding = each(_argument(args, kwargs, "padding", 3, 0))
    dilation = each(_argument(args, kwargs, "dilation", 4, 1))
    up = math.ceil if _argument(args, kwargs, "ceil_mode", 5, False) else math.floor
    windows = []
    for n, k, s, p, e in zip(spatial, size, stride, padding, dilation, strict=True):
        count = up((n + 2 * p - e * (k - 1) - 1) / s) + 1
        # A window must start inside the input or its left padding.
        windows.append((count - ((count - 1) * s >= n + p), k, s, p, e))
    return pool_windows(x, windows)


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str, place: int, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, Mapping):
        yield from _tensors(tuple(tree.values()))
