"""Pairs of the product of the margins among held-out samples, and the values of bounds on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Product", "bound_terms", "draw_product", "log_partition", "tempered"]


LEAST = 1e-9
"""Nats, below which a value is rounding."""


class Product(NamedTuple):
    """Which pairs stand for the product: each x with the y a few rows before, and a little of each own pair.

    Of all n^2 pairs of n samples, n are pairs that were drawn together. Without them a critic that is high there alone
    has a partition function of zero, and a value without limit. So it is taken to be at least what these pairs add in
    their share of 1 / n. The value is then at most log n, which is about what n samples can certify; far below that,
    nothing changes.
    """

    shifts: list[int]
    copies: Tensor | None
    """Where x and y of a pair come from copies of one sample: then it is no independent pair. Shape ``(m, s, n)``."""
    own: float
    """Share of the pairs that were drawn together: one by the number of different samples."""

    def to(self, device: torch.device) -> Product:
        return self if self.copies is None else self._replace(copies=self.copies.to(device))


def draw_product(groups: Tensor, number: int, num_groups: int, generator: torch.Generator) -> Product:
    """Pairs by shifts of different numbers: none twice, none of a sample with itself.

    Args:
        groups: Which rows are copies of each other, shape ``(m, n)``, of m folds.
        number: How many partners of each x, at most.
        num_groups: Of all samples.
        generator: Draws the shifts.
    """
    n = groups.shape[1]
    shifts = [1 + int(shift) for shift in torch.randperm(n - 1, generator=generator, device="cpu")[:number]]
    copies = None
    if any(len(fold.unique()) < n for fold in groups):
        copies = torch.stack([groups == groups.roll(shift, 1) for shift in shifts], 1)
    return Product(shifts, copies, 1 / num_groups)


def log_partition(joint: Tensor, marginal: Tensor, product: Product) -> Tensor:
    r"""Logarithm of the mean of :math:`e^T` over the product, at least what pairs drawn together add in their share.

    .. math:: \log \max \Big( \operatorname{mean}_{i \ne j} e^{T_{ij}},
              \; \tfrac 1 n \operatorname{mean}_i e^{T_{ii}} \Big)

    Args:
        joint: Values on pairs drawn together, shape ``(m, n, ...)``.
        marginal: Values on shifted pairs, shape ``(m, s, n, ...)``.
        product: Which pairs these are.

    Returns:
        Shape ``(m, ...)``.
    """
    log_count: Tensor | float = math.log(marginal.shape[1] * marginal.shape[2])
    if product.copies is not None:
        mask = product.copies.reshape(product.copies.shape + (1,) * (marginal.ndim - 3))
        marginal = marginal.masked_fill(mask, -math.inf)
        log_count = (~mask).sum((1, 2)).clamp_min(1).to(joint.dtype).log()
    others = torch.logsumexp(marginal, (1, 2)) - log_count
    own = torch.logsumexp(joint, 1) - math.log(joint.shape[1])
    return torch.maximum(others, own + math.log(product.own))


def bound_terms(joint: Tensor, marginal: Tensor, product: Product, reference: Tensor | None = None) -> Tensor:
    r"""What each sample adds to the bound of Donsker and Varadhan: through its pair, and through all pairs with its x
    or its y.

    .. math:: t_i = T_{ii} - \log Z - (w_{i \cdot} - \bar w) - (w_{\cdot i} - \bar w), \quad w_{ij} = e^{T_{ij}} / Z

    Their mean is the value, their deviation that of the value times the root of n.

    Args:
        joint: Shape ``(m, n)``.
        marginal: The value for x_i and the y shift rows before, shape ``(m, s, n)``.
        product: Which pairs these are.
        reference: Instead of log Z where the bound is that of Nguyen, Wainwright and Jordan: a tangent of the
            logarithm, 1. Shape ``(m, 1)``.
    """
    log_mean = log_partition(joint, marginal, product)[:, None]
    subtracted = log_mean if reference is None else (log_mean - reference).exp()
    reference = log_mean if reference is None else reference
    weights = (marginal - reference[:, None]).exp()
    if product.copies is not None:  # the others count for more, as in the mean
        independent = (~product.copies).to(weights)
        weights = weights * independent / independent.mean((1, 2), keepdim=True).clamp_min(1 / weights.numel())
    by_y = torch.stack([row.roll(-shift, 1) for row, shift in zip(weights.unbind(1), product.shifts, strict=True)], 1)
    by_x, by_y = weights.mean(1), by_y.mean(1)
    # Where pairs drawn together make up the partition function, a sample is in it by its own pair.
    own = product.own * (joint - reference).exp()
    limited = own.mean(1, keepdim=True) > by_x.mean(1, keepdim=True)
    by_x, by_y = (torch.where(limited, own, side) for side in (by_x, by_y))
    return joint - subtracted - (by_x - by_x.mean(1, keepdim=True)) - (by_y - by_y.mean(1, keepdim=True))


def tempered(value: Callable[[float], float], steps: int = 10) -> float:
    """The scale s between 0 and 1 of a critic at which its held-out value, concave in s and zero at zero, is greatest.

    One number for all folds: a critic that is too sure of itself is made less so, and one that is of no use becomes the
    trivial one.

    Example:
        >>> round(tempered(lambda s: s - s**2), 2), tempered(lambda s: s)
        (0.5, 1.0)
    """
    if value(1.0) >= value(0.95):
        return 1.0 if value(1.0) > LEAST else 0.0
    # By the golden section: what one step has looked at, the next needs again.
    low, high, ratio = 0.0, 1.0, (math.sqrt(5) - 1) / 2
    left, right = 1 - ratio, ratio
    at_left, at_right = value(left), value(right)
    for _ in range(steps):
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = value(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = value(left)
    return (left if at_left > at_right else right) if max(at_left, at_right) > LEAST else 0.0
