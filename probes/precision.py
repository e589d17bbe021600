"""Where float64 is needed, on whatever device."""

from __future__ import annotations

from torch import Tensor

__all__ = ["to_float64"]


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device, or on the CPU where the device has no float64 (MPS).

    Example:
        >>> import torch
        >>> to_float64(torch.ones(2)).dtype
        torch.float64
    """
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()
