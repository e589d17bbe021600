"""Coordinates in which a dependence is easy to learn: maps of each side alone, so that mutual information stays."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import normal_scores
from .product import Product, bound_terms, log_partition
from .screening import NUM_COSINES, cosines, dependent_components, emphasis

__all__ = [
    "Coordinates",
    "coordinates",
    "gaussian_terms",
    "independent_components",
    "noise_edge",
    "radial_features",
    "standardized",
    "whitened_features",
]

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
    candidates = [(x, y)]
    if max(x.shape[1], y.shape[1]) > 1:
        candidates.append((independent_components(x), independent_components(y)))
    most, best = -math.inf, None
    for one, other in candidates:
        scores = normal_scores(one), normal_scores(other)
        white = [torch.stack([_whitened(side, rows) for rows in train]) for side in scores]
        pairs = _pairs(white[0], white[1], train, distinct)
        value, pairs = _best_value(pairs, test, product)
        # What is simpler is only left for something better than the noise of the comparison.
        if value > most + MARGIN:
            most, best, chosen = value, pairs, white
    assert best is not None

    linear = most
    radii = [0, 1] if radial[0].shape[1] or radial[1].shape[1] else []
    for degree in range(1, MAX_DEGREE + 1):
        if max(x.shape[1], y.shape[1]) * (degree + 1) > MAX_RADIAL_SIZE:
            break
        values = []
        for radius in radii:
            widened = [
                _with_radial_polynomials(side, r[:, radius : radius + 1], degree)
                for side, r in zip(chosen, radial, strict=True)
            ]
            found = _variates(widened[0], widened[1], train, distinct)
            if found is None:
                continue
            # Further pairs may be functions of the first, which a Gaussian would count twice.
            value, pairs = _best_value(found, test, product)
            values.append((value, radius))
            if value > most + MARGIN:
                most, best = value, pairs
        if not values:
            break
        radii = [max(values)[1]]

    inputs = [torch.cat([side, r.expand(len(train), -1, -1)], 2) for side, r in zip(chosen, radial, strict=True)]
    strengths = _few_of_many(chosen[0], chosen[1], train, distinct)
    if strengths is not None:
        one, other = (_functions(side, strength) for side, strength in zip(chosen, strengths, strict=True))
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


def whitened_features(values: Tensor, train: Tensor) -> Tensor:
    """Whitened normal scores for each critic, and radial features: what a classifier sees.

    Args:
        values: Shape ``(n, d)``.
        train: Rows that each critic trains on, shape ``(m, n_train)``.

    Returns:
        Shape ``(m, n, d)``, ``(m, n, d + 3)`` for two components or more.
    """
    scores, radial = normal_scores(values), radial_features(values)
    return torch.stack([torch.cat([_whitened(scores, rows), radial], 1) for rows in train])


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
    white = _whitened(standardized(values), torch.arange(len(values), device=values.device))
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


def _spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations of the components, and the components, both in units in which squares stay finite."""
    values = values.double()
    values = values / values.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    deviations = (values - values.median(0).values).abs()
    spread = deviations.median(0).values
    spread = torch.where(spread > 0, spread, deviations.mean(0))  # of components most of which are equal
    return spread.clamp_min(torch.finfo(torch.float64).tiny), values


def _whitened(scores: Tensor, rows: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean zero and covariance one on these rows, each component as near as can be to what it was."""
    centred = scores - scores[rows].mean(0)
    values, vectors = torch.linalg.eigh(centred[rows].T @ centred[rows] / len(rows))
    # Directions that hardly vary are duplicates: raised to one they would be noise.
    values = values.clamp_min(floor * float(values.max()))
    values = torch.where(values > 0, values, 1.0)  # constant on these rows
    white: Tensor = centred @ (vectors / values.sqrt()) @ vectors.T
    return white


def _with_radial_polynomials(white: Tensor, radial: Tensor, degree: int) -> Tensor:
    """The components, and each times the Hermite polynomials of the radius, orthonormal for normal scores."""
    if radial.shape[1] == 0:
        return white
    radius = radial.clamp(-3, 3)
    polynomials = [torch.ones_like(radius), radius]
    for j in range(1, degree):
        polynomials.append(radius * polynomials[-1] - j * polynomials[-2])
    scaled = [p / math.sqrt(math.factorial(j)) for j, p in enumerate(polynomials[: degree + 1])]
    return torch.cat([p * white for p in scaled], 2)


def _few_of_many(x: Tensor, y: Tensor, train: Tensor, distinct: float) -> tuple[Tensor, Tensor] | None:
    """Strengths of the components, if at most half of one side's show a dependence at all; else nothing is gained."""
    if max(x.shape[2], y.shape[2]) == 1:
        return None
    strengths = dependent_components(x, y, train, distinct)
    shares = [float((strength > 0).any(0).double().mean()) for strength in strengths]
    return strengths if 0 < min(shares) <= 0.5 else None


def _variates(x: Tensor, y: Tensor, train: Tensor, distinct: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Normal scores of the canonical variates of functions; None if there are none above noise."""
    u, v, correlations = _pairs(x, y, train, distinct, MAX_VARIATES)
    if u.shape[2] == 0:
        return None
    return torch.stack([normal_scores(one) for one in u]), torch.stack([normal_scores(one) for one in v]), correlations


def _clearly_better(
    pairs: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, Tensor, Tensor], test: Tensor, product: Product
) -> bool:
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


def _pairs(
    x: Tensor, y: Tensor, train: Tensor, distinct: float, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
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


def _best_value(
    pairs: tuple[Tensor, Tensor, Tensor], test: Tensor, product: Product
) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
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


def _gaussian_bound_terms(pairs: tuple[Tensor, Tensor, Tensor], test: Tensor, product: Product) -> Tensor:
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
