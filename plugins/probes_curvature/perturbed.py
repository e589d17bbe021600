"""Sharpness as the rise of the loss under a perturbation: adaptive, as ASAM has it, and PAC-Bayes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probes.batches import seeded
from probes_ntk import Estimate, spread

from .objective import Objective, check_positive

__all__ = ["adaptive_sharpness", "pac_bayes_sharpness"]


def adaptive_sharpness(objective: Objective, rho: float = 0.5) -> float:
    r"""By how much the loss rises where adaptive sharpness-aware minimisation looks for its maximum.

    .. math:: \max_{|T_w^{-1} \epsilon| \le \rho} L(w + \epsilon) - L(w), \qquad T_w = \operatorname{diag} |w|, \qquad
              \epsilon \approx \rho\, \frac{T_w^2 \nabla L}{|T_w \nabla L|}

    It does not change when the weights of two layers are scaled so that the function stays the same. The maximum is
    taken to first order: what is found is a lower bound.

    Args:
        objective: The loss.
        rho: :math:`\rho`, relative to the parameters; 0.5 to 2 in the source.

    Returns:
        In the unit of the loss; 0 where the gradient is.

    Raises:
        ValueError: If ``rho`` is not positive.

    Cost: two forward passes and a backward pass.

    Example:
        >>> line = torch.nn.Linear(1, 1, bias=False)
        >>> _ = line.weight.data.fill_(2.0)
        >>> objective = Objective(line, lambda f, y: (f * y).mean(), torch.ones(1, 1), torch.ones(1, 1))
        >>> adaptive_sharpness(objective, 0.5)  # w may rise by half of it
        1.0

    Reference:
        Kwon, Kim, Park & Choi, "ASAM: Adaptive sharpness-aware minimization", ICML 2021, eq. 2 to 5 (the bias term
        eta is 0).
    """
    check_positive(rho=rho)
    scale = objective.point().abs()
    scaled = scale * objective.gradient()
    norm = float(scaled.double().norm())
    if norm == 0:
        return 0.0
    return objective.value_at(scale * scaled * (rho / norm), 1.0) - objective.value()


def pac_bayes_sharpness(
    objective: Objective,
    *,
    rise: float = 0.1,
    magnitude_aware: bool = False,
    draws: int = 10,
    searches: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""One over the variance of Gaussian noise on the parameters that makes the loss rise by so much on average.

    .. math:: 1 / \sigma^2, \qquad \mathbb{E}_{u \sim N(0,\, \sigma^2 I)} L(w + u) - L(w) = \delta

    or with :math:`u_i \sim N(0, \sigma^2 |w_i|^2)`, which does not depend on the scale of the parameters. On a
    quadratic it is :math:`\operatorname{Tr} H / (2 \delta)`. The source asks for the accuracy to fall by 0.1; any loss
    can be given, one minus the accuracy as well.

    Args:
        objective: The loss.
        rise: :math:`\delta`, in the unit of the loss.
        magnitude_aware: Whether noise is relative to each parameter.
        draws: Vectors of noise, the same ones for every sigma; from 2 on.
        searches: Values of sigma that are tried.
        generator: Of the noise, on the CPU; seeded with 0 by default.

    Returns:
        The value, which is 0 where no noise was found to do so. Its error holds the draws and what the search left
        open.

    Raises:
        ValueError: If ``rise`` is not positive, or there are too few draws or searches.

    Cost: ``draws * searches`` forward passes and a vector of P numbers for each draw.

    Example:
        >>> line = torch.nn.Linear(100, 1, bias=False)
        >>> _ = line.weight.data.zero_()
        >>> objective = Objective(line, lambda f, y: f.square().sum() / 2, torch.eye(100), torch.zeros(100))
        >>> found = pac_bayes_sharpness(objective)  # Tr H / 2 delta = 500
        >>> abs(found.value - 500) < 3 * found.standard_error < 200
        True

    Reference:
        Jiang, Neyshabur, Mobahi, Krishnan & Bengio, "Fantastic generalization measures and where to find them",
        ICLR 2020, section 4.4 and appendix C.
    """
    check_positive(rise=rise)
    if not (isinstance(draws, int) and draws >= 2 and isinstance(searches, int) and searches >= 3):
        raise ValueError(
            f"`draws` must be an integer from 2 on and `searches` from 3 on, got {draws!r} and {searches!r}."
        )
    generator = seeded(generator)
    point, here = objective.point(), objective.value()
    noise = [torch.randn(objective.size, generator=generator).to(point) for _ in range(draws)]
    if magnitude_aware:
        noise = [each * point.abs() for each in noise]

    def rises(sigma: float) -> Tensor:
        values = torch.tensor([objective.value_at(each, sigma) - here for each in noise], dtype=torch.float64)
        return values.nan_to_num(math.inf, math.inf, -math.inf)

    low = high = None
    sigma = 0.01 if magnitude_aware else 0.01 * max(float(point.double().norm()), 1e-3) / math.sqrt(objective.size)
    at: dict[float, Tensor] = {}
    for _ in range(searches):
        at[sigma] = rises(sigma)
        if float(at[sigma].mean()) > rise:
            high = sigma
        else:
            low = sigma
        if low is not None and high is not None:
            below, above = (float(at[each].mean()) for each in (low, high))
            # The rise goes as the square of sigma: a straight line on logarithmic scales.
            share = math.log(rise / below) / math.log(above / below) if below > 0 and above < math.inf else 0.5
            sigma = low * (high / low) ** min(max(share, 0.1), 0.9)
        else:
            mean = float(at[sigma].mean())
            guess = math.sqrt(rise / mean) if 0 < mean < math.inf else 0.0 if mean > 0 else math.inf
            # A little further, so that it comes to lie between.
            sigma *= min(max(1.2 * guess, 1.2), 64.0) if high is None else max(min(guess / 1.2, 1 / 1.2), 1 / 64)
    if high is None:
        return Estimate(0.0, math.inf)
    if low is None:
        return Estimate(math.inf, math.inf)
    # The mean rises as sigma^2, so that its relative error is that of 1 / sigma^2.
    open_ = (1 / low**2 - 1 / high**2) / 2
    mean = float(at[low].mean())
    relative = spread(at[low]) / mean if mean > 0 else math.inf  # else rounding is all that was seen
    return Estimate(1 / sigma**2, math.hypot(relative / sigma**2, open_))
