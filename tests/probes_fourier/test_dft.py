"""Sums of sines, whose coefficients are known, and a naive sum over the definition in Python's own complex numbers."""

import cmath
import math

import pytest
import torch

from probes_fourier import amplitude, fourier_coefficients, grid, segment_points


@pytest.fixture
def sines() -> torch.Tensor:
    z = grid(200, torch.float64)
    return 0.3 + 2 * torch.sin(2 * math.pi * 5 * z + 0.7) + 0.5 * torch.sin(2 * math.pi * 50 * z + 2)


def naive(values: torch.Tensor, k: float) -> complex:
    f = values.tolist()
    return sum(f[j] * cmath.exp(-2j * math.pi * k * j / len(f)) for j in range(len(f))) / len(f)


def test_grid_leaves_out_the_end_point():
    assert grid(5, torch.float64).tolist() == [0, 0.2, 0.4, 0.6, 0.8]


def test_amplitudes_of_a_sum_of_sines_are_its_amplitudes(sines):
    k = [0, 1, 5, 10, 50, 100]
    measured = amplitude(fourier_coefficients(sines, k), k, 200)
    expected = torch.tensor([0.3, 0, 2, 0, 0.5, 0], dtype=torch.float64)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-13)


def test_phase_of_a_sine_is_that_of_its_coefficient(sines):
    # A sin(a) = Re(-i A e^{ia}): the coefficient of e^{2 pi i k z} is -i A e^{i phi} / 2.
    c = fourier_coefficients(sines, [5])[0].item()
    assert c == pytest.approx(-1j * cmath.exp(0.7j), rel=1e-12)


def test_amplitude_at_the_nyquist_frequency_is_not_doubled():
    values = 3 * torch.cos(2 * math.pi * 4 * grid(8, torch.float64))
    assert amplitude(fourier_coefficients(values, [4]), [4], 8).item() == pytest.approx(3)


@pytest.mark.parametrize("num_points", [7, 64])
@pytest.mark.parametrize("k", [[0.0, 1.0, 3.0], [0.25, 1.5, 2.0, 3.5]], ids=["integers", "reals"])
def test_coefficients_match_the_naive_sum(num_points, k):
    values = torch.randn(2, num_points, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[naive(row, f) for f in k] for row in values], dtype=torch.complex128)
    torch.testing.assert_close(fourier_coefficients(values, k), expected, rtol=1e-12, atol=1e-14)


def test_hann_window_matches_the_naive_weighted_sum():
    values = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = [math.sin(math.pi * j / 16) ** 2 for j in range(16)]
    expected = [naive(values * torch.tensor(w, dtype=torch.float64), k) * 16 / sum(w) for k in (0, 1, 2.5)]
    measured = fourier_coefficients(values, [0, 1, 2.5], window="hann")
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.complex128))


def test_hann_window_keeps_the_amplitude_of_a_sine():
    values = 3 * torch.sin(2 * math.pi * 10 * grid(64, torch.float64))
    assert amplitude(fourier_coefficients(values, [10], window="hann"), [10], 64).item() == pytest.approx(3)


def test_detrended_line_has_no_spectrum():
    line = 5 - 3 * grid(33, torch.float64)
    assert fourier_coefficients(line, range(17), detrend=True).abs().max() < 1e-14


def test_detrending_matches_the_least_squares_fit():
    values = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    design = torch.stack([torch.ones(20, dtype=torch.float64), grid(20, torch.float64)], 1)
    fit = design @ torch.linalg.lstsq(design, values[:, None]).solution
    expected = fourier_coefficients(values - fit[:, 0], [1, 2])
    torch.testing.assert_close(fourier_coefficients(values, [1, 2], detrend=True), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precision_of_the_coefficients_follows_the_values(dtype):
    expected = torch.complex128 if dtype == torch.float64 else torch.complex64
    for k in ([1], [1.5]):
        assert fourier_coefficients(torch.ones(8, dtype=dtype), k).dtype == expected


def test_coefficients_reject_frequencies_above_nyquist_and_say_how_many_points_are_needed():
    with pytest.raises(ValueError, match=r"must not exceed half the number of points, 32, got 50; pass num_points=100"):
        fourier_coefficients(torch.ones(64), [10, 50])


def test_coefficients_reject_negative_frequencies():
    with pytest.raises(ValueError, match=r"`frequencies` must not be negative, got -1"):
        fourier_coefficients(torch.ones(8), [-1])


def test_coefficients_reject_unknown_windows():
    with pytest.raises(ValueError, match=r"`window` must be None or 'hann', got 'hamming'"):
        fourier_coefficients(torch.ones(8), [1], window="hamming")


def test_coefficients_reject_integers():
    with pytest.raises(TypeError, match=r"must be real floating-point numbers, got torch\.int64"):
        fourier_coefficients(torch.ones(8, dtype=torch.int64), [1])


def test_segment_points_lie_on_the_segment():
    starts, ends = torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]]]), torch.tensor([[[4.0, 5.0]], [[2.0, 0.0]]])
    points = segment_points(starts, ends, 4)
    assert points.shape == (2, 4, 1, 2)
    for s in range(2):
        for j in range(4):
            torch.testing.assert_close(points[s, j], starts[s] + j / 4 * (ends[s] - starts[s]))


def test_segment_points_reject_ends_of_another_shape():
    with pytest.raises(ValueError, match=r"`ends` must have the shape of `starts`, \(2, 3\), got \(1, 3\)"):
        segment_points(torch.zeros(2, 3), torch.zeros(1, 3), 4)
