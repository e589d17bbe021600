"""A function that is linear in its parameters, where the effect of a perturbation is known."""

import math

import pytest
import torch

from probes_fourier import fourier_coefficients, grid, perturbed_amplitudes, unit_direction


def sines(parameters):
    z = grid(32, torch.float64)
    return parameters["a"] * torch.sin(2 * math.pi * z) + parameters["b"] * torch.sin(2 * math.pi * 4 * z)


PARAMETERS = {"a": torch.tensor(3.0, dtype=torch.float64), "b": torch.tensor(0.5, dtype=torch.float64)}


def test_ratio_without_perturbation_is_exactly_one():
    result = perturbed_amplitudes(sines, PARAMETERS, [0.0], 7, torch.Generator().manual_seed(0), [1, 4])
    assert (result.ratio == 1).all() and (result.standard_error == 0).all()


def test_without_perturbation_it_is_one_of_a_frequency_that_is_not_there_too():
    zero = {name: torch.zeros_like(value) for name, value in PARAMETERS.items()}
    assert (perturbed_amplitudes(sines, zero, [0.0], 2, torch.Generator().manual_seed(0), [1, 4]).ratio == 1).all()


def test_ratio_matches_the_mean_over_the_circle():
    # On the unit circle of (a, b) the ratios are E|1 + delta cos(t) / 3| and E|1 + 2 delta sin(t)|.
    result = perturbed_amplitudes(sines, PARAMETERS, [0.2, 2.0], 4000, torch.Generator().manual_seed(0), [1, 4])
    angles = [2 * math.pi * j / 100_000 for j in range(100_000)]
    for row, delta in enumerate([0.2, 2.0]):
        for column, own in enumerate([3.0, 0.5]):
            truth = sum(abs(1 + delta * math.cos(angle) / own) for angle in angles) / len(angles)
            assert abs(result.ratio[row, column].item() - truth) < 4 * result.standard_error[row, column].item()
            assert result.standard_error[row, column].item() < 0.05


def test_magnitude_is_taken_before_the_mean():
    # After the mean a sine of random sign would vanish: here |b + delta| and |b - delta| are 100 and 99.
    only = {"b": PARAMETERS["b"]}
    result = perturbed_amplitudes(lambda p: sines(only | p | {"a": 0}), only, [50.0], 64, torch.Generator(), [4])
    assert 98 < result.ratio.item() < 102


def test_same_generator_gives_the_same_ratios_whatever_the_other_deltas():
    one = perturbed_amplitudes(sines, PARAMETERS, [0.3], 3, torch.Generator().manual_seed(5), [1])
    two = perturbed_amplitudes(sines, PARAMETERS, [0.1, 0.3], 3, torch.Generator().manual_seed(5), [1])
    assert torch.equal(one.ratio[0], two.ratio[1])


def test_ratios_keep_the_outputs_apart():
    def both(parameters):
        return torch.stack([sines(parameters), -2 * sines(parameters)])

    result = perturbed_amplitudes(both, PARAMETERS, [0.1, 0.2, 0.3], 2, torch.Generator(), [1, 4])
    assert result.ratio.shape == (3, 2, 2)
    torch.testing.assert_close(result.ratio[:, 0], result.ratio[:, 1])


def test_unit_direction_has_unit_length_over_all_parameters_together():
    parameters = {"w": torch.zeros(30, 20), "b": torch.zeros(5, dtype=torch.float64)}
    direction = unit_direction(parameters, torch.Generator().manual_seed(1))
    assert sum(tensor.double().square().sum().item() for tensor in direction.values()) == pytest.approx(1, rel=1e-6)
    assert direction["w"].dtype == torch.float32 and direction["b"].dtype == torch.float64
    # Of 605 entries 5 belong to b: a normalisation of each tensor by itself would give it half of the length.
    assert direction["b"].square().sum() < 0.05


def test_parameters_are_left_as_they_are():
    before = {name: tensor.clone() for name, tensor in PARAMETERS.items()}
    perturbed_amplitudes(sines, PARAMETERS, [1.0], 2, torch.Generator(), [1])
    assert all(torch.equal(PARAMETERS[name], before[name]) for name in before)


def test_perturbed_amplitudes_reject_no_direction():
    with pytest.raises(ValueError, match="`num_directions` must be a positive integer, got 0"):
        perturbed_amplitudes(sines, PARAMETERS, [1.0], 0, torch.Generator(), [1])


def test_reference_amplitude_is_that_of_the_unperturbed_function():
    assert fourier_coefficients(sines(PARAMETERS), [1]).abs().item() == pytest.approx(1.5)
