"""The gradient noise scale: up to which batch size a larger batch is worth its cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.batches import MicroBatches, seeded
from probes_ntk import Estimate, spread

from .objective import MEMORY, Loss, Objective

__all__ = [
    "GradientNoiseScale", "accumulated_noise_scale", "gradient_noise_scale", "gradient_noise_scale_of", "noise_scale",
    "rank_noise_scale",
]  # fmt: skip

AGREE = 1e-3
"""Relative difference of the loss and the mean of those of its parts, from which on it is no mean over examples."""


class GradientNoiseScale(NamedTuple):
    """Of the gradients of single examples: how they scatter, beside what they have in common."""

    simple: Estimate
    """B_simple, in examples; infinite where there are too few to tell the gradient from 0."""
    trace: Estimate
    """tr(S), the variance of the gradient of one example, in loss^2 / parameter^2; unbiased."""
    square_norm: Estimate
    r"""Of :math:`|G|^2`, G the gradient of the expected loss, in loss^2 / parameter^2; unbiased, so maybe negative."""
    critical: Estimate | None = None
    """B_noise, which weighs both by the Hessian, in examples; None where it was not asked for."""


def gradient_noise_scale(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    output: Callable[[Any], Tensor] | None = None,
    group_size: int = 1,
    products: int = 0,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> GradientNoiseScale:
    r"""The simple gradient noise scale and, from products with the Hessian, the one it stands for.

    .. math:: \mathcal B_\text{simple} = \frac{\operatorname{tr} \Sigma}{|G|^2}, \qquad
              \mathcal B_\text{noise} = \frac{\operatorname{tr}(H \Sigma)}{G^\top H G}

    G is the gradient of the expected loss, :math:`\Sigma` the covariance of the gradient of one example. Batches far
    smaller than it waste steps, far larger ones waste examples.

    Args:
        model: In eval mode: dropout adds noise that is not seen, batch norm does not mix the examples.
        loss: Of the outputs and the targets, their mean over the examples.
        inputs: As the model takes them.
        targets: As ``loss`` takes them; one for each example.
        output: Picks the output tensor from what the model returns.
        group_size: Examples whose gradient is taken together: 1 has the smallest error, larger ones are faster.
        products: With the Hessian, of as many groups, for the critical one; 0 for none.
        generator: Of the groups, on the CPU; seeded with 0 by default.
        memory: Bytes for the graphs of a product.

    Raises:
        ValueError: If there are fewer than three groups, ``loss`` is no mean over the examples, or as
            :class:`Objective`.
        CannotMeasure: As :class:`Objective`.

    Cost: one forward and backward pass of each group and of all; the products; the memory of three gradients.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> x, y = torch.ones(4, 1), line.weight.detach() + torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        >>> found = gradient_noise_scale(line, nn.functional.mse_loss, x, y)  # gradients -2, -4, -6, -8
        >>> round(found.trace.value, 3), round(found.square_norm.value, 3)  # 20 / 3, 25 - 20 / 12
        (6.667, 23.333)

    Reference:
        McCandlish et al., "An empirical model of large-batch training", arXiv:1812.06162 (2018): B_noise is eq. 2.8,
        B_simple eq. 2.9; the estimators are those of appendix A.1.
    """
    objective = Objective(model, loss, inputs, targets, output=output, memory=memory)
    return gradient_noise_scale_of(objective, group_size=group_size, products=products, generator=generator)


def gradient_noise_scale_of(
    objective: Objective, *, group_size: int = 1, products: int = 0, generator: torch.Generator | None = None
) -> GradientNoiseScale:
    """The same of an objective.

    Args:
        objective: The mean loss of n examples.
        group_size: Examples whose gradient is taken together.
        products: With the Hessian, of as many groups, for the critical scale; 0 for none.
        generator: Of the groups, on the CPU; seeded with 0 by default.

    Raises:
        ValueError: If there are fewer than three groups, or the loss is no mean over the examples.
    """
    if not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"`group_size` must be a positive integer, got {group_size!r}.")
    if not isinstance(products, int) or products < 0 or products == 1:
        raise ValueError(f"`products` must be 0, or an integer from 2 on, got {products!r}.")
    count = objective.n // group_size
    if count < 3:
        raise ValueError(
            f"`inputs` must hold at least three groups of {group_size} examples, got {objective.n}. Pass more, or a "
            f"smaller group_size."
        )
    generator = seeded(generator)
    groups = torch.randperm(objective.n, generator=generator)[: count * group_size].reshape(count, group_size)
    whole = objective if groups.numel() == objective.n else objective.subset(groups.flatten().sort().values)
    mean = whole.gradient()
    chosen = torch.randperm(count, generator=generator)[:products].tolist()
    squares, inner, losses, curved = [], [], 0.0, []
    for index, group in enumerate(groups):
        part = objective.subset(group)
        gradient = part.gradient().double()
        losses += part.value() / count
        squares.append(gradient.square().sum())
        inner.append(torch.dot(gradient, mean.double()))
        if index in chosen:
            away = gradient - mean.double()
            product = whole.finite(whole.hessian_product(away.to(mean)))
            curved.append(float(torch.dot(away, product.double())) * group_size * count / (count - 1))
    value = whole.value()
    whole_square = float(mean.double().square().sum())
    # Of a weighted loss all values may be alike, as with a head of zeros; its gradients are not.
    apart = abs(float(torch.stack(inner).mean()) - whole_square) > AGREE * float(torch.stack(squares).mean())
    if apart or not math.isclose(losses, value, rel_tol=AGREE):
        raise ValueError(
            f"`loss` must be the mean over the examples, none weighted or ignored (-100): of all it is {value:g}, of "
            f"groups {losses:g}. Is it a sum (reduction='sum'), or are examples weighted?"
        )
    simple, trace, norm = noise_scale(torch.stack(squares), torch.stack(inner), group_size)
    if not curved:
        return GradientNoiseScale(simple, trace, norm)
    scatter = sum(curved) / len(curved)
    along = float(torch.dot(mean.double(), whole.hessian_product(mean).double())) - scatter / (count * group_size)
    ratio = scatter / along if along > 0 else math.inf
    error = spread([each / along for each in curved]) if along > 0 else math.inf
    return GradientNoiseScale(simple, trace, norm, Estimate(ratio, error))


def noise_scale(squares: Tensor, products: Tensor, group_size: int = 1) -> tuple[Estimate, Estimate, Estimate]:
    r"""The simple noise scale from gradients of m groups of b examples each.

    With :math:`g_i` the mean gradient of a group, whose covariance is :math:`\Sigma / b`, and :math:`\bar g` that of
    all, these are unbiased:

    .. math::
        \widehat{\operatorname{tr} \Sigma} = \frac{b}{m - 1} \Big(\sum_i |g_i|^2 - m |\bar g|^2\Big), \qquad
        \widehat{|G|^2} = |\bar g|^2 - \widehat{\operatorname{tr} \Sigma} / (m b)

    Standard errors are those of the jackknife over the groups, which needs no more than the inner products: without
    group i, :math:`\bar g_{-i} = (m \bar g - g_i) / (m - 1)`.

    Args:
        squares: :math:`|g_i|^2`. Shape ``(m,)``, of at least three groups: accumulated micro-batches, or ranks.
        products: :math:`g_i \cdot \bar g`. Shape ``(m,)``.
        group_size: b.

    Returns:
        The scale, the trace and the squared norm.

    Raises:
        ValueError: If shapes differ, or there are fewer than three groups.

    Example:
        >>> gradients = torch.tensor([[3.0, 1.0], [3.0, -1.0], [3.0, 2.0], [3.0, -2.0]])
        >>> found = noise_scale(gradients.square().sum(1), gradients @ gradients.mean(0))
        >>> [round(each.value, 4) for each in found]  # 10 / 3, 9 - 10 / 12 and their ratio
        [0.4082, 3.3333, 8.1667]

    Reference:
        McCandlish et al. (2018), eq. 2.9 and appendix A.1, eq. A.1.
    """
    if not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"`group_size` must be a positive integer, got {group_size!r}.")
    squares, products = torch.as_tensor(squares), torch.as_tensor(products)
    if squares.ndim != 1 or squares.shape != products.shape or len(squares) < 3:
        raise ValueError(
            f"`squares` and `products` must have one shape (m,), with m of at least 3, got {tuple(squares.shape)} and "
            f"{tuple(products.shape)}."
        )
    squares, products = squares.double().cpu(), products.double().cpu()
    count, mean_square = len(squares), products.mean()  # the mean of g_i over i is the mean gradient itself
    values = _estimates(squares.sum(), mean_square, count, group_size)
    without = (count**2 * mean_square - 2 * count * products + squares) / (count - 1) ** 2
    left_out = _estimates(squares.sum() - squares, without, count - 1, group_size)
    errors = [
        ((count - 1) / count * (each - each.mean()).square().sum()).sqrt() if each.isfinite().all() else math.inf
        for each in left_out
    ]
    scale, trace, norm = (Estimate(float(a), float(b)) for a, b in zip(values, errors, strict=True))
    return scale, trace, norm


def _estimates(total: Tensor, mean_square: Tensor, count: int, size: int) -> Sequence[Tensor]:
    trace = size * (total - count * mean_square) / (count - 1)
    norm = mean_square - trace / (count * size)
    return torch.where(norm <= 0, torch.inf, trace / norm), trace, norm


def accumulated_noise_scale(micro_batches: MicroBatches) -> Estimate:
    r"""The simple noise scale from the micro-batches of one update, of whose gradients no copy is kept.

    Of :math:`g_1, \dots, g_m`, with :math:`S_j = g_1 + \dots + g_j`, what is new in each,

    .. math:: h_j = \sqrt{\tfrac{j - 1}{j}} \Big(g_j - \frac{S_{j-1}}{j - 1}\Big), \quad j = 2, \dots, m, \qquad
              \widehat{\operatorname{tr} \Sigma} = \frac{1}{m - 1} \sum_j |h_j|^2, \qquad
              \widehat{|G|^2} = \Big|\frac{S_m}{m}\Big|^2 - \frac{\widehat{\operatorname{tr} \Sigma}}{m}

    is independent for normal gradients, so that the scatter of :math:`|h_j|^2` is the first one's error; that of
    :math:`|S_m / m|^2` is :math:`2 \sqrt{G^\top \Sigma G / m}`, with the mean of :math:`(h_j \cdot S_{j-1} / (j -
    1))^2`, which is not smaller, for :math:`G^\top \Sigma G`. What all gradients are multiplied with does not matter.

    Args:
        micro_batches: Inner products of at least four gradients, each of as many examples, or of as much weight: of
            unequal ones the scale has a floor, the square of their sizes' coefficient of variation.

    Returns:
        The ratio, in micro-batches; times the examples in one, it is in examples. Infinite where they are too few to
        tell the gradient from 0. The error is Student's, and covers 94 % and more where the covariance of normal
        gradients has a participation ratio of 8 or more, 78 to 92 % where it is of one direction.

    Raises:
        ValueError: If there are fewer than four, or shapes differ.

    Example:
        >>> gradients = torch.tensor([[3.0, 1.0], [3.0, -1.0], [3.0, 2.0], [3.0, -2.0]])
        >>> earlier = gradients.cumsum(0) - gradients
        >>> found = accumulated_noise_scale(MicroBatches(gradients.square().sum(1), (gradients * earlier).sum(1)))
        >>> round(found.value, 4)  # 10 / 3 / (9 - 10 / 12)
        0.4082

    Reference:
        McCandlish et al. (2018), eq. 2.9 and appendix A.1. The contrasts are Helmert's (1876).
    """
    squares, products = (torch.as_tensor(each).double().cpu() for each in micro_batches[:2])
    if squares.ndim != 1 or squares.shape != products.shape or len(squares) < 4:
        raise ValueError(
            f"`micro_batches` must be two tensors of one shape (m,), of at least four gradients, got "
            f"{tuple(squares.shape)} and {tuple(products.shape)}."
        )
    count = len(squares)
    sums = (squares + 2 * products).cumsum(0)  # |S_j|^2
    earlier = torch.arange(1, count, dtype=torch.float64)
    past, product = sums[:-1], products[1:]
    new = (squares[1:] - 2 * product / earlier + past / earlier**2) * earlier / (earlier + 1)
    along = (product - past / earlier).square() / (earlier * (earlier + 1))  # (h_j . S_{j-1} / (j - 1))^2
    trace, wide = float(new.mean()), spread(new)
    norm = float(sums[-1]) / count**2 - trace / count
    if not norm > 0:
        return Estimate(math.inf if trace > 0 else math.nan, math.inf if trace > 0 else math.nan)
    factor = wide * math.sqrt(count - 1) / float(new.std()) if float(new.std()) > 0 else 1.0  # Student's
    of_trace = wide * (1 / norm + trace / (count * norm**2))
    of_norm = factor * 2 * math.sqrt(float(along.mean()) / count) * trace / norm**2
    return Estimate(trace / norm, math.hypot(of_trace, of_norm))


def rank_noise_scale(own: Tensor, averaged: Tensor, ranks: int) -> Estimate:
    r"""The simple noise scale from what one of several ranks sees of a few updates, without a word of the others.

    Of update t, with :math:`g_t` the rank's own gradient, of a batch like that of each, and :math:`G_t` the average
    over M ranks, these are unbiased:

    .. math:: \widehat{\operatorname{tr} \Sigma}_t = \frac{M}{M - 1} \big(|g_t|^2 - |G_t|^2\big), \qquad
              \widehat{|G|^2}_t = \frac{M |G_t|^2 - |g_t|^2}{M - 1}

    The scale is the ratio of their means, and its error the wider side of Fieller's interval, of all :math:`\mathcal B`
    for which the mean of :math:`\widehat{\operatorname{tr} \Sigma}_t - \mathcal B \, \widehat{|G|^2}_t` is within
    Student's error of 0.

    Args:
        own: :math:`|g_t|^2`. Shape ``(k,)``, of at least four updates.
        averaged: :math:`|G_t|^2`. Shape ``(k,)``.
        ranks: M.

    Returns:
        The ratio, in batches of one rank; times the examples in one, it is in examples. Its error is infinite where
        they are too few to tell the gradient from 0, and so may be the ratio.

    Raises:
        ValueError: If there are fewer than four updates or two ranks, or shapes differ.

    Example:
        >>> found = rank_noise_scale(torch.tensor([3.0, 4.0, 5.0, 4.0]), torch.tensor([2.0, 2.5, 3.0, 2.5]), ranks=2)
        >>> round(found.value, 4)  # 2 (4 - 2.5) / (2 * 2.5 - 4)
        3.0

    Reference:
        McCandlish et al. (2018), appendix A.1, eq. A.2, with B_small the batch of one rank and B_big that of all.
        Fieller, "Some problems in interval estimation", Journal of the Royal Statistical Society B 16 (1954).
    """
    if not all(
        isinstance(each, Tensor) and not each.is_complex() and bool((each >= 0).all()) for each in (own, averaged)
    ):
        raise ValueError(f"`own` and `averaged` must be tensors, real and not negative, got {own!r} and {averaged!r}.")
    own, averaged = own.double().cpu(), averaged.double().cpu()
    if own.ndim != 1 or own.shape != averaged.shape or len(own) < 4:
        raise ValueError(
            f"`own` and `averaged` must have one shape (k,), of at least four updates, got {tuple(own.shape)} and "
            f"{tuple(averaged.shape)}."
        )
    if isinstance(ranks, bool) or not hasattr(ranks, "__index__") or ranks < 2:
        raise ValueError(f"`ranks` must be an integer from 2 on, got {ranks!r}.")
    trace, norm = ranks * (own - averaged) / (ranks - 1), (ranks * averaged - own) / (ranks - 1)
    mean, square = float(trace.mean()), float(norm.mean())
    if not square > 0:
        return Estimate(math.inf, math.inf) if mean > 0 else Estimate(math.nan, math.nan)
    of_norm, of_trace, of_sum = ((1.96 * spread(each)) ** 2 for each in (norm, trace, norm + trace))
    clear = square**2 - of_norm
    if not clear > 0:
        return Estimate(mean / square, math.inf)
    middle = (mean * square - (of_sum - of_norm - of_trace) / 2) / clear
    half = math.sqrt(max(0.0, middle**2 - (mean**2 - of_trace) / clear))
    return Estimate(mean / square, (abs(middle - mean / square) + half) / 1.96)
