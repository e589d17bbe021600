"""The Gaussian kernel on points whose kernel matrix is known by hand, and on the grid of the thesis' figure 3.6."""

import math

import pytest
import torch

from probes_fourier import (
    amplitude,
    fourier_coefficients,
    kernel_basis,
    kernel_noise,
    kernel_spectrum,
    median_width,
    radial_wave,
)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(12, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_basis_of_two_points_is_their_sum_and_difference():
    values, vectors = kernel_basis(torch.tensor([[0.0], [2.0]]), sigma=2)
    # K = [[1, 1/e], [1/e, 1]]
    torch.testing.assert_close(values, torch.tensor([1 + 1 / math.e, 1 - 1 / math.e], dtype=torch.float64))
    half = math.sqrt(0.5)
    torch.testing.assert_close(vectors, torch.tensor([[half, half], [half, -half]], dtype=torch.float64))


def test_basis_rebuilds_the_kernel_matrix(inputs):
    values, vectors = kernel_basis(inputs, sigma=1.5)
    expected = torch.tensor(
        [[math.exp(-sum((x - y).flatten().square().tolist()) / 2.25) for y in inputs] for x in inputs],
        dtype=torch.float64,
    )
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-13)
    assert (values.diff() <= 0).all()


def test_signs_of_the_basis_are_the_same_for_almost_the_same_inputs(inputs):
    one, other = kernel_basis(inputs, sigma=2), kernel_basis(inputs + 1e-9, sigma=2)
    torch.testing.assert_close(one.eigenvectors, other.eigenvectors, rtol=0, atol=1e-6)


def test_frequency_of_the_eigenvectors_on_a_grid_grows_with_their_index():
    grid = (torch.arange(50, dtype=torch.float64) / 50)[:, None]
    # So narrow that the smallest eigenvalue (8e-3 of the largest) and its vector are no matter of rounding.
    vectors = kernel_basis(grid, sigma=0.03).eigenvectors
    spectrum = amplitude(fourier_coefficients(vectors.T, range(26)), range(26), 50)
    peaks = spectrum.argmax(1)
    assert (peaks.diff() >= 0).all()
    # The n-th eigenvector has n half waves, a frequency of n / 2.
    assert (peaks - torch.arange(50) / 2).abs().max() <= 0.5


def test_median_width_is_the_median_distance():
    assert median_width(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 1.0]]])) == pytest.approx(math.sqrt(18))


def test_default_width_is_the_median_distance(inputs):
    given = kernel_basis(inputs, sigma=median_width(inputs))
    torch.testing.assert_close(kernel_basis(inputs).eigenvalues, given.eigenvalues)


def test_median_width_rejects_a_single_input_and_coinciding_ones():
    with pytest.raises(ValueError, match="at least 2 inputs for a distance, got 1; pass sigma"):
        median_width(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="coincide in more than half of the pairs"):
        median_width(torch.zeros(4, 3))


def test_basis_rejects_a_width_of_zero(inputs):
    with pytest.raises(ValueError, match="`sigma` must be positive, got 0"):
        kernel_basis(inputs, sigma=0)


def test_spectrum_of_an_eigenvector_is_one_line(inputs):
    basis = kernel_basis(inputs)
    spectrum = kernel_spectrum(torch.stack([3 * basis.eigenvectors[:, 4], -basis.eigenvectors[:, 0]], 1), basis)
    expected = torch.zeros(12, 2, dtype=torch.float64)
    expected[4, 0], expected[0, 1] = 3, -1
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=1e-13)


def test_spectrum_keeps_the_length_of_a_function(inputs):
    values = inputs.flatten(1).sum(1).float()
    spectrum = kernel_spectrum(values, kernel_basis(inputs))
    assert spectrum.square().sum().item() == pytest.approx(values.double().square().sum().item(), rel=1e-12)


def test_spectrum_rejects_values_of_another_batch(inputs):
    with pytest.raises(ValueError, match=r"a row for each of the 12 inputs of the basis, got shape \(11,\)"):
        kernel_spectrum(torch.zeros(11), kernel_basis(inputs))


def test_radial_wave_is_the_sine_of_the_distance_from_the_origin():
    wave = radial_wave(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[-1.0, 0.0]]]), 2.0)
    torch.testing.assert_close(wave, torch.tensor([math.sin(10), 0, math.sin(2)]))


def test_spectrum_of_the_kernel_noise_is_a_power_of_the_index(inputs):
    basis = kernel_basis(inputs)
    expected = torch.tensor([(n / 12) ** 3 for n in range(1, 13)], dtype=torch.float64)
    torch.testing.assert_close(kernel_spectrum(kernel_noise(basis, gamma=3), basis), expected)


def test_inputs_that_are_numbers_are_points_of_a_line():
    x = torch.tensor([0.0, 1.0, 3.0])
    assert median_width(x) == 2.0
    torch.testing.assert_close(kernel_basis(x).eigenvalues, kernel_basis(x[:, None]).eigenvalues)
    torch.testing.assert_close(radial_wave(x, 2.0), torch.sin(2 * x))


def test_the_width_is_the_median_of_an_even_number_of_distances():
    assert median_width(torch.tensor([[0.0], [1.0], [3.0], [7.0]])) == 3.5
    assert median_width(torch.tensor([[0.0], [0.0], [0.0], [1.0]])) == 0.5
