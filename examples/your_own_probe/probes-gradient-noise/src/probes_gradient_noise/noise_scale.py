"""Estimators of the simple noise scale and of what it is the ratio of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from probes.precision import to_float64
from torch import Tensor

__all__ = ["NoiseScale", "gradient_products", "noise_scale"]


class NoiseScale(NamedTuple):
    """Estimates and their standard errors, float64, shape ``()``."""

    trace: Tensor
    """tr(Σ), the variance of the gradient of one sample, in loss^2 / parameter^2."""
    trace_error: Tensor
    square_norm: Tensor
    """|G|^2, of the gradient of the expected loss, in loss^2 / parameter^2; unbiased, so it may be negative."""
    square_norm_error: Tensor
    scale: Tensor
    """B_simple, in samples; infinite where |G|^2 is not above 0: there are too few samples to tell it from 0."""
    scale_error: Tensor


def noise_scale(squares: Tensor, products: Tensor, group_size: int = 1) -> NoiseScale:
    r"""The simple noise scale from gradients of m groups of b samples each.

    .. math:: \mathcal{B}_\text{simple} = \operatorname{tr}(\Sigma) / |G|^2

    With :math:`g_i` the mean gradient of a group, whose covariance is :math:`\Sigma / b`, and :math:`\bar g` that of
    all, these are unbiased:

    .. math::
        \widehat{\operatorname{tr} \Sigma} = \frac{b}{m - 1} \Big(\sum_i |g_i|^2 - m |\bar g|^2\Big), \qquad
        \widehat{|G|^2} = |\bar g|^2 - \widehat{\operatorname{tr} \Sigma} / (m b)

    They are those of the paper for :math:`B_\text{small} = b` and :math:`B_\text{big} = m b`, with the mean of
    :math:`|g_i|^2` over the groups for the small batch. Standard errors are those of the jackknife over the groups; it
    needs no more than the inner products, for without group i, :math:`\bar g_{-i} = (m \bar g - g_i) / (m - 1)`.

    Args:
        squares: :math:`|g_i|^2`. Shape ``(m,)``, of at least three groups.
        products: :math:`g_i \cdot \bar g`. Shape ``(m,)``.
        group_size: b.

    Raises:
        ValueError: If shapes differ, or there are fewer than three groups.

    Example:
        >>> gradients = torch.tensor([[3.0, 1.0], [3.0, -1.0], [3.0, 2.0], [3.0, -2.0]])
        >>> found = noise_scale(gradients.square().sum(1), gradients @ gradients.mean(0))
        >>> round(found.trace.item(), 4), round(found.square_norm.item(), 4)  # 10 / 3, 9 - 10 / 12
        (3.3333, 8.1667)

    Reference:
        McCandlish et al. (2018): the scale is eq. 2.9, Σ is defined in section 2.2; the estimators are those of
        appendix A.1, which follow from eq. A.1, E |G_est|^2 = |G|^2 + tr(Σ) / B.
    """
    if squares.ndim != 1 or squares.shape != products.shape or len(squares) < 3:
        raise ValueError(
            f"`squares` and `products` must have one shape (m,), with m of at least 3, got {tuple(squares.shape)} and "
            f"{tuple(products.shape)}."
        )
    squares, products = to_float64(squares), to_float64(products)
    m = len(squares)
    mean_square = products.mean()  # the mean of g_i over i is the mean gradient itself
    trace, square_norm, scale = _estimates(squares.sum(), mean_square, m, group_size)
    without = (m**2 * mean_square - 2 * m * products + squares) / (m - 1) ** 2
    left_out = _estimates(squares.sum() - squares, without, m - 1, group_size)
    errors = [((m - 1) / m * (values - values.mean()).square().sum()).sqrt() for values in left_out]
    return NoiseScale(trace, errors[0], square_norm, errors[1], scale, errors[2])


def _estimates(total: Tensor, mean_square: Tensor, m: int, b: int) -> tuple[Tensor, Tensor, Tensor]:
    trace = b * (total - m * mean_square) / (m - 1)
    square_norm = mean_square - trace / (m * b)
    return trace, square_norm, torch.where(square_norm <= 0, torch.inf, trace / square_norm)


def gradient_products(
    losses: Iterable[Tensor], mean_loss: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    r"""Inner products of the gradients of losses with themselves and with the gradient of their mean.

    Args:
        losses: Scalars, each with a graph of its own; one is asked for when the one before is done with, so that a
            generator holds one graph at a time.
        mean_loss: Their mean. Shape ``()``.
        parameters: With respect to which the gradients are taken; a loss need not depend on all.

    Returns:
        :math:`|g_i|^2` and :math:`g_i \cdot \bar g`, float64. Each of shape ``(m,)``.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> gradient_products((w @ row for row in x), (x @ w).mean(), [w])
        (tensor([1., 4.], dtype=torch.float64), tensor([0.5000, 2.0000], dtype=torch.float64))
    """
    mean = _gradient(mean_loss, parameters)
    squares, products = [], []
    for loss in losses:
        gradient = _gradient(loss, parameters)
        squares.append(torch.stack([part.square().sum() for part in gradient]).sum())
        products.append(torch.stack([(a * b).sum() for a, b in zip(gradient, mean, strict=True)]).sum())
    return torch.stack(squares), torch.stack(products)


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return [to_float64(part) for part in gradient]
