"""The gradient of MINE with its bias corrected by a moving average, kept in logarithms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .bounds import log_mean_exp

__all__ = ["LogMovingAverage", "mine_surrogate"]


class LogMovingAverage:
    r"""Exponential moving average of positive numbers that are given, kept and returned as logarithms.

    .. math:: a_t = (1 - r) a_{t-1} + r e^{v_t}, \quad a_0 = 0, \qquad \log \frac{a_t}{1 - (1 - r)^t}

    The last is returned: divided by the weight of what has been averaged, the first value is the first average.

    Args:
        rate: r, the weight of a new value. 1 keeps the last value only.

    Raises:
        ValueError: If ``rate`` is not in (0, 1].

    Example:
        >>> average = LogMovingAverage(0.5)
        >>> _ = average.update(torch.tensor(0.0))
        >>> round(average.update(torch.tensor(math.log(4.0))).exp().item(), 4)  # (0.25 + 0.5 * 4) / 0.75
        3.0
    """

    def __init__(self, rate: float = 0.01) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"`rate` must be the weight of a new value, in (0, 1], got {rate!r}.")
        self.rate = rate
        self._log: Tensor | None = None
        self._count = 0

    @torch.no_grad()
    def update(self, value: Tensor) -> Tensor:
        """Take the logarithm of a new number; returns the logarithm of the average, without gradient."""
        new = value.detach() + math.log(self.rate)
        if self._log is None or self.rate == 1:
            self._log = new
        else:
            self._log = torch.logaddexp(self._log.to(new) + math.log1p(-self.rate), new)
        self._count += 1
        weight = 1.0 if self.rate == 1 else -math.expm1(self._count * math.log1p(-self.rate))
        return self._log - math.log(weight)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a resume."""
        return {"log": self._log, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._log, self._count = state["log"], state["count"]


def mine_surrogate(joint: Tensor, marginal: Tensor, average: LogMovingAverage) -> Tensor:
    r"""What to maximize so that the gradient is that of MINE with the denominator from a moving average.

    .. math:: \widehat G = \mathbb E_B[\nabla T]
              - \frac{\mathbb E_B[\nabla T \, e^T]}{\operatorname{EMA}(\mathbb E_B[e^T])}

    Its value means nothing: report :func:`donsker_varadhan_bound` of the same numbers. The second fraction is at most
    1 / rate however much the critic jumps, for the average holds the batch itself.

    Args:
        joint: Of a batch, shape ``(n,)``.
        marginal: Of a batch, any shape.
        average: Updated by this batch; with rate 1 the gradient is that of the bound, biased.

    Returns:
        Shape ``()``, to be differentiated.

    Example:
        >>> t = torch.zeros(2, requires_grad=True)
        >>> mine_surrogate(t, 3 * t, LogMovingAverage()).backward()  # 1/2 - 3/2 each
        >>> t.grad.tolist()
        [-1.0, -1.0]

    Reference:
        Belghazi et al. (2018), section 3.2; Baratin (2021), chapter 5, eq. 12.
    """
    log_mean = log_mean_exp(marginal)
    return joint.mean() - (log_mean - average.update(log_mean)).exp()
