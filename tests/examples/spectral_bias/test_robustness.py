"""The criteria of Experiment 2."""

import numpy as np
import pytest

from examples.spectral_bias.robustness import EXPERIMENT, PRESETS, Retention

FREQUENCIES = np.arange(5.0, 35, 5)  # floats, as they come back from the files


def verdict(*at_three):
    settings = PRESETS["quick"].settings
    shares = [np.array([[1.0] * 6, [1.0] * 6, one]) for one in at_three]
    seeds = [Retention(np.array([0.0, 1.0, 3.0]), FREQUENCIES, share) for share in shares]
    (finding,) = EXPERIMENT.judge(settings, seeds)
    return finding.passed


FALLING = [0.98, 0.6, 0.4, 0.3, 0.25, 0.2]


@pytest.mark.parametrize(
    ("at_three", "passed"),
    [
        (FALLING, True),
        (FALLING[::-1], False),
        ([0.6, 0.5, 0.4, 0.3, 0.25, 0.2], False),  # in order, but close together
        ([0.98, 0.2, 0.25, 0.3, 0.4, 0.45], False),  # far apart, but not in order
    ],
)
def test_retention_must_fall_with_the_frequency(at_three, passed):
    assert verdict(*[np.array(at_three) + shift for shift in (0, 0.01, -0.01)]) is passed


def test_a_fall_that_could_be_chance_is_none():
    steep, rising = [2.4, *FALLING[1:]], [*FALLING[1:], 0.9]
    assert verdict(FALLING, FALLING, FALLING, FALLING) and not verdict(steep, steep, rising, rising)


def test_white_noise_fails():
    draws = np.random.default_rng(0).uniform(0, 1, (200, 4, 6))
    assert sum(verdict(*seeds) for seeds in draws) <= 2  # by chance, 1 in 100
