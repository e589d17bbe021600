"""The criterion of Fig. A.13e."""

import numpy as np
import pytest

from examples.spectral_bias.neighbours import PRESETS, Result, judge, nearest, spectrum
from examples.spectral_bias.waves import samples, square

SETTINGS = PRESETS["quick"].settings
WAVE_NUMBER = np.arange(1, 101) / 3.2


def result(network: float = -1.0, neighbours: float = -0.3, one: float = -0.3, fitted: float = 0.95) -> Result:
    """Spectra that fall with these exponents; of one K with another."""
    fall = {k: WAVE_NUMBER**neighbours for k in SETTINGS.neighbours} | {10: WAVE_NUMBER**one}
    accuracy = {k: np.full((3, 3), 0.8) for k in SETTINGS.panels}
    return Result(accuracy, WAVE_NUMBER, fall, WAVE_NUMBER**network, fitted)


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (result(), True),
        (result(network=-0.3, neighbours=-1.0, one=-1.0), False),  # exchanged
        (result(network=-0.5), False),
        (result(one=-0.8), False),  # one K is nearly as smooth
        (result(fitted=0.72), False),  # a network that does not fit may be as smooth as it likes
        (result(network=0.0, neighbours=0.0, one=0.0), False),  # all white
    ],
)
def test_the_network_must_decay_faster_than_every_k(found, passed):
    assert [finding.passed for finding in judge(SETTINGS, [found])] == [passed, None, None]


def test_a_permuted_frequency_axis_fails():
    found = result()
    order = np.random.default_rng(0).permutation(len(WAVE_NUMBER))
    zeta = {k: found.zeta[k][order] for k in found.zeta}
    assert judge(SETTINGS, [Result(found.accuracy, WAVE_NUMBER, zeta, found.network[order], 0.95)])[0].passed is False


def test_where_the_network_is_as_k_1_their_ratio_is_one():
    found = judge(SETTINGS, [result(network=-0.3)])[1]
    assert np.allclose(found.values, 1) and "mean 1.00" in found.measured


def test_no_vote_of_the_quick_preset_is_tied_at_every_sample():
    assert all(SETTINGS.num_points % frequency for frequency in SETTINGS.frequencies)


def test_the_nearest_sample_of_a_sample_is_itself():
    given = samples(50, 5, 4, 0)
    assert (nearest(1, given, given.images).numpy() == given.labels[:, 0].numpy()).all()


def test_a_wave_on_the_square_has_its_energy_at_its_wave_number():
    points = square(64)
    k, zeta = spectrum((2 * np.pi * 5 / 3.2 * points[:, 0]).sin(), 64)
    assert k[zeta.argmax()] == pytest.approx(5 / 3.2)
