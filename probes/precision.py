"""Where float64 is needed, on whatever device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_float64"]


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, a complex one in complex128, on its own device, or on the CPU if that has none (MPS).

    Example:
        >>> to_float64(torch.ones(2)).dtype
        torch.float64
    """
    there = tensor.cpu() if tensor.device.type == "mps" else tensor
    return there.to(torch.complex128) if tensor.is_complex() else there.double()
