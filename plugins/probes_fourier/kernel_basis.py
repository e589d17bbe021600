"""The eigenvectors of a Gaussian kernel on a batch: frequencies of functions on data that has no axes of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

__all__ = ["KernelBasis", "kernel_basis", "kernel_spectrum", "median_width"]


class KernelBasis(NamedTuple):
    """Orthonormal eigenvectors of a kernel matrix, from smooth to rough."""

    eigenvalues: Tensor
    """Descending, dimensionless, float64. Shape ``(n,)``."""
    eigenvectors: Tensor
    """In columns, dimensionless, float64. Shape ``(n, n)``."""


def median_width(inputs: Tensor) -> float:
    """Median distance between two inputs of a batch.

    Args:
        inputs: Shape ``(n, *shape)``.

    Returns:
        In the unit of the inputs.

    Raises:
        ValueError: If there are fewer than two inputs, or more than half of the pairs coincide.

    Example:
        >>> median_width(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    if len(inputs) < 2:
        raise ValueError(f"`inputs` must hold at least 2 inputs for a distance, got {len(inputs)}; pass sigma.")
    distances = torch.pdist(_points(inputs)).sort().values
    width = float(distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2
    if width == 0:
        raise ValueError("`inputs` coincide in more than half of the pairs: their median distance is 0; pass sigma.")
    return width


def kernel_basis(inputs: Tensor, sigma: float | None = None) -> KernelBasis:
    r"""Eigenvalues and eigenvectors of the Gaussian kernel matrix of a batch.

    .. math:: K_{ij} = \exp(-\|x_i - x_j\|^2 / \sigma^2) = \sum_n \lambda_n v_{ni} v_{nj}

    On equally spaced points the eigenvectors resemble sinusoids, of a frequency that grows with n.

    Args:
        inputs: Shape ``(n, *shape)``.
        sigma: Width of the kernel, in the unit of the inputs; :func:`median_width` by default.

    Returns:
        In float64. Of v and -v the one is taken whose first entry of at least half the largest magnitude is positive.

    Raises:
        ValueError: If ``sigma`` is not positive.

    Cost: n^3 operations.

    Example:
        >>> kernel_basis(torch.tensor([[0.0], [1000.0]]), sigma=1).eigenvalues.tolist()
        [1.0, 1.0]

    Reference:
        Baratin (2021), appendix A.1.4, eq. 1; there the width is not halved: no factor 2 under :math:`\sigma^2`.
    """
    width = median_width(inputs) if sigma is None else sigma
    if not width > 0:
        raise ValueError(f"`sigma` must be positive, got {width!r}.")
    x = _points(inputs)
    # Not by |x|^2 + |y|^2 - 2 xy, which cancels for close inputs.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.exp(-((distances / width) ** 2)))
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    magnitude = eigenvectors.abs()
    first = (magnitude >= magnitude.amax(0) / 2).to(torch.int8).argmax(0, keepdim=True)
    return KernelBasis(eigenvalues, eigenvectors * eigenvectors.gather(0, first).sign())


def kernel_spectrum(values: Tensor, basis: KernelBasis) -> Tensor:
    r"""Coordinates of a function on a batch in the eigenbasis of a kernel.

    .. math:: \tilde f[n] = \mathbf f \cdot \mathbf v_n

    Args:
        values: The function on the inputs of the basis. Shape ``(n,)`` or ``(n, c)``.
        basis: From :func:`kernel_basis`.

    Returns:
        In the unit of the function, float64; by descending eigenvalue. Shape ``(n,)`` or ``(n, c)``.

    Raises:
        ValueError: If ``values`` do not have a row for each input of the basis.

    Example:
        >>> basis = KernelBasis(torch.tensor([2.0, 1.0]), torch.eye(2, dtype=torch.float64))
        >>> kernel_spectrum(torch.tensor([3.0, 4.0]), basis).tolist()
        [3.0, 4.0]

    Reference:
        Baratin (2021), appendix A.1.4, eq. 5.
    """
    if len(values) != len(basis.eigenvalues):
        raise ValueError(
            f"`values` must have a row for each of the {len(basis.eigenvalues)} inputs of the basis, got shape "
            f"{tuple(values.shape)}."
        )
    return basis.eigenvectors.T @ values.to(basis.eigenvectors)


def _points(inputs: Tensor) -> Tensor:
    return to_float64(inputs.detach()).reshape(len(inputs), -1)
