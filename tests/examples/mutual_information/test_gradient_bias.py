"""The bias of MINE's gradient: how it is measured, and when the criteria of eq. 12 pass."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from examples.mutual_information.gaussians import pairs
from examples.mutual_information.gradient_bias.batch_gradient import batch_error, full_gradient, lag, norm
from examples.mutual_information.gradient_bias.experiment import PRESETS
from examples.mutual_information.gradient_bias.measures import measure_bias
from examples.mutual_information.gradient_bias.results import judge
from probes_mine import LogMovingAverage

SETTINGS = PRESETS["quick"].settings


class Network(nn.Module):
    """Two parameters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.2], dtype=torch.float64))

    def forward(self, x, z):
        return self.weight[0] * (x * z).sum(1) + self.weight[1] * (x**2).sum(1)


def gradients(network, x, z):
    """Of each pair: e^T, and the gradient of T times it."""
    features = np.stack([(x * z).sum(-1), (x**2).sum(-1)], -1)
    weight = np.exp(features @ network.weight.detach().numpy())
    return weight, features * weight[..., None]


@pytest.mark.parametrize(("rate", "skip"), [(1.0, 0), (0.3, 2)])
def test_error_of_batches_is_that_of_eq_12_batch_by_batch(rate, skip):
    network, draws = Network(), torch.Generator().manual_seed(0)
    joint, apart = pairs(0.5, 2, 500, draws), pairs(0.0, 2, 500, draws)
    full = full_gradient(network, joint, apart)
    x, z = (side.view(7, 10, 2) for side in pairs(0.0, 2, 70, draws))
    found = batch_error(network, x, z, LogMovingAverage(rate), full, skip)

    b_all, a_all = (part.mean(0) for part in gradients(network, *(side.double().numpy() for side in apart)))
    weights, products = gradients(network, x.double().numpy(), z.double().numpy())
    moving, total, errors = 0.0, 0.0, []
    for number in range(7):
        a, b = products[number].mean(0), weights[number].mean()
        moving, total = (1 - rate) * moving + rate * b, (1 - rate) * total + rate
        m = moving / total
        errors.append(-(a / m - a / b_all + (m / b_all - 1) * a_all / b_all))
    np.testing.assert_allclose(found, np.mean(errors[skip:], 0), rtol=1e-5, atol=1e-12)  # pairs are float32
    xy, xx = (side.double().numpy() for side in joint)
    features = np.stack([(xy * xx).sum(1), (xy**2).sum(1)], 1).mean(0)
    assert full.size == pytest.approx(np.linalg.norm(features - a_all / b_all))


def test_lag_is_what_another_denominator_adds_to_the_gradient():
    network, draws = Network(), torch.Generator().manual_seed(0)
    joint, apart = pairs(0.5, 2, 500, draws), pairs(0.0, 2, 500, draws)
    full = full_gradient(network, joint, apart)
    weights, products = gradients(network, *(side.double().numpy() for side in apart))
    error = products.mean(0) / (2 * weights.mean()) - products.mean(0) / weights.mean()
    found = lag(full, full.log_mean + math.log(2))
    assert found == pytest.approx(np.linalg.norm(error) / full.size)


def test_norm_of_pure_noise_is_lost_and_one_of_a_mean_is_found_in_it():
    noise = torch.randn(200, 10, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = [norm(errors, 1.0) for errors in noise]
    assert np.mean([value > 2 * error for value, error in alone]) < 0.1
    mean = torch.zeros(50).double()
    mean[0] = 3.0
    found = np.array([norm(errors + mean, 2.0) for errors in noise])
    assert found[:, 0].mean() == pytest.approx(1.5, abs=0.03)  # where noise alone would add 5 to a square of 9
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.3)


SMALL = replace(
    SETTINGS, hidden=(8,), trained_steps=200, batch_sizes=(16, 32), num_batches=400, groups=4, num_pairs=20_000
)


@pytest.mark.parametrize(("rate", "passes"), [(0.01, True), (1.0, False)])
def test_a_moving_average_passes_and_one_of_the_last_batch_alone_does_not(rate, passes):
    settings = replace(SMALL, rates=(0.5, rate))
    assert judge(settings, [seed(**measure_bias(settings, 0))])[1].passed is passes


SIZES, RATES = np.array(SETTINGS.batch_sizes), np.array(SETTINGS.rates)


def norms(values, error=0.01):
    return np.stack([values, error * np.asarray(values)], -1)


def seed(by_size=None, by_rate=None, lag=(1.0, 0.3, 0.1, 0.02), errors=(0.3, 0.2)):
    pair = norms(np.stack([1 / SIZES, 0.01 / SIZES], 1)) if by_size is None else np.asarray(by_size)
    moved = norms(np.stack([np.full(4, 0.1), 0.1 * np.asarray(lag)], 1))
    return {
        "by_size": pair,
        "by_rate": norms(0.03 * RATES) if by_rate is None else np.asarray(by_rate),
        "lag": moved,
        "errors": np.array(errors),
        "useless": np.array([True, False]),
    }


def sized(plain, other, error=0.01):
    return norms(np.stack([plain, other], 1), error)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 5),
        ({"by_size": sized(SIZES**-0.5, 0.01 / SIZES)}, [False, True, True, True, True]),  # noise
        ({"by_size": sized(1 / SIZES, 1 / SIZES)}, [True, False, True, True, True]),  # no average
        ({"by_size": sized(1 / SIZES, 0.08 / SIZES, 0.3)}, [True, False, True, True, True]),  # within its error
        ({"by_rate": norms(np.full(4, 0.01))}, [True, True, False, True, True]),
        ({"by_rate": norms([0.01, 0.003, 0.001, 0.0])}, [True, True, False, True, True]),  # lost in noise
        ({"lag": (1.0, 1.0, 1.0, 1.0)}, [True, True, True, False, True]),
        ({"errors": (0.2, 0.3)}, [True, True, True, True, False]),
        ({"errors": (0.2, 0.2)}, [True, True, True, True, False]),
    ],
)
def test_criteria_of_eq_12(changed, expected):
    seeds = [seed(**changed) for _ in range(3)]
    seeds[0]["errors"] = seeds[0]["errors"] + [0.01, 0.0]
    if "errors" in changed:
        seeds[0]["errors"] = np.array(changed["errors"])
    assert [finding.passed for finding in judge(SETTINGS, seeds)] == expected
