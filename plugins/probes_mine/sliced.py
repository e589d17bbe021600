"""Sliced mutual information: of random projections to few dimensions, averaged over them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from probes.batches import seeded

from .nearest_neighbors import CROWDED
from .repeats import different_rows
from .sides import checked_numbers
from .slices import gaussian_slices, neighbor_slice, projected

__all__ = ["Projected", "SlicedInformation", "SlicedMethod", "sliced_mutual_information"]

SlicedMethod = Literal["ksg", "gaussian"]
Projected = Literal["both", "x", "y"]

MIN_SAMPLES = 20
PROJECTIONS = {"ksg": 128, "gaussian": 2048}
"""By default."""
MORE = 16
"""Projections whose Gaussian value is taken, for each that nearest neighbours are asked about."""
NUMBERS = 2**22
"""Of projected samples that are held at once."""


class SlicedInformation(NamedTuple):
    """Sliced mutual information, and how far the estimate may be off."""

    value: float
    """In nats. Where the truth is near zero it is slightly negative as often as not."""
    standard_error: float
    """In nats, over projections and samples: the root of the sum of the squares of the two below. Noise of single
    samples in single projections is in both, so that this is too large rather than too small, by a factor of at most
    1.41."""
    projection_error: float
    """How much other projections of the same samples would change, in nats."""
    sample_error: float
    """How much other samples would change in the same projections, in nats."""
    num_projections: int
    num_samples: int
    """Different ones: copies count once."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval."""
        return self.value - 1.96 * self.standard_error, self.value + 1.96 * self.standard_error


