"""Which gradient a parameter had when it was looked at last, without holding it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["Seen", "is_zero"]


class Seen:
    """A gradient as it was, known by its memory: who has a weak reference to the tensor keeps torch from swapping it,
    as conversions of a model do.

    Args:
        gradient: The gradient.

    Example:
        >>> gradient = torch.ones(3)
        >>> seen = Seen(gradient)
        >>> seen.is_same(gradient), seen.is_same(torch.ones(3)), seen.changes(gradient.mul_(2))
        (True, False, 1)
    """

    def __init__(self, gradient: Tensor) -> None:
        self._version = gradient._version
        part = _strided(gradient)
        self._memory = None if part is None else StorageWeakRef(part.untyped_storage())  # type: ignore[no-untyped-call]
        self._tensor = weakref.ref(gradient) if part is None else None

    def is_same(self, gradient: Tensor) -> bool:
        """Whether it is this one: of a sparse gradient, whose memory is another after each addition, the tensor."""
        if self._tensor is not None:
            return self._tensor() is gradient
        part = _strided(gradient)
        return part is not None and part.untyped_storage()._cdata == self._memory.cdata  # type: ignore[union-attr]

    def changes(self, gradient: Tensor) -> int:
        """How often it was changed in place since, as far as it tells."""
        return gradient._version - self._version


def _strided(gradient: Any) -> Tensor | None:
    part = getattr(gradient, "_local_tensor", gradient)  # of a DTensor
    # Other subclasses, and other devices' tensors, may have no memory that can be asked for.
    return part if type(part) is Tensor and part.layout is torch.strided and torch._C._has_storage(part) else None


def is_zero(gradient: Tensor | None) -> bool:
    """Whether it is seen to be zero; where it cannot be asked now, in the capture of a graph, it is not."""
    if type(gradient) is not Tensor or gradient.layout is not torch.strided or gradient.is_nested:
        return False
    if gradient.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not bool(gradient.any())
