"""Coordinates in which a dependence is easy to learn: maps of each side alone, so that mutual information stays."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .features import independent_components, radial_features, whitened, with_radial_polynomials
from .gaussian import normal_scores
from .product import Product, bound_terms, log_partition
from .screening import NUM_COSINES, cosines, dependent_components, emphasis

__all__ = ["Coordinates", "coordinates", "gaussian_terms", "noise_edge"]

Pairs = tuple[Tensor, Tensor, Tensor]
"""Canonical variates of x and of y, and their correlations."""
MAX_DEGREE = 4
"""Of the polynomials in the radius."""
MAX_RADIAL_SIZE = 130
"""Numbers of a side times polynomials, above which canonical correlations of so many are mostly noise."""
MAX_VARIATES = 16
MAX_SCREENED = 16
"""Components of a side whose functions may make up variates."""
SHRINKAGE = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of squared correlations, which few samples overstate."""
MAX_CORRELATION = math.sqrt(1 - 1e-5)
"""Beyond, the Gaussian critic is steeper than float32 resolves."""
MARGIN = 0.005
"""In nats, by which a choice must be better than a simpler one."""


class Coordinates(NamedTuple):
    """All samples as each of m critics sees them; fitted to the rows that this critic trains on. float64."""

    x: Tensor
    """Whitened normal scores and radial features. Shape ``(m, n, p_x)``."""
    y: Tensor
    """Shape ``(m, n, p_y)``."""
    pairs_x: Tensor
    """Canonical variates. Shape ``(m, n, k)``."""
    pairs_y: Tensor
    """Shape ``(m, n, k)``."""
    correlations: Tensor
    """Of each pair of variates, zero where it may be noise. Shape ``(m, 1, k)``."""
    screened: bool = False
    """Whether a few of many components make up the variates, and are what the network sees large."""


def coordinates(
    x: Tensor, y: Tensor, train: Tensor, test: Tensor, product: Product, distinct: float = 1.0
) -> Coordinates:
    """The coordinates for critics that train on ``train`` and are told of ``test``.

    What is chosen among, by the value on the test rows of the Gaussian critic of :func:`gaussian_terms` on the
    canonical variates: normal scores of the components, or of independent components; variates linear in those, or
    with coefficients that are polynomials of a radius; and how far to shrink the correlations. Where at most half of
    the components of a side depend on one of the other side, see :func:`dependent_components`, also variates linear in
    those and in functions of them: if they are better by two standard errors, the network sees these components larger
    than the others.

    Args:
        x: Shape ``(n, d_x)``, no component constant.
        y: Shape ``(n, d_y)``, no component constant.
        train: Rows that each critic trains on, shape ``(m, n_train)``.
        test: Rows that it is told of, shape ``(m, n_test)``.
        product: Which pairs of test rows are independent.
        distinct: How many different samples there are for each row.
    """
    radial = radial_features(x), radial_features(y)
    white, linear, best = _best_linear(x, y, train, test, product, distinct)
    most, best = _with_radius(white, radial, (linear, best), train, test, product, distinct)
    inputs = [torch.cat([side, r.expand(len(train), -1, -1)], 2) for side, r in zip(white, radial, strict=True)]
    strengths = _few_of_many(white[0], white[1], train, distinct)
    if strengths is not None:
        one, other = (_functions(side, strength) for side, strength in zip(white, strengths, strict=True))
        found = _variates(one, other, train, distinct)
        if found is not None:
            found = _best_value(found, test, product)[1]
            if _clearly_better(found, best, test, product):
                around = most > linear  # whether a radius matters
                inputs = [
                    side * emphasis(strength, r.shape[1], around)
                    for side, r, strength in zip(inputs, radial, strengths, strict=True)
                ]
                return Coordinates(inputs[0], inputs[1], *found, screened=True)
    return Coordinates(inputs[0], inputs[1], *best)


def _best_linear(
    x: Tensor, y: Tensor, train: Tensor, test: Tensor, product: Product, distinct: float
) -> tuple[list[Tensor], float, Pairs]:
    """Whitened scores of the components, or of independent ones; the value of their variates, and these."""
    candidates = [(x, y)]
    if max(x.shape[1], y.shape[1]) > 1:
        candidates.append((independent_components(x), independent_components(y)))
    most, best = -math.inf, None
    for one, other in candidates:
        scores = normal_scores(one), normal_scores(other)
        white = [torch.stack([whitened(side, rows) for rows in train]) for side in scores]
        value, pairs = _best_value(_pairs(white[0], white[1], train, distinct), test, product)
        # What is simpler is only left for something better than the noise of the comparison.
        if value > most + MARGIN:
            most, best, chosen = value, pairs, white
    assert best is not None
    return chosen, most, best


