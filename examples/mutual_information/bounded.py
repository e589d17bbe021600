"""MINE of given samples, with a statistics network as Theorem 5.5 has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from probes_mine import DenseStatistics, Mine

from .generative import generator_of


class Training(Protocol):
    """What of the settings training asks for."""

    @property
    def radius(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def steps(self) -> int: ...


class Bounded(nn.Module):
    """A statistics network between two bounds."""

    def __init__(self, network: nn.Module, bound: float) -> None:
        super().__init__()
        self.network, self.bound = network, bound

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.bound * torch.tanh(self.network(x, z) / self.bound)
        return out


def fit(settings: Training, x: Tensor, z: Tensor, seed: int, hidden: Sequence[int], bound: float) -> Mine:
    """Of these samples, the maximum of eq. 11 as far as so many steps reach; all parameters stay within a ball.

    The learning rate falls to zero, so that what is left of the error is that of the samples.
    """
    torch.manual_seed(seed)
    network = Bounded(DenseStatistics(x.shape[1], z.shape[1], hidden, nn.ELU, 0, 0), bound)
    adam = partial(torch.optim.Adam, lr=settings.learning_rate)
    mine, draws = Mine(network, optimizer=adam, seed=seed), generator_of(seed, 0)
    parameters = list(network.parameters())
    for step in range(settings.steps):
        mine.optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
        chosen = torch.randint(len(x), (settings.batch_size,), generator=draws)
        if len(x) <= settings.batch_size:
            chosen = torch.arange(len(x))
        mine.update(x[chosen], z[chosen])
        with torch.no_grad():
            size = float(torch.stack([one.norm() for one in parameters]).norm())
            if size > settings.radius:
                for parameter in parameters:
                    parameter.mul_(settings.radius / size)
    return mine


def samples_asked(
    hidden: Sequence[int], bound: float, radius: float, error: float, confidence: float = 0.05, lipschitz: float = 1.0
) -> float:
    """The number of samples of eq. 15, of pairs of numbers.

    Args:
        hidden: Units of the hidden layers.
        bound: Of the size of T, so that M is its exponential.
        radius: K, of the ball that holds the parameters.
        error: How near to be, in nats.
        confidence: delta, the probability that it is not so.
        lipschitz: L, of T by its parameters; only its logarithm counts.
    """
    d, m = sum((before + 1) * after for before, after in pairwise((2, *hidden, 1))), math.exp(bound)
    logarithm = math.log(16 * radius * lipschitz * d**0.5 / error)
    return 2 * m**2 * (d * logarithm + 2 * d * m + math.log(2 / confidence)) / error**2
