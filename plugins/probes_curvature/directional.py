"""Directional sharpness: the curvature of the loss along a direction, from forward passes alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probes_ntk import Estimate

from .objective import Objective

__all__ = ["directional_sharpness"]

STEP = 1e-3
"""Of the first points, in lengths of w."""


def directional_sharpness(objective: Objective, direction: Tensor) -> Estimate:
    r"""The curvature of the loss along a direction d.

    .. math:: \frac{d^\top H d}{|d|^2} \approx \frac{L(w + h \hat d) - 2 L(w) + L(w - h \hat d)}{h^2},
              \qquad \hat d = d / |d|

    From two steps, h and 2 h, the error of second order is taken off (Richardson); a third of what that changes is the
    stated error, with what rounding makes of the differences. Along the gradient this is what critical sharpness is
    for small steps. Of a network of ReLU the differences see the kinks between the points; the Hessian does not.

    Args:
        objective: The loss; in float64 the differences hold, in float32 some digits.
        direction: d. Shape ``(P,)``.

    Returns:
        The value and its error, NaN for a direction of length 0.

    Cost: five forward passes.

    Example:
        >>> line = torch.nn.Linear(2, 1, bias=False).double()
        >>> x, y = torch.eye(2).double(), torch.zeros(2, 1).double()
        >>> objective = Objective(line, torch.nn.functional.mse_loss, x, y)  # L = |w|^2 / 2
        >>> round(directional_sharpness(objective, torch.tensor([3.0, 4.0])).value, 6)
        1.0

    Reference:
        Pan & Li, "Toward understanding why Adam converges faster than SGD for transformers", arXiv:2306.00204 (2023),
        where directional sharpness is that of the update.
    """
    length = float(direction.double().norm())
    if not (length > 0 and math.isfinite(length)):
        return Estimate(math.nan, math.nan)
    way = direction / length
    step = STEP * max(float(objective.point().double().norm()), 1e-3)
    here = objective.value()
    once, twice = (
        (objective.value_at(way, h) - 2 * here + objective.value_at(way, -h)) / h**2 for h in (step, 2 * step)
    )
    rounding = 4 * abs(here) * torch.finfo(objective.dtype).eps / step**2
    return Estimate((4 * once - twice) / 3, abs(once - twice) / 3 + rounding)
