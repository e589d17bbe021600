"""The criteria of the kernel P_gamma, eq. 14 and 15."""

import dataclasses

import numpy as np
import pytest
import torch

from examples.spectral_bias.paths import EXPERIMENT, PRESETS, curve, measure, reach
from probes_fourier import grid

SETTINGS = dataclasses.replace(PRESETS["quick"].settings, num_points=1024)


@pytest.fixture(scope="module")
def seed():
    return {name: np.asarray(array) for name, array in measure(SETTINGS, 0).items()}


def verdicts(seed):
    return [finding.passed for finding in EXPERIMENT.judge(SETTINGS, [seed])]


def test_reach_is_that_of_stationary_phase(seed):
    assert verdicts(seed) == [True, True, True]


def test_reach_fails_with_a_permuted_axis_of_frequencies(seed):
    permuted = np.random.default_rng(0).permutation(seed["energy"].shape[-1])
    assert verdicts({**seed, "energy": seed["energy"][..., permuted]})[:2] == [False, False]


def test_reach_fails_for_white_noise(seed):
    assert verdicts({**seed, "energy": np.ones_like(seed["energy"])})[:2] == [False, False]


def test_reach_fails_when_petals_are_exchanged(seed):
    assert verdicts({**seed, "energy": seed["energy"][::-1]})[:2] == [False, False]


def test_reach_fails_with_the_factor_two_pi_forgotten(seed):
    assert not verdicts({**seed, "speed": 2 * np.pi * seed["speed"]})[0]


def test_reach_is_the_lowest_frequency_that_holds_the_share():
    assert reach([0.5, 0.4, 0.1], 0.5) == 0 and reach([0.5, 0.4, 0.1], 0.89) == 1 and reach([0.5, 0.4, 0.1], 0.99) == 2


def test_derivative_of_the_curve_is_that_of_its_points():
    z = grid(4096).double()
    points, derivative = curve(4, z)
    difference = (points.roll(-1, 0) - points.roll(1, 0)) * 2048
    # The central difference is off by h^2 / 6 times the third derivative, (2 pi 5)^3.
    torch.testing.assert_close(derivative, difference, rtol=0, atol=1e-3)
