"""Samples that occur more than once: kept together, so that none is evaluated by a critic that has seen it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["clustered_standard_error", "different_rows", "repeated_rows"]

LARGEST_SHARE = 0.2
"""Of the rows: what is more frequent is a value of its own, such as zero, and no copy. It would fill a fold."""


def repeated_rows(x: Tensor, y: Tensor) -> Tensor:
    """Number each sample by its group: samples that are copies of each other share one.

    Oversampling repeats whole samples, while values of a discrete distribution meet different partners when they come
    again. So samples whose x and y are both equal are copies if that x, or that y, has no other partner, and if the
    same holds for most of the values of that side that repeat. Where a side has several components and hardly a value
    of some component comes again, a row that does is a copy whatever its partner: one image with two labels.

    Where both sides have few values and each determines the other, copies and independent draws look alike, and count
    as copies.

    Args:
        x: Shape ``(n, d_x)``.
        y: Shape ``(n, d_y)``.

    Returns:
        Numbers from 0, shape ``(n,)``; n different ones if nothing repeats.

    Cost: a sort of the rows of each side.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0], [1.0], [3.0]]), torch.tensor([[5.0], [6.0], [5.0], [5.0]])
        >>> repeated_rows(x, y).tolist()
        [0, 1, 0, 2]
    """
    n = len(x)
    alone = torch.arange(n, device="cpu")
    codes = [torch.unique(side, dim=0, return_inverse=True)[1].cpu() if side.shape[1] else 0 * alone for side in (x, y)]
    joint = torch.unique(codes[0] * n + codes[1], return_inverse=True)[1]
    of_joint = joint.bincount()[joint]
    group, copies = joint, torch.zeros(n, dtype=torch.bool, device="cpu")
    for side, code in zip((x, y), codes, strict=True):
        rows = code.bincount()[code]
        repeats = (rows > 1) & (rows <= max(2, n * LARGEST_SHARE))
        found = repeats & (rows == of_joint)
        if 2 * int(found.sum()) >= int(repeats.sum()):
            copies |= found
        if side.shape[1] > 1 and bool(repeats.any()) and _most_values(side) > n * LARGEST_SHARE:
            group, copies = code, repeats
            break
    # A copy is numbered by the first of its group, everything else by itself; then without gaps, in order.
    first = torch.full((n,), n, device="cpu").scatter_reduce(0, group, alone, "amin")
    numbers: Tensor = torch.unique(torch.where(copies, first[group], alone), return_inverse=True)[1]
    return numbers


def different_rows(x: Tensor, y: Tensor) -> Tensor:
    """The first sample of each group of copies (:func:`repeated_rows`). Shape ``(groups,)``.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0], [1.0], [3.0]]), torch.tensor([[5.0], [6.0], [5.0], [5.0]])
        >>> different_rows(x, y).tolist()
        [0, 1, 3]
    """
    groups = repeated_rows(x, y)
    rows = torch.arange(len(groups), device="cpu")
    first = torch.full((int(groups.max()) + 1 if len(rows) else 0,), len(rows), device="cpu")
    return first.scatter_reduce(0, groups, rows, "amin")


def clustered_standard_error(terms: Tensor, groups: Tensor) -> float:
    r"""Standard error of a mean whose terms are independent between groups only.

    .. math:: \frac 1 n \sqrt{\frac{G}{G - 1} \sum_g \Big( \sum_{i \in g} (t_i - \bar t) \Big)^2}

    That of independent terms where no group has two.

    Args:
        terms: Shape ``(n,)``.
        groups: Number of the group of each, shape ``(n,)``.

    Example:
        >>> t = torch.tensor([1.0, 2.0, 3.0])
        >>> once = clustered_standard_error(t, torch.arange(3))
        >>> twice = clustered_standard_error(t.repeat(2), torch.arange(3).repeat(2))
        >>> round(once, 6) == round(twice, 6) == round(float(t.std()) / 3**0.5, 6)
        True

    Reference:
        Liang & Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986.
    """
    codes = torch.unique(groups, return_inverse=True)[1].to(terms.device)
    count = int(codes.max()) + 1
    if count < 2:
        return math.nan
    sums = torch.zeros(count, dtype=terms.dtype, device=terms.device).index_add(0, codes, terms - terms.mean())
    return math.sqrt(float(sums.square().sum()) * count / (count - 1)) / len(terms)


def _most_values(side: Tensor) -> int:
    """Different values of the component that has most."""
    ordered = side.sort(dim=0).values
    return 1 + int((ordered[1:] != ordered[:-1]).sum(0).max()) if side.numel() else 0
