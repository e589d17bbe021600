"""How the eigenvalues of a kernel that is never formed are spread, from a few points for each random vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Estimate", "SpectralDensity", "spread", "widening"]

GAP = 0.4
"""Of what spreading a point out changes at most near by: what a share of the trace may be wrong by, as an error."""
COUNT_GAP = 0.1
"""Of what the points near by stand for: what a number of eigenvalues may be wrong by, as a standard error."""


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    standard_error: float


class SpectralDensity(NamedTuple):
    r"""For each random vector a measure of a few points in place of that of the nc eigenvalues.

    The eigenvalues that have been found are points of one each. The others are those of Gauss' quadrature, whose
    moments are right for the vector they are of; its counts are scaled so that there are nc in all, its eigenvalues so
    that their sum is the trace. A point of several is spread out, from the geometric mean with its neighbour above, or
    from that neighbour where it is a single eigenvalue, to the same below, by a power law that keeps its mean. What so
    few points miss is seen on one vector of which there are many, and added.
    """

    eigenvalues: Tensor
    """Descending, float64. Shape ``(vectors, points)``."""
    counts: Tensor
    """How many eigenvalues each stands for, float64. Shape ``(vectors, points)``."""
    refined: SpectralDensity | None = None
    """Of one vector more two measures: of many points, and of as few as the others have."""
    slack: Tensor | None = None
    """How far the largest eigenvalues that have been found may be off, in their order. Shape ``(top,)``."""

    def trace_ratio(self, k: int) -> Estimate:
        r"""Share of the trace in the largest k eigenvalues, :math:`T_k`; see :func:`~probes_ntk.trace_ratio`.

        The standard error has the spread over the vectors, by Student's t, two fifths of what spreading the points out
        makes of it at most near by, what was added for the points that are missed, and what the largest eigenvalues may
        be off by.
        ``benchmarks/spectrum_estimate.py`` counts how often +-1.96 of it covers.

        Args:
            k: From 1 to nc.

        Raises:
            ValueError: If k is not.
        """
        size = round(float(self.counts[0].sum()))
        if not (hasattr(k, "__index__") and 1 <= k <= size):
            raise ValueError(f"`k` must be between 1 and the number of eigenvalues, {size}, got {k!r}.")
        value, error = self._estimate(lambda curve: curve.share(float(k)), GAP, most=1.0)
        if self.slack is not None:
            error = math.hypot(error, float(self.slack[:k].sum() / (self.eigenvalues[0] @ self.counts[0])))
        return Estimate(value, error)

    def above(self, value: float) -> Estimate:
        r"""How many eigenvalues are larger: :math:`\#\{j : \lambda_j > value\}`.

        Minus its derivative is the spectral density. The standard error has the spread over the vectors and a
        tenth of what the points near by stand for.

        Args:
            value: In the unit of the eigenvalues.

        Raises:
            ValueError: If the value is not a number.
        """
        if math.isnan(value):
            raise ValueError("`value` must be a number, got nan.")
        return self._estimate(lambda curve: curve.above(value), COUNT_GAP, most=float(self.counts[0].sum()))

    def _estimate(self, read: Callable[[_Curve], tuple[float, float]], share: float, most: float) -> Estimate:
        values, gaps = zip(*map(read, self._curves()), strict=True)
        scatter = spread(values) if len(values) > 1 else 0.0  # one: the eigenvalues themselves
        many, few = (0.0, 0.0) if self.refined is None else (read(curve)[0] for curve in self.refined._curves())
        value = sum(values) / len(values) + many - few
        error = math.hypot(scatter, share * sum(gaps) / len(gaps), many - few)
        return Estimate(min(max(value, 0.0), most), error)

    def _curves(self) -> list[_Curve]:
        return [_Curve(*each) for each in zip(self.eigenvalues, self.counts, strict=True)]


def spread(values: Sequence[float] | Tensor) -> float:
    """The standard error of the mean of a few numbers, such that +-1.96 of it is Student's interval of 95 %."""
    values = torch.as_tensor(values, dtype=torch.float64)
    count = len(values)
    return float(widening(count - 1)) * float(values.std()) / math.sqrt(count) if count > 1 else math.inf


def widening(degrees: float | Tensor) -> Tensor:
    """What to multiply a standard error with that was found from few numbers: +-1.96 of it is Student's 95 % then.

    Args:
        degrees: Of freedom, any shape; infinite where the standard error is known. By Hill's expansion, from 3 degrees
            on to 1 %.

    Example:
        >>> (1.96 * widening(torch.tensor([4.0, 30.0, math.inf]))).tolist()  # tables: 2.776, 2.042, 1.960
        [2.769..., 2.042..., 1.95...]
    """
    share, z = 1 / torch.as_tensor(degrees, dtype=torch.float64), 1.959964
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return torch.stack([term * share**power for power, term in enumerate(terms)]).sum(0) / 1.96


class _Curve:
    """The points of one vector, spread out."""

    def __init__(self, eigenvalues: Tensor, counts: Tensor) -> None:
        points, self.counts = eigenvalues, counts
        means = (points[:-1] * points[1:]).sqrt()
        single = counts <= 1
        above, below = points[:-1].where(single[:-1], means), points[1:].where(single[1:], means)
        self.high = torch.cat([points[:1], above]).where(~single, points)
        self.low = torch.cat([below, points.new_zeros(1)]).where(~single, points)
        ratio = (self.high - self.low) / (points - self.low).clamp_min(torch.finfo(points.dtype).tiny)
        self.power = (ratio - 1).clamp_min(0).where(self.high > self.low, 0)
        self.first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.sums = torch.cat([points.new_zeros(1), (points * counts).cumsum(0)])
        places = torch.linspace(0, 1, 21, dtype=points.dtype, device=points.device)[:, None]
        self.bumps = (self._part(places) - places * points * counts).amax(0)

    def _part(self, share: Tensor) -> Tensor:
        """The sum of the largest eigenvalues of each point, so large a share of them."""
        power = self.power + 1
        bent = (1 - (1 - share) ** power) / power
        return self.counts * (self.low * share + (self.high - self.low) * bent)

    def share(self, k: float) -> tuple[float, float]:
        """Of the sum of all, what the largest k are; and what spreading out changes at most near by."""
        place = min(int(torch.searchsorted(self.first, k)), len(self.counts)) - 1
        inside = ((k - self.first[place]) / self.counts[place]).clamp(0, 1)
        total = self.sums[-1]
        value = (self.sums[place] + self._part(inside)[place]) / total
        return float(value), float(self.bumps[max(0, place - 1) : place + 2].amax() / total)

    def above(self, value: float) -> tuple[float, float]:
        """How many are larger; and what the points near by stand for at most, where one stands for several."""
        partly = (self.low < value) & (value < self.high)
        inside = ((value - self.low) / (self.high - self.low)).where(partly, 0)
        counted = self.counts * (1 - inside ** (1 / self.power)).where(partly, (self.low >= value).double())
        counted = counted.where((self.high > value) | partly, 0)
        count = counted.sum()
        place = min(int(torch.searchsorted(self.first, count)), len(self.counts) - 1)
        near = self.counts[max(0, place - 1) : place + 2]
        return float(count), float(near.where(near > 1, 0).amax())