def sliced_mutual_information(
    x: Any,
    y: Any,
    *,
    k: int = 1,
    projections: int | None = None,
    project: Projected = "both",
    method: SlicedMethod = "ksg",
    neighbors: int = 5,
    generator: torch.Generator | None = None,
) -> SlicedInformation:
    r"""Mutual information of random projections to k dimensions, averaged over them: k-SMI.

    .. math:: SI_k(X; Y) = \int\!\!\int I(A^\top X; B^\top Y) \, d\sigma(A) \, d\sigma(B),
              \quad A \in \mathbb R^{d_x \times k}, \; B \in \mathbb R^{d_y \times k}

    A and B are uniform among matrices of orthonormal columns. Unlike mutual information it can be estimated in any
    dimension, for each estimate is one in k dimensions. It is zero only if X and Y are independent, never above the
    mutual information, and far below it where the dependence is in few of many directions: of components that are
    correlated pairwise by :math:`\rho` it is about :math:`\rho^2 / 2d` for k = 1. It depends on the scales of the
    components; bring them to one scale first where these mean nothing.

    Nearest neighbours (:func:`ksg`) are asked about normal scores of each projection in canonical coordinates, and
    again about a Gaussian of the same size and the same canonical correlations :math:`\hat\rho_j`, drawn anew:

    .. math:: \widehat{SI}_k = \tfrac 1 M \sum_{j \le M} \beta \hat g_j
              + \tfrac 1 m \sum_{j \le m} \big( \hat I_j - \hat I^*_j + I_G(\hat\rho_j) - \beta \hat g_j \big)

    The difference takes away the bias of nearest neighbours where projections are nearly Gaussian, as those of many
    components are; elsewhere a part of it, which is small for k = 1. :math:`\hat g` is the estimate ``"gaussian"``:
    its mean over M = 16 m projections, times a coefficient of regression :math:`\beta`, is a control variate, which
    changes no expectation and takes away most of the variation between projections.

    Args:
        x: Samples, a tensor or an array of real numbers, shape ``(n, ...)``. All dimensions but the first are
            flattened.
        y: Shape ``(n, ...)``. Row i of x and of y belong together; rows are independent. Samples that are copies, see
            :func:`repeated_rows`, are taken once.
        k: Dimensions to project to. With nearest neighbours 1 to 3: in more they miss a part.
        projections: m, pairs of projections; 128 by default, 2048 for ``"gaussian"``.
        project: ``"both"``, or one side alone, ``"x"`` or ``"y"``: the other, of few components, stays whole.
        method: ``"ksg"``, for dependence of any kind; or ``"gaussian"``, :math:`-\frac 1 2 \sum_i \log (1 - \rho_i^2)`
            of the canonical correlations less its bias, which is known: exact for Gaussians, and quick.
        neighbors: Of ``"ksg"``.
        generator: Draws projections and Gaussians, on the CPU. By default a new one of seed 0: the same call gives the
            same value.

    Returns:
        The value in nats, and its standard error over projections and samples. Infinite, with an error of NaN, where a
        component of one side follows from the other without noise.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, a projected side has fewer than k components, there are
            fewer than 20 different samples or 2 projections, no more samples than components of both sides together, or
            a name is unknown.
        TypeError: If a dtype is complex or not numeric.
        ImportError: If scikit-learn is missing, which ``"ksg"`` needs.

    Cost: n (d_x + d_y) k operations for each of M projections, and two searches for nearest neighbours for each of m:
    10 ms for 1000 samples and k = 1, 20 ms for k = 2.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 500, 3, generator=generator)
        >>> found = sliced_mutual_information(x, x + 0.01 * noise, method="gaussian")
        >>> round(found.value, 1)  # 1 - log 2: in three dimensions the cosine between directions is uniform
        0.3

    Reference:
        Goldfeld, Greenewald, Nuradha & Reeves, "k-Sliced mutual information: a quantitative study of scalability with
        dimension", NeurIPS 2022, definition 1; for k = 1 Goldfeld & Greenewald, "Sliced mutual information", NeurIPS
        2021, definition 1.
    """
    one, other, m = _checked(x, y, k, projections, project, method, neighbors)
    generator = seeded(generator)
    with torch.inference_mode(False), torch.no_grad():
        n, total = len(one), m if method == "gaussian" else MORE * m
        gaussian, found = [], []
        of_all, of_asked, of_neighbors = torch.zeros(3, n, dtype=torch.float64, device="cpu").unbind()
        widths = [k if project in ("both", name) else side.shape[1] for name, side in (("x", one), ("y", other))]
        if sum(widths) >= n:
            raise ValueError(
                f"{n} different samples are too few for {widths[0]} and {widths[1]} components: each side follows from "
                f"the other exactly. Pass more than {sum(widths)}, or a smaller `k`."
            )
        at_once = max(1, NUMBERS // (n * sum(widths)))
        for start in range(0, total, at_once):
            count = min(at_once, total - start)
            u, v = (
                projected(side, k, count, generator) if project in ("both", name) else side.expand(count, -1, -1)
                for name, side in (("x", one), ("y", other))
            )
            values, terms = gaussian_slices(u, v)
            gaussian.append(values)
            of_all += terms.sum(0) / total
            for j in range(min(count, m - start) if method == "ksg" else 0):
                answer, own = neighbor_slice(u[j], v[j], neighbors, generator)
                found.append(answer)
                of_asked += terms[j] / m
                of_neighbors += own / m
    control = torch.cat(gaussian)
    if method == "gaussian":
        value, variance, deviation = control.mean(), control.var() / total, of_all.std()
    else:
        answers = torch.tensor(found, dtype=torch.float64, device="cpu")
        beta = _slope(answers, control[:m])
        rest = answers - beta * control[:m]
        value = beta * control.mean() + rest.mean()
        variance = rest.var() / m + beta**2 * control.var() / total
        smooth, terms = beta * of_all, of_neighbors + beta * (of_all - of_asked)
        # Where dependence is strong, neighbours are far apart on its scale: the terms of Gaussians are not smoothed.
        deviation = CROWDED * torch.maximum(terms.std(), smooth.std())
    if not bool(value.isfinite()):
        return SlicedInformation(math.inf, math.nan, math.nan, math.nan, m, n)
    over_projections, over_samples = float(variance) ** 0.5, float(deviation) / n**0.5
    error = math.hypot(over_projections, over_samples)
    return SlicedInformation(float(value), error, over_projections, over_samples, m, n)


def _slope(values: Tensor, others: Tensor) -> Tensor:
    """Coefficient of the regression of some values on others; 0 where these do not vary."""
    centred = others - others.mean()
    square = centred.square().sum()
    varies = centred.abs().amax() > 1e-9 * (1 + others.abs().amax())  # and not by rounding alone
    return torch.where(varies, (values * centred).sum() / square, 0.0)


def _checked(
    x: Any, y: Any, k: int, projections: int | None, project: str, method: str, neighbors: int
) -> tuple[Tensor, Tensor, int]:
    """Both sides as numbers, copies taken once, and the number of projections."""
    for name, given, known in (("project", project, Projected), ("method", method, SlicedMethod)):
        if given not in get_args(known):
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, get_args(known)))}, got {given!r}.")
    projections = PROJECTIONS[method] if projections is None else projections
    for name, count, least in (("k", k, 1), ("projections", projections, 2), ("neighbors", neighbors, 1)):
        if not (hasattr(count, "__index__") and count >= least):
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {count!r}.")
    one, other = checked_numbers(x, "x"), checked_numbers(y, "y")
    if len(one) != len(other):
        raise ValueError(f"`x` and `y` must be pairs, of the same length, got {len(one)} and {len(other)} samples.")
    for name, side, rest in (("x", one, "y"), ("y", other, "x")):
        if project in ("both", name) and side.shape[1] < k:
            raise ValueError(
                f"`{name}` has {side.shape[1]} components and cannot be projected to `k` = {k}; pass a smaller k, or "
                f"project={rest!r} to leave it whole."
            )
    first = different_rows(one, other)
    least = max(MIN_SAMPLES, neighbors + 1)
    if len(first) < least:
        raise ValueError(f"At least {least} different samples are needed, got {len(first)} among {len(one)}.")
    # Less the first row, so that constant components are exactly zero whatever they are multiplied by.
    return _scaled(one[first] - one[:1]), _scaled(other[first] - other[:1]), projections


def _scaled(side: Tensor) -> Tensor:
    """Such that the largest magnitude is 1, and no square of another overflows."""
    largest = side.abs().amax() if side.numel() else side.new_zeros(())
    return side / torch.where(largest > 0, largest, 1.0)
