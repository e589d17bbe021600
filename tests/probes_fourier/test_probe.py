"""FourierSpectrum on a sum of sines, and against a plain loop over segments."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from probes_fourier import (
    FourierSpectrum,
    breakpoints,
    double,
    segment_samples,
)


def along(z):
    return z[:, None]


# FourierSpectrum along a path


def test_spectrum_along_a_path_holds_the_amplitudes_of_the_function(Sines, make_run, measured):
    result = measured(FourierSpectrum(path=along, frequencies=[5, 10, 20]), make_run(Sines(), torch.zeros(50, 1)))
    amplitude = result["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [3, 0, 0.5], atol=1e-5)
    assert amplitude.dims == ("frequency",) and amplitude.unit == "output"
    assert amplitude.coords["frequency"].values.tolist() == [5, 10, 20]
    assert amplitude.coords["frequency"].unit == "cycles per path"
    np.testing.assert_allclose(result["fourier/coefficients/path"].value[0], -1.5j * np.exp(1j), atol=1e-5)
    assert result["fourier/centroid/path"].value == pytest.approx((9 * 5 + 0.25 * 20) / 9.25, rel=1e-4)
    assert result["fourier/low_frequency_power/path"].value == pytest.approx(9 / 9.25, rel=1e-4)


def test_spectrum_is_relative_to_given_amplitudes_of_the_target(Sines, make_run, measured):
    probe = FourierSpectrum(path=along, frequencies=[5, 20], amplitudes=[6, 0.25])
    amplitude = measured(probe, make_run(Sines(), torch.zeros(50, 1)))["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [0.5, 2], atol=1e-4)
    assert amplitude.unit == "target amplitude"


def test_spectrum_is_relative_to_the_amplitudes_of_a_target_function(Sines, make_run, measured):
    def target(z):
        return 6 * torch.sin(2 * math.pi * 5 * z) + torch.cos(2 * math.pi * 20 * z)

    probe = FourierSpectrum(path=along, frequencies=[5, 20], amplitudes=target)
    amplitude = measured(probe, make_run(Sines(), torch.zeros(50, 1)))["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [0.5, 0.5], atol=1e-5)


def test_several_outputs_come_first(Sines, make_run, measured):
    amplitude = measured(FourierSpectrum(path=along), make_run(Sines(2), torch.zeros(50, 1)))["fourier/amplitude/path"]
    assert amplitude.dims == ("output", "frequency") and amplitude.value.shape == (2, 100)
    np.testing.assert_allclose(amplitude.value[:, 4], [3, 6], rtol=1e-5)


def test_half_amplitude_steps_are_kept_through_a_resume(Sines, make_run, measured):
    model = Sines()
    run = make_run(model, torch.zeros(50, 1))
    settings = {"path": along, "frequencies": [5, 20], "amplitudes": [3, 2]}
    first = FourierSpectrum(**settings)
    model.scale.data.fill_(0.1)
    assert np.isinf(measured(first, run, 0)["fourier/half_amplitude_step/path"].value).all()
    model.scale.data.fill_(0.6)
    measured(first, run, 10)
    model.scale.data.fill_(0.1)
    second = FourierSpectrum(**settings)
    second.load_state_dict(first.state_dict())
    assert measured(second, run, 20)["fourier/half_amplitude_step/path"].value[0] == 10
    model.scale.data.fill_(4)
    assert measured(second, run, 30)["fourier/half_amplitude_step/path"].value.tolist() == [10, 30]


def test_path_that_leaves_the_input_shape_is_rejected(Sines, make_run, measured):
    with pytest.raises(ValueError, match=r"`path` must give inputs of shape \(3,\)"):
        measured(FourierSpectrum(path=along), make_run(Sines(), torch.zeros(50, 3)))


def test_path_without_an_input_for_each_point_is_rejected(Sines, make_run, measured):
    with pytest.raises(ValueError, match=r"`path` must give an input for each of the 200 points"):
        measured(FourierSpectrum(path=lambda z: z[None]), make_run(Sines(), torch.zeros(50, 1)))


# FourierSpectrum between samples


def test_spectrum_between_samples_matches_a_loop_over_segments(mlp, inputs, make_run, measured):
    run = make_run(mlp, inputs)
    probe = FourierSpectrum(num_points=32, num_segments=5, frequencies=[1, 3])
    result = measured(probe, run)
    starts, ends = (inputs[index] for index in segment_samples(len(inputs), probe.num_segments, run.seed))
    window = np.hanning(33)[:-1]
    z = np.arange(32) / 32
    rows = []
    for a, b in zip(starts.numpy(), ends.numpy(), strict=True):
        with torch.no_grad():
            f = mlp(torch.from_numpy(np.outer(1 - z, a) + np.outer(z, b)).float()).double().numpy()
        f = f - np.stack([np.polyval(np.polyfit(z, column, 1), z) for column in f.T], 1)
        c = np.stack(
            [(window[:, None] * f * np.exp(-2j * np.pi * k * z)[:, None]).sum(0) / window.sum() for k in (1, 3)]
        )
        rows.append(np.sqrt((4 * abs(c) ** 2).mean(1)))
    amplitude = result["fourier/amplitude/train"]
    np.testing.assert_allclose(amplitude.value, np.mean(rows, 0), rtol=1e-3)
    np.testing.assert_allclose(amplitude.standard_error, np.std(rows, 0, ddof=1) / math.sqrt(5), rtol=1e-3)
    assert result["fourier/amplitude_by_output/train"].value.shape == (2, 2)
    assert {name.rsplit("/", 1)[1] for name in result} == {"train"}


def test_segments_are_the_same_at_every_step_and_join_different_samples(mlp, inputs, make_run, measured):
    run = make_run(mlp, inputs)
    one = measured(FourierSpectrum(), run, 0)
    run.step = 7
    other = measured(FourierSpectrum(), run, 7)
    assert np.array_equal(one["fourier/amplitude/train"].value, other["fourier/amplitude/train"].value)
    starts, ends = (inputs[index] for index in segment_samples(len(inputs), 200, 0))
    assert ((starts - ends).norm(dim=1) > 0).all()


def test_no_more_rows_go_through_the_model_than_it_is_known_to_bear(Sines, make_run, measured):
    model = Sines()
    measured(FourierSpectrum(), make_run(model, torch.randn(10, 1)))
    assert (
        max(model.rows) == 40 and sum(model.rows) == 10 + 10 + 1 + 17 * 64
    )  # the batch whole, in pieces, one of them twice; one segment rounded


def test_half_precision_models_are_measured(inputs, make_run, measured):
    run = make_run(nn.Linear(3, 2).to(torch.bfloat16), inputs.to(torch.bfloat16))
    assert measured(FourierSpectrum(), run)["fourier/amplitude/train"].value.dtype == np.float32


def test_positions_on_a_path_are_not_rounded_to_the_half_precision_of_a_model(make_run, measured):
    given = []
    run = make_run(nn.Linear(1, 1).to(torch.bfloat16), torch.zeros(5, 1, dtype=torch.bfloat16))
    measured(FourierSpectrum(path=lambda z: given.append(z) or z[:, None]), run)
    assert given[0].tolist() == pytest.approx([j / 200 for j in range(200)], rel=1e-6)


def test_exact_spectrum_agrees_with_a_fine_grid(mlp, inputs, make_run, measured):
    run = make_run(mlp, inputs)
    exact = measured(FourierSpectrum(exact=True, num_segments=3, frequencies=[1, 2, 40]), run)
    fine = measured(FourierSpectrum(num_points=4096, num_segments=3, frequencies=[1, 2, 40]), run)
    np.testing.assert_allclose(
        exact["fourier/amplitude/train"].value, fine["fourier/amplitude/train"].value, rtol=2e-2, atol=1e-5
    )
    assert exact["fourier/amplitude/train"].value.dtype == np.float64


def test_exact_spectrum_counts_linear_regions(mlp, inputs, make_run, measured):
    run = make_run(mlp, inputs)
    probe = FourierSpectrum(exact=True, num_segments=3)
    starts, ends = (inputs[index] for index in segment_samples(len(inputs), probe.num_segments, run.seed))
    counts = [len(breakpoints(double(mlp), a, b)[0]) - 1 for a, b in zip(starts, ends, strict=True)]
    regions = measured(probe, run)["fourier/linear_regions/train"]
    # Every breakpoint of a generic network is a bend of some output.
    assert regions.value == pytest.approx(np.mean(counts)) and regions.unit == "pieces"


def test_exact_spectrum_of_a_smooth_network_is_rejected_with_the_reason(inputs, make_run, measured):
    run = make_run(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), inputs)
    with pytest.raises(ValueError, match="it applies `tanh` to data that depends on the input"):
        measured(FourierSpectrum(exact=True), run)


def test_spectrum_rejects_what_cannot_be_measured(make_run, measured):
    with pytest.raises(ValueError, match="half the number of points, 100, got 120; pass num_points=240"):
        FourierSpectrum(path=along, frequencies=[120])
    with pytest.raises(ValueError, match="`amplitudes` of a target are known along a path only"):
        FourierSpectrum(amplitudes=[1])
    with pytest.raises(ValueError, match="`path` excludes exact= and num_segments="):
        FourierSpectrum(path=along, exact=True)
    with pytest.raises(ValueError, match="one amplitude for each of the 2 frequencies"):
        FourierSpectrum(path=along, frequencies=[5, 10], amplitudes=[1, 2, 3])
    with pytest.raises(ValueError, match="`amplitudes` of the target must not be 0"):
        FourierSpectrum(path=along, frequencies=[5, 10], amplitudes=lambda z: torch.sin(2 * math.pi * 5 * z))
    with pytest.raises(ValueError, match="holds one sample, and segments join two"):
        measured(FourierSpectrum(), make_run(nn.Linear(3, 1), torch.zeros(1, 3)))