def _with_radius(
    white: list[Tensor],
    radial: tuple[Tensor, Tensor],
    best: tuple[float, Pairs],
    train: Tensor,
    test: Tensor,
    product: Product,
    distinct: float,
) -> tuple[float, Pairs]:
    """The best value, and its variates, once coefficients may be polynomials of a radius, of a rising degree."""
    size = max(side.shape[2] for side in white)
    radii = [0, 1] if any(r.shape[1] for r in radial) else []
    for degree in range(1, MAX_DEGREE + 1):
        if size * (degree + 1) > MAX_RADIAL_SIZE:
            break
        values = []
        for radius in radii:
            widened = [
                with_radial_polynomials(side, r[:, radius : radius + 1], degree)
                for side, r in zip(white, radial, strict=True)
            ]
            found = _variates(widened[0], widened[1], train, distinct)
            if found is None:
                continue
            # Further pairs may be functions of the first, which a Gaussian would count twice.
            value, pairs = _best_value(found, test, product)
            values.append((value, radius))
            if value > best[0] + MARGIN:
                best = value, pairs
        if not values:
            break
        radii = [max(values)[1]]
    return best


def gaussian_terms(pairs_x: Tensor, pairs_y: Tensor, correlations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The critic that is right for Gaussians, the logarithm of the density ratio, in parts of one side each.

    .. math:: T(u, v) = \sum_i - \tfrac 1 2 \log(1 - \rho_i^2)
              + \frac{2 \rho_i u_i v_i - \rho_i^2 (u_i^2 + v_i^2)}{2 (1 - \rho_i^2)}

    Args:
        pairs_x: u, shape ``(..., n, k)``.
        pairs_y: v, shape ``(..., n, k)``.
        correlations: Shape ``(..., 1, k)``.

    Returns:
        a, b and c so that T for sample i of x and j of y is the sum over k of :math:`a_i + b_j + c_i v_j`; shape
        ``(..., n, k)`` each.

    Example:
        >>> a, b, c = gaussian_terms(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([[0.6]]))
        >>> round((a + b).item(), 3), c.item()  # -log(1 - 0.36) / 2
        (0.223, 0.0)
    """
    rest = 1 - correlations.square()
    weight = correlations.square() / (2 * rest)
    return -weight * pairs_x.square() - rest.log() / 2, -weight * pairs_y.square(), pairs_x * correlations / rest


def noise_edge(x_size: int, y_size: int, n: int) -> float:
    r"""Canonical correlations that n independent samples hardly exceed.

    :math:`\sqrt{d_x / n} + \sqrt{d_y / n}` and a tenth, and :math:`1 / \sqrt n`.

    Example:
        >>> round(noise_edge(1, 1, 10_000), 3)
        0.032
    """
    return 1.1 * (math.sqrt(x_size / n) + math.sqrt(y_size / n)) + 1 / math.sqrt(n)


def _few_of_many(x: Tensor, y: Tensor, train: Tensor, distinct: float) -> tuple[Tensor, Tensor] | None:
    """Strengths of the components, if at most half of one side's show a dependence at all; else nothing is gained."""
    if max(x.shape[2], y.shape[2]) == 1:
        return None
    strengths = dependent_components(x, y, train, distinct)
    shares = [float((strength > 0).any(0).double().mean()) for strength in strengths]
    return strengths if 0 < min(shares) <= 0.5 else None


def _variates(x: Tensor, y: Tensor, train: Tensor, distinct: float) -> Pairs | None:
    """Normal scores of the canonical variates of functions; None if there are none above noise."""
    u, v, correlations = _pairs(x, y, train, distinct, MAX_VARIATES)
    if u.shape[2] == 0:
        return None
    return torch.stack([normal_scores(one) for one in u]), torch.stack([normal_scores(one) for one in v]), correlations


def _clearly_better(pairs: Pairs, others: Pairs, test: Tensor, product: Product) -> bool:
    """Whether the first have the greater value on the test rows, by more than two standard errors of the difference."""
    gain = _gaussian_bound_terms(pairs, test, product) - _gaussian_bound_terms(others, test, product)
    return float(gain.mean()) > MARGIN + 2 * float(gain.std()) / math.sqrt(gain.numel())


def _functions(side: Tensor, strength: Tensor) -> Tensor:
    """The components that depend on one of the other side most, for any critic, and functions of them; zero for a
    critic for which one of them does not."""
    chosen = strength.sum(0).topk(min(MAX_SCREENED, int((strength.sum(0) > 0).sum()))).indices
    found = (strength[:, None, chosen] > 0).to(side)
    side = side[..., chosen]
    return torch.cat([side * found, cosines(side) * found.repeat_interleave(NUM_COSINES, 2)], 2)


def _pairs(x: Tensor, y: Tensor, train: Tensor, distinct: float, most: int | None = None) -> Pairs:
    """Canonical variates ``(m, n, k)`` of both sides, fitted to the training rows, and correlations ``(m, 1, k)``.

    As many as are above noise for one of the critics, at most ``most``.
    """
    n, ridge = train.shape[1], 1e-3
    sides = []
    for side in (x, y):
        samples = torch.stack([one[rows] for one, rows in zip(side, train, strict=True)])
        mean = samples.mean(1, keepdim=True)
        samples = samples - mean
        values, vectors = torch.linalg.eigh(samples.mT @ samples / n)
        values = values.clamp_min(0) + ridge * values.mean(1, keepdim=True)
        values = torch.where(values > 0, values, 1.0)  # a side may be constant on these rows
        whitening = (vectors / values.sqrt()[:, None]) @ vectors.mT
        sides.append((side - mean, samples, whitening))
    (all_x, train_x, white_x), (all_y, train_y, white_y) = sides
    u, s, vh = torch.linalg.svd(white_x @ (train_x.mT @ train_y / n) @ white_y, full_matrices=False)
    edge = noise_edge(x.shape[2], y.shape[2], max(1, int(n * distinct)))
    kept = torch.where(s > edge, s.clamp(max=MAX_CORRELATION), 0.0)
    k = min(int((kept > 0).sum(1).max()), most or kept.shape[1])
    return all_x @ (white_x @ u[..., :k]), all_y @ (white_y @ vh.mT[..., :k]), kept[:, None, :k]


def _best_value(pairs: Pairs, test: Tensor, product: Product) -> tuple[float, Pairs]:
    """The greatest value on the test rows, with the correlations shrunk and as many of the pairs as make it so."""
    x, y, correlations = pairs
    if correlations.shape[2] == 0:
        return 0.0, pairs
    most = -math.inf
    for shrinkage in (0.0, *SHRINKAGE):
        shrunk = correlations * math.sqrt(1 - shrinkage)
        bounds = _gaussian_bounds(x, y, shrunk, test, product)
        if float(bounds.max()) <= most + MARGIN:
            break
        most, number = float(bounds.max()), int(bounds.argmax()) + 1
        best = x[..., :number], y[..., :number], shrunk[..., :number]
    return most, best


def _gaussian_bounds(x: Tensor, y: Tensor, correlations: Tensor, test: Tensor, product: Product) -> Tensor:
    """Donsker-Varadhan value on the test rows of the Gaussian critic of the first 1, ... k pairs. Shape ``(k,)``."""
    values = []
    for m, rows in enumerate(test):
        joint, marginal = (part.cumsum(-1) for part in _by_pair(x[m, rows], y[m, rows], correlations[m], product))
        own = _of_fold(product, m)
        values.append(joint.mean(0) - log_partition(joint[None], marginal[None], own)[0])
    return torch.stack(values).mean(0)


def _gaussian_bound_terms(pairs: Pairs, test: Tensor, product: Product) -> Tensor:
    """What each test row adds to the value of all pairs, see :func:`bound_terms`. Shape ``(m, n_test)``."""
    terms = []
    for m, rows in enumerate(test):
        parts = _by_pair(pairs[0][m, rows], pairs[1][m, rows], pairs[2][m], product)
        joint, marginal = (part.sum(-1)[None] for part in parts)
        terms.append(bound_terms(joint, marginal, _of_fold(product, m))[0])
    return torch.stack(terms)


def _by_pair(u: Tensor, v: Tensor, correlations: Tensor, product: Product) -> tuple[Tensor, Tensor]:
    """The Gaussian critic for each pair of variates: on rows, ``(n, k)``, and on shifted ones, ``(s, n, k)``."""
    a, b, c = gaussian_terms(u, v, correlations)
    return a + b + c * v, torch.stack([a + b.roll(shift, 0) + c * v.roll(shift, 0) for shift in product.shifts])


def _of_fold(product: Product, m: int) -> Product:
    return product if product.copies is None else product._replace(copies=product.copies[m : m + 1])
