"""The spectrum of a tangent kernel, and what sums it up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes import CannotMeasure
from probes.precision import to_float64

from .centering import as_blocks, as_matrix

__all__ = ["Eigenfunctions", "effective_rank", "eigenfunctions", "eigenvalues", "extend_eigenfunctions", "trace_ratio"]


class Eigenfunctions(NamedTuple):
    """Eigenvalues and eigenvectors of a kernel matrix, as functions on its examples."""

    eigenvalues: Tensor
    """Descending, float64, not below zero. Shape ``(nc,)``."""
    functions: Tensor
    """Orthonormal over outputs and examples together, float64. Shape ``(nc, c, n)``."""


def eigenvalues(kernel: Tensor) -> Tensor:
    """Eigenvalues of a tangent kernel, descending.

    They are those of the nc by nc matrix, not divided by n: squared singular values of the tangent features. Those
    that rounding puts below zero are set to zero. Centre the kernel first (:func:`~probes_ntk.center`) or not: the
    effective rank of ten outputs changes by factors.

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``.

    Returns:
        In the squared unit of the features, float64. Shape ``(nc,)``.

    Raises:
        ValueError: If the kernel is not square or holds NaN or infinite numbers.

    Cost: (nc)^3 operations; 0.1 s for 1000.

    Example:
        >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).round(decimals=6).tolist()
        [3.0, 1.0]

    Reference:
        Baratin (2021), eq. 22 and 23.
    """
    ascending: Tensor = torch.linalg.eigvalsh(as_matrix(kernel))
    return ascending.flip(0).clamp_min(0)


def eigenfunctions(kernel: Tensor) -> Eigenfunctions:
    r"""Eigenvalues and eigenvectors of a tangent kernel.

    .. math:: K = \sum_j \lambda_j \mathbf u_j \mathbf u_j^\top

    Args:
        kernel: Shape ``(c, n, c, n)`` or ``(n, n)``.

    Returns:
        Of u and -u the one is taken whose first entry of at least half the largest magnitude is positive.

    Raises:
        ValueError: If the kernel is not square or holds NaN or infinite numbers.

    Cost: (nc)^3 operations.

    Example:
        >>> eigenfunctions(torch.diag(torch.tensor([1.0, 4.0]))).functions[0].tolist()
        [[0.0, 1.0]]

    Reference:
        Baratin (2021), eq. 23 and figure 4.1.
    """
    c, n = as_blocks(kernel).shape[:2]
    values, vectors = torch.linalg.eigh(as_matrix(kernel))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    magnitude = vectors.abs()
    first = (magnitude >= magnitude.amax(0) / 2).to(torch.int8).argmax(0, keepdim=True)
    vectors = torch.where(vectors.gather(0, first) < 0, -vectors, vectors)
    return Eigenfunctions(values, vectors.T.reshape(-1, c, n))


def extend_eigenfunctions(eigen: Eigenfunctions, cross: Tensor, count: int | None = None) -> Tensor:
    r"""The eigenfunctions on other examples: the principal components of the tangent kernel.

    .. math:: \hat u_j(x)[a] = \frac{1}{\lambda_j} \sum_{b, i} K[x, a; x_i, b] \, \mathbf u_j[b, i]

    Args:
        eigen: From :func:`eigenfunctions` on the examples x_i, of the kernel as it is (centring would need the mean
            features).
        cross: The kernel between the new examples and these, shape ``(c, n', c, n)``.
        count: The first so many; by default all whose eigenvalue is above rounding.

    Returns:
        Shape ``(count, c, n')``, float64.

    Raises:
        ValueError: If the shapes do not fit, or fewer than ``count`` eigenvalues are above rounding.

    Example:
        >>> kernel = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> eigen = eigenfunctions(kernel)
        >>> torch.allclose(extend_eigenfunctions(eigen, kernel[None, :, None]), eigen.functions)
        True

    Reference:
        Baratin (2021), eq. 29.
    """
    c, n = eigen.functions.shape[1:]
    if cross.ndim != 4 or cross.shape[0] != c or cross.shape[2:] != (c, n):
        raise ValueError(f"`cross` must have shape ({c}, n', {c}, {n}), got {tuple(cross.shape)}.")
    rounding = len(eigen.eigenvalues) * torch.finfo(torch.float64).eps * eigen.eigenvalues[0]
    rank = int((eigen.eigenvalues > rounding).sum())
    count = rank if count is None else count
    if not 1 <= count <= rank:
        raise ValueError(
            f"`count` must be between 1 and {rank}, the number of eigenvalues above rounding, got {count}."
        )
    sums = torch.einsum("axbi,jbi->jax", to_float64(cross), eigen.functions[:count])
    return sums / eigen.eigenvalues[:count, None, None]


def effective_rank(eigenvalues: Tensor) -> Tensor:
    r"""The exponential of the entropy of the trace-normalised eigenvalues.

    .. math:: \operatorname{erank} = \exp\Big(-\sum_j \mu_j \log \mu_j\Big), \qquad \mu_j = \lambda_j / \sum_i \lambda_i

    Between 1 (one eigenvalue) and their number (all equal). 0 log 0 = 0, and what is below zero counts as zero.

    Args:
        eigenvalues: In the last dimension, any unit.

    Returns:
        Dimensionless, without the last dimension.

    Raises:
        ValueError: If they sum to zero, or are not finite.

    Example:
        >>> effective_rank(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0

    Reference:
        Baratin (2021), eq. 5, after Roy & Vetterli (2007).
    """
    entropy: Tensor = torch.special.entr(_normalised(eigenvalues)).sum(-1)
    return entropy.exp()


def trace_ratio(eigenvalues: Tensor, k: int) -> Tensor:
    r"""Share of the trace that is in the largest k eigenvalues.

    .. math:: T_k = \sum_{j < k} \lambda_j / \sum_j \lambda_j

    Counted from j = 0: k eigenvalues. (The plots of the article's authors take one more.)

    Args:
        eigenvalues: Descending, in the last dimension.
        k: From 1 to their number.

    Returns:
        In [0, 1], without the last dimension.

    Raises:
        ValueError: If there are fewer than k eigenvalues, or they sum to zero or are not finite.

    Example:
        >>> trace_ratio(torch.tensor([3.0, 1.0, 0.0]), 1).item()
        0.75

    Reference:
        Baratin (2021), eq. 6.
    """
    if not 1 <= k <= eigenvalues.shape[-1]:
        raise ValueError(f"`k` must be between 1 and the number of eigenvalues, {eigenvalues.shape[-1]}, got {k}.")
    return _normalised(eigenvalues)[..., :k].sum(-1)


def _normalised(eigenvalues: Tensor) -> Tensor:
    values = to_float64(eigenvalues).clamp_min(0)
    shape = values.shape
    blocks = values.ndim == 4 and shape[:2] == shape[2:]
    if values.ndim == 0 or blocks or (values.ndim == 2 and len(values) > 1 and torch.equal(values, values.mT)):
        raise ValueError(
            f"`eigenvalues` must be those of a kernel, got what looks like a kernel itself, of shape {tuple(shape)}. "
            f"Pass eigenvalues(kernel)."
        )
    total = values.sum(-1, keepdim=True)
    if not (torch.isfinite(total) & (total > 0)).all():
        raise CannotMeasure(
            "`eigenvalues` must be finite and not all zero: a kernel that is zero (a model whose outputs do not depend "
            "on its parameters) has no distribution of eigenvalues."
        )
    return values / total
