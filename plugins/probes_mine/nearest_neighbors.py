"""The estimator of Kraskov, Stoegbauer and Grassberger, from the distances to nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sides import refuse_complex

__all__ = ["CROWDED", "ksg", "ksg_terms", "trees"]

CROWDED = 1.3
"""By how much the deviation of :func:`ksg` exceeds that of independent terms: a sample is in the terms of its
neighbours too. Measured on Gaussians in one to three dimensions, with 1 to 10 neighbours: 1.1 to 1.5, the more the
stronger the dependence."""


def ksg(x: Tensor, y: Tensor, k: int = 5) -> float:
    r"""Mutual information from nearest neighbours, the first estimator of Kraskov et al.

    .. math:: \widehat I = \psi(k) + \psi(n)
              - \frac 1 n \sum_i \big( \psi(n_x(i) + 1) + \psi(n_y(i) + 1) \big)

    n_x(i) counts the points whose distance in x is strictly below that of the k-th neighbour of i in (x, y), in the
    maximum norm. Good in few dimensions; in twenty it misses most of a strong dependence.

    Args:
        x: Shape ``(n, d_x)``.
        y: Shape ``(n, d_y)``.
        k: Neighbours; more of them for less variance and more bias.

    Returns:
        In nats; may be slightly negative.

    Raises:
        ValueError: If the shapes do not fit, or there are not more than k samples.
        TypeError: If they are complex.
        ImportError: If scikit-learn is missing.

    Cost: searches in three trees, about n log n operations in few dimensions, n^2 in many.

    Reference:
        Kraskov, Stoegbauer & Grassberger, "Estimating mutual information", Phys. Rev. E 69, 2004, eq. 8.
    """
    return float(ksg_terms(x, y, k).mean())


def ksg_terms(x: Tensor, y: Tensor, k: int = 5) -> Tensor:
    """What each sample adds to :func:`ksg`, their mean. Shape ``(n,)``, float64."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not 1 <= k < len(x):
        raise ValueError(
            f"`x` and `y` must have shapes (n, d_x) and (n, d_y) with n > k = {k} >= 1, got {tuple(x.shape)}, "
            f"{tuple(y.shape)}."
        )
    refuse_complex(x, y)
    tree, nearest = trees()
    one, other = (part.detach().cpu().double().numpy() for part in (x, y))
    n = len(one)
    radius = np.nextafter(nearest(np.hstack([one, other]), k), 0)  # strictly below
    counts = [tree(part).query_radius(part, radius, count_only=True) for part in (one, other)]
    # A count holds the point itself, which takes the place of the + 1.
    psi = torch.digamma(torch.from_numpy(np.stack(counts)).double()).sum(0)
    return torch.digamma(torch.tensor([k, n], dtype=torch.float64, device="cpu")).sum() - psi


def trees() -> tuple[Callable[[NDArray[Any]], Any], Callable[[NDArray[Any], int], NDArray[Any]]]:
    """In the maximum norm: what makes a tree of points, and the distances of points to their k-th other."""
    try:
        from sklearn.neighbors import KDTree, NearestNeighbors  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("`ksg` needs scikit-learn: pip install 'torch-probes[examples]'") from error

    def nearest(points: NDArray[Any], k: int) -> NDArray[Any]:
        found: NDArray[Any] = NearestNeighbors(metric="chebyshev", n_neighbors=k).fit(points).kneighbors()[0][:, -1]
        return found

    return lambda points: KDTree(points, metric="chebyshev"), nearest
