"""Which components depend on one of the other side, whatever the kind of dependence: found pair by pair."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["NUM_COSINES", "cosines", "dependent_components", "emphasis"]

NUM_COSINES = 6
"""Functions of a component."""
LEVEL = 0.01
"""Probability that anything is found among independent components."""
FAINT = 0.01
"""How large components without a dependence stay, so that those that matter together are not lost."""
MAX_OPERATIONS = 1e10


def cosines(scores: Tensor) -> Tensor:
    r"""Functions of each component, orthonormal for uniform ranks: :math:`\sqrt 2 \cos(k \pi \Phi(s))`, k from 1.

    Args:
        scores: About standard normal, shape ``(..., d)``.

    Returns:
        Shape ``(..., 6 d)``, those of the first component first.

    Example:
        >>> (cosines(torch.tensor([0.0])).square().abs() + 0.1).int().tolist()
        [0, 2, 0, 2, 0, 2]
    """
    first = (math.pi * torch.special.ndtr(scores)).cos()
    harmonics = [torch.ones_like(first), first]
    while len(harmonics) <= NUM_COSINES:  # Chebyshev polynomials of the first
        harmonics.append(2 * first * harmonics[-1] - harmonics[-2])
    return torch.stack(harmonics[1:], -1).flatten(-2) * math.sqrt(2)


def dependent_components(x: Tensor, y: Tensor, train: Tensor, distinct: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""How much each component depends on those of the other side, zero where that may be chance.

    For a pair of components, n times the sum of the squared correlations of six functions of each. If they are
    independent, that is about a :math:`\chi^2` of 36 degrees of freedom; what exceeds the quantile of one in a hundred
    for all pairs together is kept, its strength being the sum over n. Dependence that no two components show, such as
    that of the sign of a product, is not found.

    Args:
        x: Scores as each critic sees them, shape ``(m, n, d_x)``.
        y: Shape ``(m, n, d_y)``.
        train: The rows that are looked at, shape ``(m, n_train)``.
        distinct: How many different samples there are for each row.

    Returns:
        For the components of x and of y, shapes ``(m, d_x)`` and ``(m, d_y)``: the largest of its pairs.

    Cost: 36 d_x d_y n operations for each critic, with fewer rows where that would be more than 10^10 in all.

    Reference:
        Kallenberg & Ledwina, "Data-driven rank tests for independence", JASA 1999, with another choice of functions.
    """
    (m, _, d_x), d_y = x.shape, y.shape[2]
    operations = NUM_COSINES**2 * d_x * d_y * m
    rows = train[:, : max(100, int(MAX_OPERATIONS / operations))]
    n = rows.shape[1] * distinct
    bar = _chi_square_quantile(NUM_COSINES**2, d_x * d_y)
    strengths = []
    for i in range(m):
        sides = [cosines(side[i, rows[i]].float()) for side in (x, y)]  # float32: a correlation to six digits
        one, other = ((side - side.mean(0)) / side.std(0, correction=0).clamp_min(1e-6) for side in sides)
        squares = (one.T @ other / len(one)).square()
        score = n * squares.view(d_x, NUM_COSINES, d_y, NUM_COSINES).sum((1, 3))
        strengths.append(torch.where(score > bar, score / n, 0.0))
    strength = torch.stack(strengths).to(x)
    return strength.amax(2), strength.amax(1)


def emphasis(strength: Tensor, others: int, others_matter: bool = True) -> Tensor:
    """By what to multiply inputs, so that those that matter are large; one where all do, or none.

    Args:
        strength: Of the components, shape ``(m, d)``.
        others: Further inputs, which are none of the components.
        others_matter: Whether these are as large as those that matter.

    Returns:
        Shape ``(m, 1, d + others)``; the mean square is one.

    Example:
        >>> weights = emphasis(torch.tensor([[0.5, 0.0, 0.0, 0.0]]), 0)
        >>> round((weights[0, 0, 0] / weights[0, 0, 1]).item(), 3), round(weights.square().mean().item(), 3)
        (100.0, 1.0)
    """
    found = strength > 0
    weights = torch.where(found | ~found.any(1, keepdim=True), 1.0, FAINT).to(strength)
    rest = weights.new_ones(len(weights), others)
    weights = torch.cat([weights, rest if others_matter else rest * weights.amin(1, keepdim=True)], 1)
    return (weights / weights.square().mean(1, keepdim=True).sqrt())[:, None]


def _chi_square_quantile(degrees: int, tests: int) -> float:
    """Exceeded by one in a hundred sets of so many independent values. Wilson & Hilferty (1931)."""
    z = -float(torch.special.ndtri(torch.tensor(LEVEL / tests, dtype=torch.float64, device="cpu")))
    third = 2 / (9 * degrees)
    return degrees * (1 - third + z * math.sqrt(third)) ** 3
