"""Plane waves and a Gaussian, whose transforms are known."""

import math

import pytest
import torch

from probes_fourier import radial_spectrum


def points(n: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.arange(n, dtype=torch.float64) / n


@pytest.mark.parametrize("wave", [(0, 5), (5, 0), (3, 4), (-4, 3)])
def test_plane_wave_has_all_its_weight_at_the_length_of_its_wave_vector(wave):
    y, x = points(32, 0, 1)[:, None], points(32, 0, 1)
    k, zeta = radial_spectrum(torch.sin(2 * math.pi * (wave[0] * y + wave[1] * x) + 1), ((0, 1), (0, 1)))
    assert k.tolist() == list(range(1, 17))
    assert zeta.argmax() == 4
    assert zeta[torch.arange(16) != 4].max() < 1e-13


def test_wave_numbers_are_in_cycles_per_unit_of_input():
    y, x = points(32, -1, 1)[:, None], points(32, 0, 2)
    k, zeta = radial_spectrum(torch.cos(2 * math.pi * 3 * x) + 0 * y, ((-1, 1), (0, 2)))
    assert k[:3].tolist() == [0.5, 1, 1.5] and k[-1] == 8
    assert k[zeta.argmax()] == 3


def test_spectrum_of_a_gaussian_is_that_of_its_closed_form():
    # f = exp(-pi r^2) has the transform exp(-pi k^2): zeta = 2 pi k exp(-pi k^2).
    y, x = points(128, -8, 8)[:, None], points(96, -6, 6)
    k, zeta = radial_spectrum(torch.exp(-math.pi * (x**2 + y**2)), ((-8, 8), (-6, 6)))
    expected = 2 * math.pi * k * torch.exp(-math.pi * k**2)
    # Within a ring the transform is averaged over bins of width 1/12, over which it bends by up to 1 %.
    low = k < 1.2
    torch.testing.assert_close(zeta[low], expected[low], rtol=0.05, atol=0.02)


def test_spectrum_of_a_gaussian_converges_with_the_size_of_the_box():
    errors = []
    for half in (4, 16):
        y, x = points(16 * half, -half, half)[:, None], points(16 * half, -half, half)
        k, zeta = radial_spectrum(torch.exp(-math.pi * (x**2 + y**2)), ((-half, half), (-half, half)))
        expected = 2 * math.pi * k * torch.exp(-math.pi * k**2)
        errors.append((zeta - expected).abs().max().item())
    assert errors[1] < 0.03 and errors[1] < errors[0] / 2, errors


def test_precision_of_the_spectrum_follows_the_values():
    assert radial_spectrum(torch.ones(8, 8), ((0, 1), (0, 1)))[1].dtype == torch.float32


def test_radial_spectrum_rejects_what_is_no_grid():
    with pytest.raises(ValueError, match=r"at least 4 by 4 points, got shape \(64,\)"):
        radial_spectrum(torch.zeros(64), ((0, 1), (0, 1)))


def test_radial_spectrum_rejects_an_empty_box():
    with pytest.raises(ValueError, match=r"`box` must be \(\(low, high\), \(low, high\)\) with low < high"):
        radial_spectrum(torch.zeros(8, 8), ((0, 1), (1, 1)))


def test_a_box_of_which_no_frequency_is_resolved_in_both_directions_is_refused():
    with pytest.raises(ValueError, match="sides of 1 and 100"):
        radial_spectrum(torch.randn(32, 32), ((0.0, 1.0), (0.0, 100.0)))
