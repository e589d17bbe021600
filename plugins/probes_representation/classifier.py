"""NC3 and NC4: whether the last linear layer has become the classifier of the nearest class mean."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probes.precision import to_float64

from .class_means import ClassMeans

__all__ = ["Share", "nearest_mean_agreement", "self_duality_distance"]


class Share(NamedTuple):
    """A share of examples, and its standard error."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, hits: Tensor) -> Share:
        """The share of examples that are true; the error is that of independent ones.

        Args:
            hits: bool, shape ``(n,)``.

        Returns:
            NaN of no examples; the error of fewer than two is NaN, and 0 where all are alike.

        Example:
            >>> Share.of(torch.tensor([True, False])).value
            0.5
        """
        n = len(hits)
        value = float(hits.double().mean()) if n else math.nan
        return cls(value, math.sqrt(value * (1 - value) / (n - 1)) if n > 1 else math.nan)


def self_duality_distance(weight: Tensor, found: ClassMeans) -> Tensor:
    r"""Squared distance of the classifier's weights from the centred class means, both of norm 1 (NC3).

    .. math:: \Big\| \frac{W^\top}{\|W\|_F} - \frac{M}{\|M\|_F} \Big\|_F^2, \qquad M = [\mu_c - \mu_G]_c

    Between 0 (proportional) and 4 (opposite); 2 where they have nothing to do with each other.

    Args:
        weight: One row for each class in ``found``, in its order. Shape ``(C, d)``.
        found: From :func:`class_means`.

    Returns:
        Dimensionless, scalar, float64; NaN where one of the two is zero.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from probes_representation import class_means
        >>> found = class_means(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
        >>> round(self_duality_distance(torch.tensor([[3.0], [-3.0]]), found).item(), 12)
        0.0

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC3) and figure 5.
    """
    if weight.shape != found.centred.shape:
        raise ValueError(
            f"`weight` must have a row for each class and a column for each feature, {tuple(found.centred.shape)}, got "
            f"{tuple(weight.shape)}."
        )
    rows = to_float64(weight)
    distance: Tensor = (rows / rows.norm() - found.centred / found.centred.norm()).square().sum()
    return distance


def nearest_mean_agreement(features: Tensor, weight: Tensor, bias: Tensor | None, found: ClassMeans) -> Share:
    r"""The share of examples for which the classifier gives the class whose mean is nearest (NC4).

    .. math:: \arg\max_c \, \langle w_c, h \rangle + b_c = \arg\min_c \|h - \mu_c\|

    Among the classes in ``found``. The paper shows the share that disagrees.

    Args:
        features: Of the examples to be classified, shape ``(n, d)``.
        weight: One row for each class in ``found``. Shape ``(C, d)``.
        bias: Shape ``(C,)``, or None.
        found: From :func:`class_means`, of these examples or of others.

    Returns:
        Between 0 and 1, with the standard error of n independent examples; NaN where something is not finite, or all
        class means are the same.

    Cost: 2 n d C operations.

    Example:
        >>> from probes_representation import class_means
        >>> features = torch.tensor([[2.0], [-1.0], [0.1]])
        >>> found = class_means(features[:2], torch.tensor([0, 1]))  # the middle is at 0.5
        >>> round(nearest_mean_agreement(features, torch.tensor([[1.0], [-1.0]]), None, found).value, 3)
        0.667

    Reference:
        Papyan, Han & Donoho, PNAS 2020, (NC4) and figure 7.
    """
    features, weight = to_float64(features), to_float64(weight)
    scores = features @ weight.T + (0 if bias is None else to_float64(bias))
    middle = found.means.mean(0)
    distances = torch.cdist(features - middle, found.means - middle, compute_mode="donot_use_mm_for_euclid_dist")
    apart = found.centred.norm() > 1e-12 * found.means.norm()
    if not (scores.isfinite().all() and distances.isfinite().all() and apart):
        return Share(math.nan, math.nan)
    return Share.of(scores.argmax(1) == distances.argmin(1))
