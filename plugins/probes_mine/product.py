"""Pairs of the product of the margins among held-out samples, and the values of bounds on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Product", "draw_product", "log_partition", "tempered"]


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


def tempered(value: Callable[[float], float], steps: int = 14) -> float:
    """The scale s between 0 and 1 of a critic at which its held-out value, concave in s and zero at zero, is greatest.

    One number for all folds: a critic that is too sure of itself is made less so, and one that is of no use becomes the
    trivial one.

    Example:
        >>> round(tempered(lambda s: s - s**2), 2), tempered(lambda s: s)
        (0.5, 1.0)
    """
    if value(1.0) >= value(0.95):
        return 1.0 if value(1.0) > LEAST else 0.0
    low, high = 0.0, 1.0
    for _ in range(steps):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if value(left) < value(right) else (low, right)
    best = (low + high) / 2
    return best if value(best) > LEAST else 0.0
