"""Mutual information of single projections to a few dimensions: by their covariance, and by nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from .gaussian import gaussian_mutual_information, normal_scores
from .nearest_neighbors import ksg_terms

__all__ = ["canonical_variates", "gaussian_slices", "neighbor_slice", "projected"]


def projected(samples: Tensor, k: int, count: int, generator: torch.Generator) -> Tensor:
    """Samples in random subspaces, of which none is preferred.

    The components are those along Gaussian directions, not orthonormal ones: the subspace they span is as uniform, and
    mutual information does not depend on the basis.

    Args:
        samples: float64, shape ``(n, d)``.
        k: Dimensions of the subspaces.
        count: Number of subspaces.
        generator: On the CPU.

    Returns:
        Shape ``(count, n, k)``.
    """
    directions = torch.randn(samples.shape[1], count * k, dtype=torch.float64, generator=generator, device="cpu")
    return (samples @ directions).view(len(samples), count, k).transpose(0, 1)


def canonical_variates(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both sides whitened, and turned so that they are correlated component by component.

    Args:
        x: Shape ``(c, n, a)``.
        y: Shape ``(c, n, b)``.

    Returns:
        The variates, shapes ``(c, n, a)`` and ``(c, n, b)``, of mean square 1 or, where components determine others, 0;
        the correlations, shape ``(c, min(a, b))``; and the ranks of both sides, shape ``(2, c)``.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64)
        >>> u, v, rho, ranks = canonical_variates(x, -x)
        >>> rho.item(), ranks.tolist(), round(float(u[0, 2] * v[0, 2]), 6)
        (1.0, [[1], [1]], 1.5)
    """
    sides, ranks = [], []
    for side in (x, y):
        centred = side - side.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh(centred.mT @ centred / side.shape[1])
        kept = values > values.amax(1, keepdim=True).clamp_min(1e-300) * 1e-13
        inverse = torch.where(kept, values, torch.inf).rsqrt()
        sides.append(centred @ (vectors * inverse[:, None]))
        ranks.append(kept.sum(1))
    u, v = sides
    left, rho, right = torch.linalg.svd(u.mT @ v / u.shape[1])
    return u @ left, v @ right.mT, torch.where(rho > 1 - 1e-12, 1.0, rho), torch.stack(ranks)  # but for rounding


def gaussian_slices(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mutual information of Gaussians, without bias, and what each sample adds to it.

    .. math:: \widehat I = -\tfrac 1 2 \sum_i \log(1 - \hat\rho_i^2) - \tfrac 1 2 (e_a + e_b - e_{a + b}), \quad
              e_d = \sum_{i < d} \psi \big( \tfrac{n - 1 - i}{2} \big)

    e is, up to what cancels, the expected log det of a sample covariance in d dimensions. A sample adds the logarithm
    of the ratio of the fitted densities, whose derivative with respect to the weights of samples the estimate has.

    Args:
        x: float64, shape ``(c, n, a)``.
        y: Shape ``(c, n, b)``.

    Returns:
        In nats, shapes ``(c,)`` and ``(c, n)``; the mean of the latter is the value before the bias is taken off.

    Reference:
        Expected log det: Anderson, *An Introduction to Multivariate Statistical Analysis*, 3rd ed., section 7.5.3.
    """
    u, v, rho, ranks = canonical_variates(x, y)
    n, count = u.shape[1], rho.shape[1]
    information = torch.stack([gaussian_mutual_information(row) for row in rho])
    u, v, rho = u[..., :count], v[..., :count], rho[:, None]
    # The quadratic form of the joint density less those of its margins.
    quadratic = (u - rho * v).square() / (1 - rho.square()).clamp_min(1e-300) - u.square()
    freedom = (n - 1 - torch.arange(int(ranks.sum(0).max()), dtype=torch.float64, device="cpu")) / 2
    expected = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), torch.digamma(freedom).cumsum(0)])
    bias = (expected[ranks].sum(0) - expected[ranks.sum(0)]) / 2
    return information - bias, information[:, None] - quadratic.sum(2) / 2


def neighbor_slice(x: Tensor, y: Tensor, neighbors: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """Mutual information from nearest neighbours, with what they miss of a Gaussian added; what each sample adds to it.

    Args:
        x: float64, shape ``(n, a)``.
        y: Shape ``(n, b)``.
        neighbors: k of :func:`ksg`.
        generator: Draws the order of equal values, and a Gaussian of the same size and canonical correlations.

    Returns:
        In nats; the terms, shape ``(n,)``, are those of nearest neighbours alone.
    """
    x, y = (normal_scores(side, generator if _is_tied(side) else None) for side in (x, y))
    terms, rho, ranks = _neighbor_terms(x, y, neighbors)
    a, b = ranks.tolist()
    if not min(a, b):
        return 0.0, torch.zeros(len(x), dtype=torch.float64, device="cpu")  # one side is constant
    drawn, noise = (
        torch.randn(len(x), rank, dtype=torch.float64, generator=generator, device="cpu") for rank in (a, b)
    )
    common = min(a, b)
    rho = rho[:common]
    noise[:, :common] = rho * drawn[:, :common] + (1 - rho.square()).sqrt() * noise[:, :common]
    again = _neighbor_terms(normal_scores(drawn), normal_scores(noise), neighbors)[0]
    missed = gaussian_mutual_information(rho) - again.mean()
    return float(terms.mean() + missed), terms


def _neighbor_terms(x: Tensor, y: Tensor, neighbors: int) -> tuple[Tensor, Tensor, Tensor]:
    """What each sample adds in canonical coordinates; the correlations; the ranks."""
    u, v, rho, ranks = canonical_variates(x[None], y[None])
    return ksg_terms(u[0], v[0], neighbors), rho[0], ranks[:, 0]


def _is_tied(side: Tensor) -> bool:
    """Whether values repeat."""
    ordered = side.sort(dim=0).values
    return bool((ordered[1:] == ordered[:-1]).any())
