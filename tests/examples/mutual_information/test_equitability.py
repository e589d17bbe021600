"""Equitability: the truth by quadrature against independent references, and when the criteria pass."""

import math

import pytest
import torch

from examples.mutual_information import equitability
from examples.mutual_information.equitability import FUNCTIONS, PRESETS, information


def test_information_without_a_function_matches_the_entropy_of_a_trapezoid():
    # For small sigma Y is X but for its two edges: each adds sigma * c to the entropy log 2, c the integral of the
    # binary entropy of the normal distribution function.
    u = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    p = torch.special.ndtr(u)
    edge = torch.trapezoid(-torch.xlogy(p, p), u)
    for sigma in (0.05, 0.1):
        entropy = math.log(2) + sigma * float(edge)
        expected = entropy - math.log(2 * math.pi * math.e * sigma**2) / 2
        assert information("x", sigma) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_information_under_much_noise_is_that_of_a_weak_gaussian_signal(name):
    # I = var f(X) / (2 sigma²) - O(sigma⁻⁴)
    sigma = 30.0
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    variance = float(torch.trapezoid(FUNCTIONS[name](x) ** 2, x)) / 2
    assert information(name, sigma) == pytest.approx(variance / (2 * sigma**2), rel=1e-3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_information_matches_a_monte_carlo_mean_of_log_ratios(name):
    sigma = 0.3
    generator = torch.Generator().manual_seed(0)
    x, y = (side.flatten().double() for side in equitability.pairs(name, sigma, 5000, generator))
    grid = torch.linspace(-1, 1, 501, dtype=torch.float64)
    own = -(((y - FUNCTIONS[name](x)) / sigma) ** 2) / 2
    mixture = torch.exp(-(((y[:, None] - FUNCTIONS[name](grid)) / sigma) ** 2) / 2).mean(1)
    ratios = own - mixture.log()
    error = float(ratios.std()) / math.sqrt(len(ratios))
    assert information(name, sigma) == pytest.approx(float(ratios.mean()), abs=4 * error + 1e-3)


def test_information_at_equal_sigma_is_not_the_same_for_all_functions():
    values = [information(name, 0.5) for name in FUNCTIONS]
    assert max(values) > 1.5 * min(values)


def test_the_quick_preset_stays_where_a_bound_of_a_batch_can_be_trusted():
    assert all(2 * information(name, min(PRESETS["quick"].settings.sigmas)) <= 3 for name in FUNCTIONS)


def test_pairs_are_uniform_with_noise_of_sigma_in_every_coordinate():
    x, y = equitability.pairs("x³", 0.5, 50_000, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50_000, 2) and x.min() >= -1 and x.max() <= 1
    torch.testing.assert_close(x.var(0), torch.full((2,), 1 / 3), rtol=0, atol=0.01)
    torch.testing.assert_close((y - x**3).std(0), torch.full((2,), 0.5), rtol=0, atol=0.01)


TRUTHS = {(name, sigma): 2 * information(name, sigma) for name, sigma in equitability.cells(PRESETS["quick"].settings)}


def seed(error=0.0, other=0.0):
    found = {}
    for (name, sigma), truth in TRUTHS.items():
        found[f"{name}, {sigma:g}"] = {"truth": truth, "I(X; Y)": truth + error, "I(f(X); Y)": truth + error + other}
    return found


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([{}], True),
        ([{"error": -0.06, "other": 0.045}], True),
        ([{"error": 0.08}], False),
        ([{"error": -0.08}], False),
        ([{"other": 0.06}], False),
        ([{"error": 0.08}, {}, {}], False),
        ([{"error": 0.08}, {}, {}, {}, {}], True),
    ],
)
def test_judge(seeds, expected):
    findings = equitability.judge(PRESETS["quick"].settings, [seed(**one) for one in seeds])
    verdicts = [finding.passed for finding in findings if finding.passed is not None]
    assert verdicts == [expected] * 9
