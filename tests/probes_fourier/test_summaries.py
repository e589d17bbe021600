"""Spectra of two lines, whose means one can check in the head."""

import math

import torch

from probes_fourier import half_amplitude_steps, power_below, spectral_centroid


def test_centroid_of_one_line_is_its_frequency():
    assert spectral_centroid(torch.tensor([0.0, 0.0, 7.0]), [1, 2, 30]).item() == 30


def test_centroid_is_invariant_to_the_scale_of_the_function():
    power = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(spectral_centroid(power, range(5)), spectral_centroid(9 * power, range(5)))


def test_centroid_is_the_weighted_mean_of_each_row():
    measured = spectral_centroid(torch.tensor([[1.0, 1.0], [1.0, 3.0]]), torch.tensor([10, 20]))
    assert measured.tolist() == [15.0, 17.5]


def test_power_below_includes_the_cutoff():
    power = torch.tensor([1.0, 2.0, 5.0])
    assert [power_below(power, [1, 2, 3], cutoff).item() for cutoff in (0, 1, 2.5, 3)] == [0, 0.125, 0.375, 1]


def test_summaries_of_no_power_are_not_a_number():
    assert math.isnan(spectral_centroid(torch.zeros(2), [1, 2]).item())
    assert math.isnan(power_below(torch.zeros(2), [1, 2], 1).item())


def test_half_amplitude_steps_are_the_first_ones_and_stay_when_the_amplitude_falls_again():
    amplitudes = torch.tensor([[0.5, 0.0, 0.1], [0.2, 0.7, 0.2], [0.9, 0.1, 0.4]])
    steps = half_amplitude_steps([0, 100, 300], amplitudes)
    assert steps.tolist() == [0, 100, math.inf]


def test_half_amplitude_steps_follow_the_level():
    amplitudes = torch.tensor([[0.1], [0.6], [0.95]])
    assert half_amplitude_steps([1, 2, 3], amplitudes, level=0.9).tolist() == [3]


def test_power_that_is_counted_in_integers_is_no_other():
    power, k = torch.tensor([[3, 1], [1, 3]]), [0.5, 1.5]
    assert spectral_centroid(power, k).tolist() == [0.75, 1.25]
    assert power_below(power, k, 0.75).tolist() == [0.75, 0.25]
