"""The criteria of Figs. 3.6 and A.3."""

import numpy as np
import pytest

from examples.spectral_bias.kernel_frequencies import PRESETS, Eigenvectors, Settings, judge, read

SETTINGS = PRESETS["quick"].settings


def found(settings: Settings = SETTINGS) -> Eigenvectors:
    return read(settings, None, 0)


def verdicts(seed: Eigenvectors) -> list[bool | None]:
    return [finding.passed for finding in judge(SETTINGS, [seed])]


def test_a_narrow_kernel_on_equally_spaced_points_passes():
    assert verdicts(found()) == [True, True]


def test_eigenvectors_in_another_order_fail():
    seed = found()
    shuffled = seed.vectors[:, np.random.default_rng(1).permutation(SETTINGS.num_points)]
    assert verdicts(Eigenvectors(shuffled, seed.shuffled)) == [False, False]


def test_a_control_that_is_not_shuffled_fails():
    seed = found()
    assert verdicts(Eigenvectors(seed.vectors, np.arange(len(seed.shuffled)))) == [False, True]


@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_a_kernel_so_wide_that_eigenvectors_are_rounding_fails(sigma):
    assert verdicts(found(Settings(sigma=sigma))) == [False, False]


def test_white_noise_fails():
    noise = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    assert verdicts(Eigenvectors(noise, found().shuffled)) == [False, False]
