"""Where single precision is not enough, on whatever device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["inner_products", "to_float64"]

PIECE = 128
"""Products that are added to one another in their own precision. Of millions the sum is wrong by 1e-5 to 1e-3, mostly
too small: what PyTorch divides by its norm, in float32 on a CPU, is longer than 1."""


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, a complex one in complex128, on its own device, or on the CPU if that has none (MPS).

    Example:
        >>> to_float64(torch.ones(2)).dtype
        torch.float64
    """
    there = tensor.cpu() if tensor.device.type == "mps" else tensor
    return there.to(torch.complex128) if tensor.is_complex() else there.double()


def inner_products(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner products with one vector, to six digits of their sizes however long it is, at the cost of single precision.

    .. math:: s_i = \\sum_j r_{ij} v_j

    Args:
        rows: Real. Shape ``(k, P)``.
        vector: In the same dtype. Shape ``(P,)``.

    Returns:
        Shape ``(k,)``, float64.

    Example:
        >>> inner_products(torch.full((2, 10_000_000), 0.001), torch.full((10_000_000,), 0.001)).round(decimals=4)
        tensor([10., 10.], dtype=torch.float64)
    """
    count = len(vector) // PIECE
    whole = count * PIECE
    pieces = rows[:, :whole].reshape(len(rows), count, PIECE), vector[:whole].reshape(count, PIECE)
    sums = to_float64(torch.einsum("kpc,pc->kp", *pieces)).sum(1)
    return sums + to_float64(rows[:, whole:] @ vector[whole:])
