"""Mutual information of two discrete variables, from counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["categorical_information"]


def categorical_information(
    x: Tensor, y: Tensor, smoothing: float | None = None, groups: Tensor | None = None
) -> Tensor:
    r"""What each sample adds to a lower bound of the mutual information of two classes; their mean is the value.

    .. math:: \log \frac{q_{-i}(y_i | x_i)}{p(y_i)}, \quad
              q_{-i}(y | x) = \frac{n_{xy} - 1 + \alpha p(y)}{n_x - 1 + \alpha}

    The counts leave the sample itself out, so that independent classes do not look dependent however many they are; the
    plug-in estimate exceeds the truth by about :math:`(k_x - 1)(k_y - 1) / 2n`, and this is as much below, but not
    below zero: where x is of no use, an infinite :math:`\alpha` is better than any other.

    Args:
        x: Codes from 0, shape ``(n,)``.
        y: Codes from 0, shape ``(n,)``.
        smoothing: :math:`\alpha`, samples that the distribution without x counts for; by default the one of 1, 4, 16,
            ... and infinity that gives the greatest value.
        groups: Which samples are copies of each other, see :func:`repeated_rows`, shape ``(n,)``: all copies of a
            sample are left out with it.

    Returns:
        In nats, float64. Shape ``(n,)``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> x = torch.arange(1000) % 2
        >>> round(categorical_information(x, x).mean().item(), 2)  # log 2
        0.69

    Reference:
        The bound: Barber & Agakov, "The IM algorithm", NeurIPS 2003; bias of the plug-in: Miller (1955).
    """
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"`x` and `y` must have the same shape (n,), got {tuple(x.shape)} and {tuple(y.shape)}.")
    columns = int(y.max()) + 1
    counts = torch.bincount(x * columns + y, minlength=(int(x.max()) + 1) * columns).view(-1, columns).double()
    p = counts.sum(0) / len(x)
    if groups is None:
        with_x = with_both = torch.ones_like(p[y])
    else:
        with_x, with_both = (_number_alike(groups, side) for side in (x, x * columns + y))
    both, alone = counts[x, y] - with_both, counts.sum(1)[x] - with_x

    def terms(smoothing: float) -> Tensor:
        found: Tensor = ((both + smoothing * p[y]) / (alone + smoothing) / p[y]).log()
        return found

    if smoothing is not None:
        return terms(smoothing)
    choices = [terms(4.0**power) for power in range(math.ceil(math.log(len(x), 4)) + 1)] + [torch.zeros_like(p[y])]
    return max(choices, key=lambda choice: float(choice.mean()))


def _number_alike(*sides: Tensor) -> Tensor:
    """For each sample, how many agree with it on all sides."""
    codes, counts = torch.unique(torch.stack(sides), dim=1, return_inverse=True, return_counts=True)[1:]
    alike: Tensor = counts[codes].double()
    return alike
