"""The probes of chapter 3 beside FourierSpectrum, and what holds for all of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from probes_fourier import (
    FourierSpectrum,
    KernelSpectrum,
    RadialSpectrum,
    SpectralNorm,
    SpectrumRobustness,
)


def along(z):
    return z[:, None]


def test_kernel_spectrum_keeps_the_length_of_the_outputs(mlp, inputs, make_run, measured):
    run = make_run(mlp, inputs)
    result = measured(KernelSpectrum(), run)
    coefficients = result["kernel_spectrum/coefficients/train"]
    assert coefficients.dims == ("output", "eigenvector") and coefficients.value.shape == (2, 10)
    with torch.no_grad():
        expected = mlp(inputs).double().square().sum(0).numpy()
    np.testing.assert_allclose((coefficients.value**2).sum(1), expected, rtol=1e-6)
    assert coefficients.coords["eigenvector"].values.tolist() == list(range(1, 11))
    assert (np.diff(result["kernel_spectrum/eigenvalues/train"].value) <= 0).all()
    assert 1 <= result["kernel_spectrum/centroid/train"].value <= 10


def test_kernel_spectrum_rejects_a_width_of_zero():
    with pytest.raises(ValueError, match="`sigma` must be a positive number, got 0"):
        KernelSpectrum(sigma=0)


def test_radial_spectrum_of_a_plane_wave_is_one_ring(Sines, make_run, measured):
    result = measured(RadialSpectrum(box=((0, 1), (0, 1))), make_run(Sines(), torch.zeros(20, 2)))
    zeta = result["radial_spectrum/zeta"]
    k = zeta.coords["wave_number"]
    assert k.unit == "cycles per unit of input"
    assert zeta.value.argmax() == 4 and k.values[4] == 5
    assert zeta.value[[i for i in range(32) if i not in (4, 19)]].max() < 1e-4 * zeta.value[4]


def test_radial_spectrum_takes_the_box_of_the_batch_by_default(Sines, make_run, measured):
    inputs = torch.tensor([[-1.0, 0.0], [1.0, 4.0], [0.0, 2.0]])
    zeta = measured(RadialSpectrum(num_points=32), make_run(Sines(), inputs))["radial_spectrum/zeta"]
    assert "((-1.0, 1.0), (0.0, 4.0))" in zeta.estimator


def test_radial_spectrum_rejects_inputs_of_another_size(mlp, inputs, make_run, measured):
    with pytest.raises(
        ValueError, match=r"two numbers each, shape \(n, 2\), for a radial spectrum; got rows of shape \(3,\)"
    ):
        measured(RadialSpectrum(), make_run(mlp, inputs))
    with pytest.raises(ValueError, match="with low < high"):
        RadialSpectrum(box=((0, 0), (0, 1)))


def test_robustness_of_a_function_that_is_proportional_to_its_parameter_is_that_of_the_parameter(
    Sines, make_run, measured
):
    model = Sines()
    run = make_run(model, torch.zeros(50, 1))
    probe = SpectrumRobustness(path=along, frequencies=[5, 20], deltas=[0, 0.5], num_directions=50)
    result = measured(probe, run)["robustness/relative_amplitude"]
    assert result.dims == ("delta", "frequency")
    assert (result.value[0] == 1).all()
    # The one direction there is, or its opposite: 1.5 or 0.5 times the function.
    share = (result.value[1] - 0.5).round(6)
    assert share[0] == share[1] and (share[0] * 50).round(3) % 1 == 0
    expected = math.sqrt(share[0] * (1 - share[0]) / 49)
    np.testing.assert_allclose(result.standard_error[1], expected, rtol=1e-4)
    assert model.scale.item() == 1


def test_robustness_rejects_no_direction():
    with pytest.raises(ValueError, match="`num_directions` must be a positive integer, got 0"):
        SpectrumRobustness(path=along, frequencies=[5], num_directions=0)


@pytest.mark.parametrize(
    "probe",
    [
        FourierSpectrum(),
        FourierSpectrum(exact=True, num_segments=2),
        FourierSpectrum(path=lambda z: torch.stack([z, -z], 1)),
        SpectralNorm(),
        KernelSpectrum(),
        RadialSpectrum(),
        SpectrumRobustness(path=lambda z: torch.stack([z, -z], 1), frequencies=[5], num_directions=2),
    ],
    ids=lambda probe: f"{type(probe).__name__}",
)
def test_every_measurement_says_how_it_was_obtained_and_repeats(probe, make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    run = make_run(model, torch.randn(12, 2))
    state = torch.get_rng_state()
    one, two = measured(probe, run), measured(probe, run)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(one) == list(two) and one
    for name in one:
        assert one[name].estimator and one[name].unit
        assert one[name].disagreement(two[name]) is None
        np.testing.assert_allclose(one[name].value, two[name].value, rtol=1e-5)
