"""Where single precision is not enough, on whatever device."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "UNITS", "full_precision", "inner_products", "matmul_precision", "rounding", "set_matmul_precision", "square_sum",
    "to_float64",
]  # fmt: skip

UNITS = 64
"""Of rounding, that a sum may be wrong by."""
PIECE = 128
"""Products that are added to one another in their own precision. Of millions the sum is wrong by 1e-5 to 1e-3, mostly
too small: what PyTorch divides by its norm, in float32 on a CPU, is longer than 1."""


ROW = 1024
"""Numbers whose squares are added in single precision: in the sum of more, digits are lost."""
FEW = 1 << 13
"""Numbers that are summed in double precision: faster than in rows."""


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, a complex one in complex128, on its own device, or on the CPU if that has none (MPS).

    Example:
        >>> to_float64(torch.ones(2)).dtype
        torch.float64
    """
    there = tensor.cpu() if tensor.device.type == "mps" else tensor
    return there.to(torch.complex128) if tensor.is_complex() else there.double()


def rounding(dtype: torch.dtype) -> float:
    """The part of a norm that may be rounding, where it is left of sums of numbers of a dtype that cancel.

    Numbers of half precision are summed in float32, and rounded once.

    Example:
        >>> rounding(torch.bfloat16), rounding(torch.float32) < 1e-5, rounding(torch.int64) < 1e-13
        (0.0078125, True, True)
    """
    own = dtype if dtype.is_floating_point or dtype.is_complex else torch.float64
    summed = torch.float64 if own in (torch.float64, torch.complex128) else torch.float32
    return max(UNITS * torch.finfo(summed).eps, torch.finfo(own).eps)


def _owners() -> list[Any]:
    backends: Any = torch.backends
    owners = [backends, backends.cuda.matmul, backends.cudnn, backends.mkldnn]
    parts = ("matmul", "conv", "rnn")
    owners += [getattr(owner, part) for owner in owners[2:] for part in parts if hasattr(owner, part)]
    return [owner for owner in owners if hasattr(owner, "fp32_precision")]


def matmul_precision() -> Any:
    """In which precision the process multiplies matrices of float32, as :func:`set_matmul_precision` takes it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by the newer names, from where on torch refuses to tell the older one
        return [owner.fp32_precision for owner in _owners()]


def set_matmul_precision(state: Any = None) -> None:
    """Set it; by default to that of float32, without TF32 or bfloat16."""
    if state is None:
        now = matmul_precision()
        state = "highest" if isinstance(now, str) else ["ieee"] * len(now)
        if state == now:
            return
    if isinstance(state, str):
        torch.set_float32_matmul_precision(state)
    else:
        for owner, precision in zip(_owners(), state, strict=True):
            owner.fp32_precision = precision


_lock = threading.Lock()
_within: list[Any] = []
"""For each thread that is within :func:`full_precision`, the setting from before the first one."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it float32 is float32, whatever the process has set: no autocast, no products in TF32 or bfloat16."""
    accelerator = torch._C._get_accelerator().type
    cast = [device for device in dict.fromkeys(("cpu", accelerator)) if torch.is_autocast_enabled(device)]
    with _lock:
        _within.append(_within[0] if _within else matmul_precision())
    try:
        set_matmul_precision()
        for device in cast:
            torch.set_autocast_enabled(device, False)
        yield
    finally:
        for device in cast:
            torch.set_autocast_enabled(device, True)
        with _lock:
            before = _within.pop()
            if not _within and before != matmul_precision():
                set_matmul_precision(before)


def inner_products(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner products with one vector, to six digits of their sizes however long it is, at the cost of float32.

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
    if rows.dtype == torch.float64:
        return rows @ vector
    count = len(vector) // PIECE
    whole = count * PIECE
    pieces = rows[:, :whole].reshape(len(rows), count, PIECE), vector[:whole].reshape(count, PIECE)
    sums = to_float64(torch.einsum("kpc,pc->kp", *pieces)).sum(1)
    return sums + to_float64(rows[:, whole:] @ vector[whole:])


def square_sum(tensor: Tensor) -> Tensor:
    """The sum of the squared absolute values, to eight digits at the cost of single precision. Scalar, float64.

    Example:
        >>> square_sum(torch.full((3, 500), 2.0)).item()
        6000.0
    """
    tensor = tensor.detach()
    flat = (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    if flat.numel() <= FEW:
        numbers = to_float64(flat)
        return torch.dot(numbers, numbers)
    whole = flat.numel() // ROW * ROW
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    numbers = to_float64(norms if whole == flat.numel() else torch.cat([norms, flat[whole:]]))
    total = torch.dot(numbers, numbers)
    # Squares of what is near the least or the largest number vanish or overflow; on a CPU it costs nothing to look.
    if flat.device.type == "cpu" and flat.dtype == torch.float32 and not 1e-20 < float(total) < math.inf:
        numbers = flat.double()
        return torch.dot(numbers, numbers)
    return total
