"""Bounds with a known density of the noise: closed forms, a naive sum, and the order of the bounds."""

import math

import pytest
import torch

from probes_mine import noisy_channel_information


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matches_densities_summed_one_by_one():
    features, noise, std = draw(12, 2, 3), draw(12, 2, 3, seed=1), 1.5
    t = features + std * noise
    lower = upper = 0.0
    for i in range(12):
        density = [
            float(torch.distributions.Normal(features[j], std).log_prob(t[i]).sum().exp()) for j in range(12)
        ]  # fmt: skip
        lower += math.log(density[i] / (sum(density) / 12)) / 12
        upper += math.log(density[i] / ((sum(density) - density[i]) / 11)) / 12
    found = noisy_channel_information(features, noise, std)
    assert float(found.lower) == pytest.approx(lower, rel=1e-9)
    assert float(found.upper) == pytest.approx(upper, rel=1e-9)


@pytest.mark.parametrize(("d", "std"), [(1, 1.0), (1, 0.3), (3, 1.0)])
def test_bounds_enclose_that_of_a_gaussian_channel(d, std):
    exact = d / 2 * math.log(1 + 1 / std**2)
    found = noisy_channel_information(draw(3000, d), draw(3000, d, seed=1), std)
    assert float(found.lower - 3 * found.lower_error) < exact < float(found.upper + 3 * found.upper_error)
    assert float(found.upper - found.lower) < 0.1


def test_without_overlap_the_bounds_say_nothing():
    found = noisy_channel_information(draw(50, 20), draw(50, 20, seed=1), 1e-3)
    assert float(found.lower) == pytest.approx(math.log(50))
    assert float(found.upper) > 1e5


def test_where_the_middle_is_does_not_matter():
    features, noise = draw(100, 2), draw(100, 2, seed=1)
    expected = noisy_channel_information(features, noise, 0.1)
    moved = noisy_channel_information(features + 1e7, noise, 0.1)
    assert float(moved.lower) == pytest.approx(float(expected.lower), rel=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="positive"):
        noisy_channel_information(draw(5, 1), draw(5, 1), 0.0)
    with pytest.raises(ValueError, match=r"same shape.*\(5, 1\) and \(4, 1\)"):
        noisy_channel_information(draw(5, 1), draw(4, 1), 1.0)
