"""How far the gradient of MINE on mini-batches is off in the mean (eq. 12)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from probes_mine import LogMovingAverage, log_mean_exp, mine_surrogate

Pairs = tuple[Tensor, Tensor]


class Full(NamedTuple):
    """The gradient on a very large sample."""

    log_mean: Tensor
    """Logarithm of b, the mean of e^T over independent pairs."""
    ratio: Tensor
    """a / b, with a the mean of the gradient of T times e^T: the second term of eq. 12. Shape ``(P,)``."""
    size: float
    """Norm of the gradient, of both terms."""


def flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def full_gradient(network: nn.Module, joint: Pairs, independent: Pairs) -> Full:
    """Of pairs drawn together and of independent ones, in float64."""
    parameters = list(network.parameters())
    first = flat(torch.autograd.grad(network(*(side.double() for side in joint)).mean(), parameters))
    log_mean = log_mean_exp(network(*(side.double() for side in independent)))
    ratio = flat(torch.autograd.grad(log_mean, parameters))
    return Full(log_mean.detach(), ratio, float((first - ratio).norm()))


def batch_error(
    network: nn.Module, x: Tensor, z: Tensor, average: LogMovingAverage, full: Full, skip: int = 0
) -> Tensor:
    r"""Mean over batches of the estimate of eq. 12, less the gradient on the very large sample.

    .. math:: -\frac 1 K \sum_k \Big[ \frac{a_k}{m_k} - \frac{a_k} b + \frac a b \Big( \frac{m_k} b - 1 \Big) \Big]

    with a and b those of :class:`Full`, a_k and b_k the same of a batch, and m_k the moving average of the b up to it.
    The first term of eq. 12 has no bias and is left out. What is subtracted from the second one, its linear part, is a
    / b in the mean, for the average is b in the mean; it takes with it most of the noise.

    Args:
        network: The statistics network T, float64.
        x: Batches of independent pairs, shape ``(K, B, d)``.
        z: The same shape.
        average: Updated by each batch in turn.
        skip: Batches at the beginning that count for the average alone.

    Returns:
        Shape ``(P,)``, the number of parameters.
    """
    shape = x.shape[:2]
    values = network(x.flatten(0, 1).double(), z.flatten(0, 1).double()).view(shape)
    leaf = values.detach().requires_grad_()
    nothing = leaf.new_zeros(1)
    surrogates = [mine_surrogate(nothing, batch, average) for batch in leaf.unbind()]
    (weights,) = torch.autograd.grad(torch.stack(surrogates).sum(), leaf)  # -e^T / (B m_k)
    relative = (leaf.detach() - full.log_mean).exp() / shape[1]  # e^T / (B b)
    counted = torch.zeros_like(leaf)
    counted[skip:] = (weights + relative)[skip:] / (shape[0] - skip)
    error = flat(torch.autograd.grad(values, list(network.parameters()), counted))
    averages = -relative.sum(1) / weights.sum(1)  # m_k / b
    error -= full.ratio * (averages[skip:].mean() - 1)
    return error


def lag(full: Full, log_average: Tensor) -> float:
    r"""Bias of the gradient whose denominator is an average m of a network's past, in units of the gradient.

    .. math:: \Big| \frac b m - 1 \Big| \cdot \Big\| \frac a b \Big\| \Big/ \| G \|

    Args:
        full: Of the network as it is now.
        log_average: Logarithm of m, taken over the same pairs as b, so that only the moves of the network count.
    """
    return float((full.log_mean - log_average).expm1().abs() * full.ratio.norm()) / full.size


def norm(errors: Tensor, scale: float) -> tuple[float, float]:
    r"""Norm of the mean of R independent vectors, without what their noise adds to it, in units of ``scale``.

    .. math:: \widehat{\| \mu \|^2} = \frac 1 {R (R - 1)} \sum_{r \ne s} \mathbf e_r \cdot \mathbf e_s

    is right in the mean; where it is negative the norm is 0. The standard error is the jackknife's, of the square, over
    twice the norm; where the square is within it of zero, it is the root of the standard error of the square.

    Args:
        errors: Shape ``(R, P)``, R at least 3.

    Returns:
        The norm and its standard error.

    Example:
        >>> norm(torch.tensor([[3.0, 4.0]] * 3), 10.0)
        (0.5, 0.0)
    """
    products = errors @ errors.T / scale**2
    number, others = len(products), products.sum() - products.trace()
    square = float(others) / (number * (number - 1))
    without = (others - 2 * (products.sum(1) - products.diagonal())) / ((number - 1) * (number - 2))
    deviation = float((without - without.mean()).square().sum() * (number - 1) / number) ** 0.5
    if square <= deviation:
        return max(square, 0.0) ** 0.5, deviation**0.5
    return square**0.5, deviation / (2 * square**0.5)
