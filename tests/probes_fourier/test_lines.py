"""Spectra along random lines: waves, straight functions, and an error over lines that is what it says."""

import math

import pytest
import torch

from probes_fourier import line_spectrum


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_a_wave_of_one_input_is_one_frequency_with_its_amplitude():
    found = line_spectrum(
        lambda x: 0.7 * torch.sin(2 * math.pi * 3 * x), normal(5, 1), 4.0, num_points=128, generator=generator()
    )
    assert found.frequencies[:3].tolist() == [0.25, 0.5, 0.75] and found.frequencies[11] == 3
    assert found.amplitude[11].item() == pytest.approx(0.7, abs=2e-3)  # but for what the straight line took
    assert found.amplitude[20:].max() < 2e-3 and found.standard_error[11] < 2e-3


def test_a_straight_function_of_many_inputs_has_no_amplitude():
    weights = normal(3, 2, 4)
    found = line_spectrum(
        lambda x: torch.einsum("nij,kij->nk", x, weights), normal(5, 2, 4), 3.0, generator=generator()
    )
    assert found.amplitude.max() < 1e-12


@pytest.mark.parametrize("d", [2, 50])
def test_a_plane_wave_is_seen_at_its_projections(d):
    """Along a direction the wave has the frequency of its projection, of root mean square |q| / sqrt(d)."""
    q = torch.zeros(d, dtype=torch.float64)
    q[0] = 4 * math.sqrt(d)
    found = line_spectrum(
        lambda x: torch.cos(2 * math.pi * (x @ q)), normal(7, d), 2.0, num_lines=2000, num_points=128,
        generator=generator(),
    )  # fmt: skip
    power = found.amplitude.square()
    mean_square = float((power * found.frequencies.square()).sum() / power.sum())
    directions = normal(200_000, d, seed=9)
    cosines = directions[:, 0] / directions.norm(dim=1)
    # A histogram of the projections, to which the window adds its width; the amplitude is squared after the mean.
    bins = (q[0] * cosines.abs() * 2).round().long().bincount(minlength=65)[1:65].double()
    expected = float((bins.square() * found.frequencies.square()).sum() / bins.square().sum())
    assert mean_square == pytest.approx(expected, rel=0.15)


def test_the_error_over_lines_is_the_deviation_of_other_draws():
    model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
        inputs = normal(50, 6, seed=10)
        draws = [line_spectrum(model, inputs, 2.0, num_lines=16, generator=generator(seed)) for seed in range(200)]
    values = torch.stack([draw.amplitude for draw in draws])[:, :8]
    stated = torch.stack([draw.standard_error for draw in draws])[:, :8].square().mean(0).sqrt()
    # The deviation of 200 draws is known to 5 %: 3 of these, and not all eight frequencies are independent.
    torch.testing.assert_close(stated, values.std(0), rtol=0.2, atol=0)


def test_settings_are_refused():
    with pytest.raises(ValueError, match="`length` must be a positive number, got 0"):
        line_spectrum(lambda x: x, normal(2, 1), 0.0, generator=generator())
    with pytest.raises(ValueError, match="`num_lines` must be at least 1 and `num_points` at least 2, got 0 and 64"):
        line_spectrum(lambda x: x, normal(2, 1), 1.0, num_lines=0, generator=generator())
    with pytest.raises(ValueError, match="must not exceed half the number of points, 4, got 5"):
        line_spectrum(lambda x: x, normal(2, 1), 1.0, num_points=8, periods=[5], generator=generator())
    assert math.isnan(
        line_spectrum(lambda x: x, normal(2, 1), 1.0, num_lines=1, generator=generator()).standard_error[0]
    )


def test_lines_through_integers_are_those_through_the_same_numbers():
    inputs = torch.tensor([[3, 200], [7, 0]], dtype=torch.uint8)
    wave = lambda x: torch.sin(3 * x)  # noqa: E731
    found, expected = (line_spectrum(wave, each, 2.0, generator=generator()) for each in (inputs, inputs.float()))
    assert torch.equal(found.amplitude, expected.amplitude) and found.amplitude.max() > 0.1
