"""Critical sharpness: how far one may go along the gradient before the loss rises, from forward passes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .objective import MEMORY, Loss, Objective, check_positive

__all__ = ["CriticalSharpness", "critical_sharpness", "critical_sharpness_of"]

WIDER = 4.0
"""Factor from one trial to the next, as long as the loss has not been seen on both sides."""
NUDGE = 0.01
"""By how much of it a trial goes beyond where the loss is thought to come back, so that it comes to lie between."""


class CriticalSharpness(NamedTuple):
    """What a few forward passes say of the curvature along a direction."""

    value: float
    r""":math:`\\lambda_c = 2 / \\eta_c`, in the unit of the loss over the squared unit of the parameters. 0 where the
    loss did not rise however far it was looked for, NaN where it rises and was never seen to fall."""
    standard_error: float
    """Half the distance of the two values that it was seen to lie between: a bound, not a spread; infinite where it
    was not bracketed."""
    learning_rate: float
    r""":math:`\\eta_c`, in multiples of the direction."""
    forward_passes: int
    """That were taken, the one at w included."""


def critical_sharpness(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    direction: Tensor | None = None,
    learning_rate: float | None = None,
    output: Callable[[Any], Tensor] | None = None,
    forward_passes: int = 10,
    memory: float = MEMORY,
) -> CriticalSharpness:
    r"""Two over the smallest step along the gradient that makes the loss rise.

    .. math:: \lambda_c = 2 / \eta_c, \qquad \eta_c = \min \{ \eta > 0 : L(w - \eta\, d) > L(w) \}, \qquad d = \nabla L

    Where the loss is quadratic along it this is :math:`d^\top H d \,/\, d \cdot \nabla L`: of the gradient, the mean of
    the eigenvalues of the Hessian, weighted by the squared share that the gradient has in each eigenvector, and never
    above the largest. Training is at the edge of stability along d where it reaches 2 / learning rate.

    The step is looked for on a logarithmic scale and then as the root of :math:`(L(w - \eta d) - L(w)) / \eta`, which
    is a straight line for a quadratic. Where the loss rises, falls and rises again, one of these places is found.

    Args:
        model: As for :func:`hessian_eigenvalues`.
        loss: Of the outputs and the targets, a scalar.
        inputs: As the model takes them.
        targets: As ``loss`` takes them.
        direction: d; w - d is where it leads. Shape ``(P,)``; by default the gradient, by a backward pass.
        learning_rate: Where to look first, as that of the loop; by default from the length of d and of w.
        output: Picks the output tensor from what the model returns.
        forward_passes: At most, from 3 on.
        memory: Bytes for the graph of the gradient.

    Raises:
        ValueError: If ``forward_passes`` or ``learning_rate`` is too small, or ``direction`` of another size.
        CannotMeasure: As :class:`Objective`.

    Cost: at most ten forward passes; beside them a backward pass for the gradient, and a copy of the parameters.

    Example:
        >>> import torch
        >>> line = nn.Linear(1, 1, bias=False)
        >>> x, y = torch.full((1, 1), 2.0), torch.zeros(1, 1)
        >>> found = critical_sharpness(line, nn.functional.mse_loss, x, y)  # L = 4 w^2
        >>> abs(found.value - 8.0) <= found.standard_error < 0.2
        True

    Reference:
        Kalra et al., "A scalable measure of loss landscape curvature for analyzing the training dynamics of LLMs",
        arXiv:2601.16979: the quantity, and that it takes fewer than ten forward passes.
    """
    objective = Objective(model, loss, inputs, targets, output=output, memory=memory)
    way = objective.gradient() if direction is None else direction
    return critical_sharpness_of(objective, way, learning_rate=learning_rate, forward_passes=forward_passes)


def critical_sharpness_of(
    objective: Objective, direction: Tensor, *, learning_rate: float | None = None, forward_passes: int = 10
) -> CriticalSharpness:
    """The same of an objective.

    Args:
        objective: The loss.
        direction: d; w - d is where it leads. Shape ``(P,)``.
        learning_rate: Where to look first.
        forward_passes: At most, from 3 on.

    Raises:
        TypeError, ValueError: If ``forward_passes`` or ``learning_rate`` is too small, or ``direction`` of another size
            or no tensor.
    """
    if not isinstance(forward_passes, int) or forward_passes < 3:
        raise ValueError(f"`forward_passes` must be an integer from 3 on, got {forward_passes!r}.")
    if learning_rate is not None:
        check_positive(learning_rate=learning_rate)
        learning_rate = float(learning_rate)
    if not isinstance(direction, Tensor) or direction.is_complex():
        raise TypeError(
            f"`direction` must be a real tensor of shape ({objective.size},), got {type(direction).__name__}."
        )
    if direction.shape != (objective.size,):
        raise ValueError(f"`direction` must have shape ({objective.size},), got {tuple(direction.shape)}.")
    length = float(direction.double().norm())
    here = objective.value()
    if not (length > 0 and math.isfinite(length) and math.isfinite(here)):
        return CriticalSharpness(math.nan, math.inf, math.nan, 1)
    used, noise = 1, 4 * torch.finfo(objective.dtype).eps * abs(here)  # what rounding makes of a difference

    def slope(rate: float) -> float:
        """The rise of the loss over the step, for a quadratic a straight line; infinite where it is not a number."""
        nonlocal used
        used += 1
        there = objective.value_at(direction, -rate)
        if abs(there - here) <= noise:
            return 0.0
        return (there - here) / rate if math.isfinite(there) else math.inf

    # The first trial moves w by a hundredth of its length, or as far as the loop does, which may be far too little.
    usual = 0.01 * max(float(objective.point().double().norm()), 1e-3) / length
    rate = learning_rate or usual
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    while used < forward_passes and (low is None or high is None):
        rise = slope(rate)
        if rise > 0:
            high = (rate, rise)
        else:
            low = (rate, rise)
        rate = (max(rate * WIDER, usual) if high is None else rate * WIDER) if rise <= 0 else rate / WIDER
    if high is None:
        return CriticalSharpness(0.0, math.inf, math.inf, used)
    if low is None:
        return CriticalSharpness(math.nan, math.inf, math.nan, used)
    while used < forward_passes and high[0] / low[0] > 1 + 2.5 * NUDGE:
        between = math.sqrt(low[0] * high[0])
        if math.isfinite(high[1]) and low[1] < 0:
            root = low[0] - low[1] * (high[0] - low[0]) / (high[1] - low[1])
            # Beyond the root as seen from the nearer end, so that what is between gets narrow from both.
            root *= 1 + NUDGE if root / low[0] < high[0] / root else 1 - NUDGE
            between = root if low[0] < root < high[0] else between
        rise = slope(between)
        if rise > 0:
            high = (between, rise)
        else:
            low = (between, rise)
    if low[1] == 0:  # it was seen to rise, never to fall by more than rounding
        return CriticalSharpness(math.nan, math.inf, math.nan, used)
    rate = low[0] - low[1] * (high[0] - low[0]) / (high[1] - low[1]) if math.isfinite(high[1]) else low[0]
    bounds = 2 / low[0], 2 / high[0]
    value = min(max(2 / rate, bounds[1]), bounds[0]) if rate > 0 else sum(bounds) / 2
    return CriticalSharpness(value, max(bounds[0] - value, value - bounds[1]), 2 / value, used)
