"""How far a tangent kernel has moved, and which part of a residual it can still take away."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probes import CannotMeasure
from probes.precision import to_float64

from .centering import as_matrix

__all__ = ["eigenspace_rotation", "kernel_distance", "residual_shares"]


def kernel_distance(kernel: Tensor, other: Tensor) -> Tensor:
    r"""Kernel distance of Fort et al.: one minus the cosine of two kernels, not centred.

    .. math:: S(K, K') = 1 - \frac{\operatorname{Tr}[K K'^\top]}{\|K\|_F \|K'\|_F}

    Divided by the steps in between it is their kernel velocity. :func:`~probes_ntk.cka` is one minus the same of
    centred kernels.

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``.
        other: Of the same shape, on the same examples.

    Returns:
        In [0, 1] for positive semidefinite kernels, 0 for proportional ones. Scalar, float64.

    Raises:
        ValueError: If the shapes differ, or a kernel is zero.

    Example:
        >>> kernel_distance(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2)).round(decimals=6).item()
        0.292893

    Reference:
        Fort et al. (2020), Deep learning versus kernel learning, section 2.
    """
    if kernel.shape != other.shape:
        raise ValueError(f"`other` must have the shape of `kernel`, {tuple(kernel.shape)}, got {tuple(other.shape)}.")
    one, two = as_matrix(kernel), as_matrix(other)
    norms = one.norm() * two.norm()
    if not norms > 0:
        raise CannotMeasure("A kernel is zero: it has no distance from another.")
    # |a - b|^2 / 2 of the two over their norms: one minus a cosine near 1 would be rounding.
    distance: Tensor = (one / one.norm() - two / two.norm()).square().sum() / 2
    return distance


def eigenspace_rotation(functions: Tensor, others: Tensor) -> Tensor:
    r"""How far the space of some eigenvectors has turned away from another of the same dimension.

    .. math:: 1 - \tfrac1k \|U^\top U'\|_F^2 = \tfrac1k \sum_j \sin^2 \theta_j

    with the principal angles :math:`\theta_j`. Where eigenvalues k and k + 1 are equal, the space is undefined.

    Args:
        functions: Orthonormal rows U, shape ``(k, ...)``.
        others: Orthonormal rows U', of the same shape.

    Returns:
        In [0, 1], 0 for the same space and 1 - k/N on average for a random one of N dimensions. Scalar, float64.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> eigenspace_rotation(torch.eye(3)[:2], torch.eye(3)[1:]).item()
        0.5
    """
    if functions.shape != others.shape:
        raise ValueError(f"`others` must have the shape of `functions`, {tuple(functions.shape)}, got {others.shape}.")
    overlap = to_float64(functions).flatten(1) @ to_float64(others).flatten(1).T
    return (1 - overlap.square().sum() / len(functions)).clamp(0, 1)


def residual_shares(functions: Tensor, residual: Tensor, ks: Sequence[int]) -> Tensor:
    r"""Share of a residual that lies in the leading eigenspaces of a kernel: what is learned fast, as against the rest.

    .. math:: s_k = \sum_{j < k} (\mathbf u_j^\top r)^2 / \|r\|^2

    By gradient descent the residual along :math:`\mathbf u_j` falls at a rate proportional to :math:`\lambda_j`.

    Args:
        functions: Eigenvectors by descending eigenvalue, orthonormal, shape ``(nc, c, n)``.
        residual: Targets less outputs, or minus the gradient of the loss by the outputs; shape ``(c, n)``.
        ks: From 1 to nc.

    Returns:
        One for each k, ascending, in [0, 1], float64; NaN where the residual is zero.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> residual_shares(torch.eye(2)[:, None], torch.tensor([[3.0, 4.0]]), [1, 2]).tolist()
        [0.36, 1.0]

    Reference:
        Baratin (2021), lemma 4.1, eq. 4.
    """
    if functions.ndim != 3 or functions.shape[1:] != residual.shape:
        raise ValueError(
            f"`residual` must have shape (c, n) = {tuple(functions.shape[1:])}, got {tuple(residual.shape)}."
        )
    if not all(1 <= k <= len(functions) for k in ks):
        raise ValueError(f"`ks` must be between 1 and {len(functions)}, got {list(ks)}.")
    vector = to_float64(residual).flatten()
    parts = (to_float64(functions).flatten(1) @ vector).square().cumsum(0)
    whole = vector.square().sum()
    index = torch.tensor([k - 1 for k in ks], dtype=torch.long, device=parts.device)
    return parts[index] / whole if whole > 0 else torch.full((len(ks),), math.nan, dtype=torch.float64)
