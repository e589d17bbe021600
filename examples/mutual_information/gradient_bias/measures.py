"""The bias of a network that is held, that of one that moves, and what it does to the estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from probes_mine import DenseStatistics, LogMovingAverage, Mine, gaussian_mutual_information, log_mean_exp

from ..gaussians import pairs
from ..generative import generator_of
from .batch_gradient import batch_error, full_gradient, lag, norm
from .settings import Settings


def statistics_network(settings: Settings, seed: int) -> nn.Module:
    """A network that has been trained for a while."""
    torch.manual_seed(seed)
    d, draws = settings.dimensions, generator_of(seed, 0)
    mine = Mine(DenseStatistics(d, d, settings.hidden, nn.ELU, 0, 0), seed=seed)
    for _ in range(settings.trained_steps):
        mine.update(*pairs(settings.correlation, d, 128, draws))
    return mine.network.double()


def biases(
    settings: Settings, network: nn.Module, size: int, rates: Sequence[float], seed: int
) -> list[tuple[float, float]]:
    """Norm of the bias with averages of these rates over that of the gradient, and its standard error.

    All averages see the same batches; what they say before 3 / rate of them does not count.
    """
    d, draws = settings.dimensions, generator_of(seed, 1, size)
    joint, apart = (pairs(rho, d, settings.num_pairs, draws) for rho in (settings.correlation, 0.0))
    full = full_gradient(network, joint, apart)
    errors: list[list[Tensor]] = [[] for _ in rates]
    for _ in range(settings.groups):
        x, z = pairs(0.0, d, (int(3 / min(rates)) + settings.num_batches) * size, draws)
        for row, rate in zip(errors, rates, strict=True):
            skip = int(3 / rate)
            batches = [side.view(-1, size, d)[: skip + settings.num_batches] for side in (x, z)]
            row.append(batch_error(network, batches[0], batches[1], LogMovingAverage(rate), full, skip))
    return [norm(torch.stack(row), full.size) for row in errors]


def measure_bias(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    """Of the network that is held: at each batch size without and with the library's average, and at each rate."""
    network = statistics_network(settings, seed)
    both = (1.0, settings.rates[-1])
    by_size = [biases(settings, network, size, both, seed) for size in settings.batch_sizes]
    return {"by_size": by_size, "by_rate": biases(settings, network, settings.batch_size, settings.rates, seed)}


def measure_lag(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    """Of networks that have moved on: without an average, and with what one of their past is in the mean."""
    found = []
    for rate in settings.learning_rates:
        network, d, draws = statistics_network(settings, seed), settings.dimensions, generator_of(seed, 2)
        mine = Mine(network, rate=settings.rates[-1], optimizer=partial(torch.optim.Adam, lr=rate), seed=seed)
        joint, apart = (pairs(rho, d, settings.num_moved, draws) for rho in (settings.correlation, 0.0))
        average = LogMovingAverage(settings.rates[-1])
        for _ in range(settings.moved_steps):
            with torch.no_grad():
                log_average = average.update(log_mean_exp(network(apart[0].double(), apart[1].double())))
            x, z = pairs(settings.correlation, d, settings.batch_size, draws)
            mine.update(x.double(), z.double())
        late = lag(full_gradient(network, joint, apart), log_average)
        found.append([biases(settings, network, settings.batch_size, (1.0,), seed)[0], (late, 0.0)])
    return {"lag": found}


def measure_estimates(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    """Error of the information after training with small batches, without and with the average, on fresh pairs."""
    d, rho = settings.estimate_dimensions, settings.estimate_correlation
    truth, errors, useless = float(gaussian_mutual_information(torch.full((d,), rho))), [], []
    for rate in (None, settings.rates[-1]):
        torch.manual_seed(seed)
        mine = Mine(DenseStatistics(d, d, (64, 64), nn.ELU, 0, 0), rate=rate, seed=seed)
        draws = generator_of(seed, 3)
        for _ in range(settings.estimate_steps):
            mine.update(*pairs(rho, d, settings.estimate_batch, draws))
        found = mine.estimate(*pairs(rho, d, 20_000, generator_of(seed, 4)))
        errors.append(abs(found.value - truth))
        useless.append("useless" in found.flags)  # below zero, and told as zero: the error is the truth at least
    return {"errors": errors, "useless": useless}


MEASURES = {"bias": measure_bias, "lag": measure_lag, "estimates": measure_estimates}
