"""Trees of tensors, arrays and numbers as bytes, for another process: JSON and raw memory, nothing that executes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..measurement import Axis, Measurement

__all__ = ["from_plain", "pack", "to_plain", "unpack"]


def pack(tree: Any) -> bytes:
    """Nested dicts, lists and tuples of tensors, arrays, numbers, strings and None, as bytes.

    Tensors lose their device and their graph, nothing else.

    Raises:
        TypeError: If something else is in it.

    Example:
        >>> unpack(pack({"x": torch.arange(3), 1: (None, 0.1)}))
        {'x': tensor([0, 1, 2]), 1: (None, 0.1)}
    """
    blobs: list[bytes] = []
    head = json.dumps(_describe(tree, blobs)).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *blobs])


def unpack(data: bytes) -> Any:
    """What :func:`pack` was given; tensors are on the CPU."""
    start = 8 + int.from_bytes(data[:8], "little")
    return _Reader(data, start).build(json.loads(data[8:start]))


def _describe(item: Any, blobs: list[bytes]) -> Any:
    if item is None or isinstance(item, bool | int | float | str):
        return item.item() if isinstance(item, np.generic) else item
    if isinstance(item, Mapping):
        return {"dict": [[_describe(key, blobs), _describe(value, blobs)] for key, value in item.items()]}
    if type(item) in (list, tuple):
        return {type(item).__name__: [_describe(value, blobs) for value in item]}
    if isinstance(item, complex):
        return {"complex": [item.real, item.imag]}
    if isinstance(item, bytes):
        blobs.append(item)
        return {"bytes": len(item)}
    if isinstance(item, Tensor) and type(item) in (Tensor, torch.nn.Parameter) and item.layout is torch.strided:
        plain = item.detach().cpu().resolve_conj().resolve_neg().contiguous()
        blobs.append(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"tensor": [str(item.dtype).removeprefix("torch."), list(item.shape), len(blobs[-1])]}
    if isinstance(item, np.ndarray | np.generic) and item.dtype.kind in "fiubcU":
        blobs.append(item.tobytes())
        return {"array": [item.dtype.str, list(item.shape), len(blobs[-1])]}
    raise TypeError(
        f"Tensors, arrays, numbers, strings and dicts, lists and tuples of them can be sent to another rank, got "
        f"{type(item).__module__}.{type(item).__qualname__}."
    )


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = memoryview(data), at

    def _take(self, size: int) -> bytearray:
        self._at += size
        return bytearray(self._data[self._at - size : self._at])  # writable, of its own

    def build(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        [(kind, value)] = item.items()
        if kind == "dict":
            return {self.build(key): self.build(entry) for key, entry in value}
        if kind == "complex":
            return complex(*value)
        if kind == "bytes":
            return bytes(self._take(value))
        if kind in ("tensor", "array"):
            dtype, shape, size = value
            memory = self._take(size)
            if kind == "array":
                return np.frombuffer(memory, np.dtype(dtype)).reshape(shape) if size else np.empty(shape, dtype)
            if not size:
                return torch.empty(shape, dtype=getattr(torch, dtype))
            # In memory that torch aligns: results of matrix products may depend on that in their last bits.
            return torch.frombuffer(memory, dtype=getattr(torch, dtype)).reshape(shape).clone()
        entries = [self.build(entry) for entry in value]
        return tuple(entries) if kind == "tuple" else entries


def to_plain(item: Measurement) -> dict[str, Any]:
    """What a probe has given of a measurement, as a tree that can be packed."""
    names = ("name", "value", "dims", "unit", "standard_error", "estimator", "description")
    return {
        **{name: getattr(item, name) for name in names},
        "coords": {dim: tuple(axis) for dim, axis in item.coords.items()},
        "num_samples": None if item.num_samples is None else int(item.num_samples),
    }


def from_plain(tree: Mapping[str, Any]) -> Measurement:
    """The measurement again, equal to the last bit."""
    return Measurement(**{**tree, "coords": {dim: Axis(*axis) for dim, axis in tree["coords"].items()}})
