"""Mutual information in closed form: of Gaussians, and of any variables as far as their dependence is Gaussian."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

from .sides import refuse_complex

__all__ = [
    "GaussianAnchor",
    "canonical_correlations",
    "gaussian_anchor",
    "gaussian_mutual_information",
    "normal_scores",
]


def gaussian_mutual_information(correlations: Tensor | float) -> Tensor:
    r"""Mutual information of two Gaussian vectors from their canonical correlations.

    .. math:: I(X; Y) = -\tfrac 1 2 \sum_i \log(1 - \rho_i^2)

    Args:
        correlations: :math:`\rho_i`, between -1 and 1; of vectors that are correlated component by component, those of
            the components. Any shape.

    Returns:
        In nats, float64; infinite for a correlation of 1. Shape ``()``.

    Raises:
        ValueError: If a correlation is not between -1 and 1.

    Example:
        >>> round(gaussian_mutual_information(torch.tensor([0.6, 0.8])).item(), 4)  # -log(0.8) - log(0.6)
        0.734

    Reference:
        Cover & Thomas, *Elements of Information Theory*, 2nd ed., section 8.5; Baratin (2021), figure 5.1.
    """
    rho = correlations if isinstance(correlations, Tensor) else torch.tensor(correlations, device="cpu")
    rho = to_float64(rho)
    if not bool((rho.abs() <= 1).all()):
        raise ValueError(f"`correlations` must be between -1 and 1, got {rho.tolist()}.")
    return -torch.log1p(-rho.square()).sum() / 2


def normal_scores(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Each component as the normal quantile of its rank, :math:`\Phi^{-1}((r_i - \frac 1 2) / n)`.

    A strictly increasing map of each component, which leaves mutual information as it is and takes heavy tails and
    scales away. Equal values share the mean of their ranks, or have them in a random order: that too leaves mutual
    information as it is, and nothing is tied any more but in a component that is constant.

    Args:
        values: Shape ``(n, d)``.
        generator: Draws the order of equal values, on the CPU.

    Returns:
        float64. Shape ``(n, d)``.

    Raises:
        ValueError: If ``values`` has another number of dimensions, or is not finite.
        TypeError: If they are complex.

    Cost: a sort of each component.

    Example:
        >>> normal_scores(torch.tensor([[1.0], [100.0], [3.0]])).flatten().round(decimals=3).tolist()
        [-0.967, 0.967, 0.0]
    """
    if values.ndim != 2:
        raise ValueError(f"`values` must have shape (n, d), got {tuple(values.shape)}.")
    refuse_complex(values)
    if not bool(values.isfinite().all()):
        raise ValueError("`values` must be finite: NaN and infinity have no rank. Drop these samples.")
    if generator is not None:
        shuffled = torch.randperm(len(values), generator=generator, device="cpu").to(values.device)
        order = shuffled[to_float64(values)[shuffled].T.argsort(dim=1, stable=True)]
        ranks = torch.empty(order.shape, dtype=torch.float64, device=order.device)
        ranks.scatter_(1, order, torch.arange(1.0, len(values) + 1).to(ranks).expand_as(ranks))
        constant = (values == values[:1]).all(0)
        return _scores(torch.where(constant[:, None], (len(values) + 1) / 2, ranks))
    ordered, order = to_float64(values).T.contiguous().sort(dim=1)
    place = torch.arange(len(values), device=values.device).expand_as(order)
    new = torch.ones_like(order, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = place.where(new, 0).cummax(1).values  # of the values that are equal to this one
    last = place.where(new.roll(-1, 1), len(values)).flip(1).cummin(1).values.flip(1)
    ranks = torch.empty_like(ordered).scatter_(1, order, (first + last).double() / 2 + 1)
    return _scores(ranks)


def _scores(ranks: Tensor) -> Tensor:
    """The quantiles of ranks from 1 on, ``(d, n)``. Shape ``(n, d)``."""
    scores: Tensor = torch.special.ndtri((ranks - 0.5) / ranks.shape[1]).T
    return scores


def canonical_correlations(x: Tensor, y: Tensor) -> Tensor:
    r"""Canonical correlations of two samples, the singular values of :math:`Q_x^\top Q_y`.

    Q are orthonormal bases of the centred samples, so that components that are constant or that others determine
    count for nothing.

    Args:
        x: Shape ``(n, d_x)``.
        y: Shape ``(n, d_y)``.

    Returns:
        From the largest, between 0 and 1, as many as the lesser rank. float64, shape ``(k,)``.

    Raises:
        ValueError: If the shapes do not fit.
        TypeError: If they are complex.

    Cost: two singular value decompositions, n d^2 operations each.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])
        >>> canonical_correlations(x, -3 * x).round(decimals=6).tolist()
        [1.0]
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"`x` and `y` must have shapes (n, d_x) and (n, d_y), got {tuple(x.shape)}, {tuple(y.shape)}.")
    refuse_complex(x, y)
    bases = []
    for sample in (x, y):
        centred = to_float64(sample) - to_float64(sample).mean(0)
        u, s, _ = torch.linalg.svd(centred, full_matrices=False)
        rank = int((s > s.max() * max(centred.shape) * torch.finfo(s.dtype).eps).sum()) if len(s) else 0
        bases.append(u[:, :rank])
    correlations: Tensor = torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1)
    return correlations


class GaussianAnchor(NamedTuple):
    """What the mutual information would be if the dependence were that of a Gaussian."""

    value: Tensor
    """In nats. Shape ``()``."""
    correlations: Tensor
    """Canonical correlations of the normal scores, those below the edge of what independent samples show set to 0."""


def gaussian_anchor(x: Tensor, y: Tensor, num_samples: int | None = None) -> GaussianAnchor:
    r"""Mutual information of the Gaussian copula: from the canonical correlations of normal scores.

    Exact, up to sampling, where some increasing map of each component makes x and y jointly Gaussian, however large the
    mutual information is; elsewhere it misses whatever dependence is not of that kind. Canonical correlations that
    independent samples of this size would show too, up to :math:`\sqrt{d_x / n} + \sqrt{d_y / n}` and a tenth, are
    taken for zero.

    Args:
        x: Shape ``(n, d_x)``.
        y: Shape ``(n, d_y)``.
        num_samples: How many of them are different, if not all: independent samples that are repeated show larger
            correlations.

    Returns:
        In nats; infinite where a component follows from the other side without noise.

    Raises:
        ValueError: If the shapes do not fit, or a value is not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 10_000, 1, generator=generator)
        >>> round(gaussian_anchor(x, (x + noise / 3**0.5).exp()).value.item(), 1)  # log(1 + 3) / 2
        0.7

    Reference:
        Ma & Sun, "Mutual information is copula entropy", Tsinghua Science and Technology 2011, for the copula; the edge
        is that of the spectrum of Wachter (1980).
    """
    found = canonical_correlations(normal_scores(x), normal_scores(y))
    found = torch.where(found > 1 - 1e-12, 1.0, found)  # but for rounding
    n = num_samples or len(x)
    edge = 1.1 * (math.sqrt(x.shape[1] / n) + math.sqrt(y.shape[1] / n)) + 1 / math.sqrt(n)
    kept = torch.where(found > edge, found, 0.0)
    return GaussianAnchor(gaussian_mutual_information(kept).abs(), kept)  # no -0
