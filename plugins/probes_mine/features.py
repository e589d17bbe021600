"""Maps of one side alone, which keep what it says: independent components, normal scores, how far out a sample is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .gaussian import normal_scores

__all__ = [
    "independent_components",
    "radial_features",
    "standardized",
    "whitened",
    "whitened_features",
    "with_radial_polynomials",
]


def whitened_features(values: Tensor, train: Tensor) -> Tensor:
    """Whitened normal scores for each critic, and radial features: what a classifier sees.

    Args:
        values: Shape ``(n, d)``.
        train: Rows that each critic trains on, shape ``(m, n_train)``.

    Returns:
        Shape ``(m, n, d)``, ``(m, n, d + 3)`` for two components or more.
    """
    scores, radial = normal_scores(values), radial_features(values)
    return torch.stack([torch.cat([whitened(scores, rows), radial], 1) for rows in train])


def independent_components(values: Tensor, max_steps: int = 100) -> Tensor:
    r"""Components that a linear map makes as independent as can be: FastICA with the contrast log cosh, symmetric.

    Args:
        values: Shape ``(n, d)``, no component constant.
        max_steps: Of the fixed-point iteration, at most.

    Returns:
        float64, of the same shape.

    Cost: n d^2 operations a step; usually few.

    Example:
        >>> s = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> mixed = s @ torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> torch.corrcoef(torch.cat([s, independent_components(mixed)], 1).T)[:2, 2:].abs().amax(1) > 0.99
        tensor([True, True])

    Reference:
        Hyvarinen, "Fast and robust fixed-point algorithms for independent component analysis", IEEE Trans. Neural
        Networks 1999.
    """
    if values.shape[1] < 2:
        return values
    white = whitened(standardized(values), torch.arange(len(values), device=values.device))
    rotation = torch.eye(values.shape[1], dtype=white.dtype, device=white.device)
    for _ in range(max_steps):
        sources = (white @ rotation.T).tanh()
        update = sources.T @ white / len(white) - (1 - sources.square()).mean(0)[:, None] * rotation
        u, _, vh = torch.linalg.svd(update)
        turned = float(((u @ vh) * rotation).sum(1).abs().min())
        rotation = u @ vh
        if turned > 1 - 1e-4:
            break
    return white @ rotation.T


def radial_features(values: Tensor) -> Tensor:
    """How far out a sample is, as normal scores: from the middle, and from zero, in units of the components' spread;
    and by heavy-tailed scores of the ranks (quantiles of Student's t with two degrees of freedom), which do not depend
    on the scales of the components.

    Args:
        values: Shape ``(n, d)``.

    Returns:
        Shape ``(n, 3)``; ``(n, 0)`` for one component, which says it itself.

    Example:
        >>> radial_features(torch.tensor([[0.0, 0.1], [3.0, -5.0], [-1.0, 1.0]])).argmax(0).tolist()
        [1, 1, 1]
    """
    n, d = values.shape
    if d < 2:
        return values.new_zeros(n, 0, dtype=torch.float64)
    middle = standardized(values)
    spread, values = _spread(values)
    quantiles = torch.special.ndtr(normal_scores(values))
    heavy = (2 * quantiles - 1) / (2 * quantiles * (1 - quantiles)).sqrt()
    zero = (values / spread).clamp(-1e100, 1e100)
    return normal_scores(torch.stack([side.square().sum(1) for side in (middle, zero, heavy)], 1))


def standardized(values: Tensor) -> Tensor:
    """Each component in units of its median absolute deviation, from its median. float64, finite.

    Example:
        >>> standardized(torch.tensor([[0.0], [1.0], [2.0], [1e30]])).flatten()[:3].tolist()
        [-1.0, 0.0, 1.0]
    """
    spread, values = _spread(values)
    return ((values - values.median(0).values) / spread).clamp(-1e100, 1e100)


def whitened(scores: Tensor, rows: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean zero and covariance one on these rows, each component as near as can be to what it was."""
    centred = scores - scores[rows].mean(0)
    values, vectors = torch.linalg.eigh(centred[rows].T @ centred[rows] / len(rows))
    # Directions that hardly vary are duplicates: raised to one they would be noise.
    values = values.clamp_min(floor * float(values.max()))
    values = torch.where(values > 0, values, 1.0)  # constant on these rows
    white: Tensor = centred @ (vectors / values.sqrt()) @ vectors.T
    return white


def with_radial_polynomials(white: Tensor, radial: Tensor, degree: int) -> Tensor:
    """The components, and each times the Hermite polynomials of the radius, orthonormal for normal scores."""
    if radial.shape[1] == 0:
        return white
    radius = radial.clamp(-3, 3)
    polynomials = [torch.ones_like(radius), radius]
    for j in range(1, degree):
        polynomials.append(radius * polynomials[-1] - j * polynomials[-2])
    scaled = [p / math.sqrt(math.factorial(j)) for j, p in enumerate(polynomials[: degree + 1])]
    return torch.cat([p * white for p in scaled], 2)


def _spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations of the components, and the components, both in units in which squares stay finite."""
    values = values.double()
    values = values / values.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    deviations = (values - values.median(0).values).abs()
    spread = deviations.median(0).values
    spread = torch.where(spread > 0, spread, deviations.mean(0))  # of components most of which are equal
    return spread.clamp_min(torch.finfo(torch.float64).tiny), values
