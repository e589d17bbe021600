"""The probes on models whose spectrum is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from probes.batches import Batch
from probes.measurement import Measurement
from probes.run import Run
from probes_fourier import (
    FourierSpectrum,
    KernelSpectrum,
    RadialSpectrum,
    SpectralNorm,
    SpectrumRobustness,
    breakpoints,
    double,
    is_chain,
)


class Sines(nn.Module):
    """3 sin(2 pi 5 x + 1) + 0.5 sin(2 pi 20 x) of the first input, as many times as there are outputs."""

    def __init__(self, outputs=1):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, outputs + 1))
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        z = 2 * math.pi * x[:, :1]
        return self.scale * (3 * torch.sin(5 * z + 1) + 0.5 * torch.sin(20 * z))


def make_run(model: nn.Module, inputs: torch.Tensor, **batch) -> Run:
    return Run(model.eval(), Path("unused"), seed=0, output=lambda o: o, batches={"train": Batch((inputs,), **batch)})


def measured(probe, run, step=0) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in probe.measure(run, step)}


def along(z):
    return z[:, None]


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.fixture
def inputs():
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


# FourierSpectrum along a path


def test_spectrum_along_a_path_holds_the_amplitudes_of_the_function():
    result = measured(FourierSpectrum(path=along, frequencies=[5, 10, 20]), make_run(Sines(), torch.zeros(50, 1)))
    amplitude = result["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [3, 0, 0.5], atol=1e-5)
    assert amplitude.dims == ("frequency",) and amplitude.unit == "output"
    assert amplitude.coords["frequency"].values.tolist() == [5, 10, 20]
    assert amplitude.coords["frequency"].unit == "cycles per path"
    np.testing.assert_allclose(result["fourier/coefficients/path"].value[0], -1.5j * np.exp(1j), atol=1e-5)
    assert result["fourier/centroid/path"].value == pytest.approx((9 * 5 + 0.25 * 20) / 9.25, rel=1e-4)
    assert result["fourier/low_frequency_power/path"].value == pytest.approx(9 / 9.25, rel=1e-4)


def test_spectrum_is_relative_to_given_amplitudes_of_the_target():
    probe = FourierSpectrum(path=along, frequencies=[5, 20], amplitudes=[6, 0.25])
    amplitude = measured(probe, make_run(Sines(), torch.zeros(50, 1)))["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [0.5, 2], atol=1e-4)
    assert amplitude.unit == "target amplitude"


def test_spectrum_is_relative_to_the_amplitudes_of_a_target_function():
    def target(z):
        return 6 * torch.sin(2 * math.pi * 5 * z) + torch.cos(2 * math.pi * 20 * z)

    probe = FourierSpectrum(path=along, frequencies=[5, 20], amplitudes=target)
    amplitude = measured(probe, make_run(Sines(), torch.zeros(50, 1)))["fourier/amplitude/path"]
    np.testing.assert_allclose(amplitude.value, [0.5, 0.5], atol=1e-5)


def test_several_outputs_come_first():
    amplitude = measured(FourierSpectrum(path=along), make_run(Sines(2), torch.zeros(50, 1)))["fourier/amplitude/path"]
    assert amplitude.dims == ("output", "frequency") and amplitude.value.shape == (2, 100)
    np.testing.assert_allclose(amplitude.value[:, 4], [3, 6], rtol=1e-5)


def test_half_amplitude_steps_are_kept_through_a_resume():
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


def test_path_that_leaves_the_input_shape_is_rejected():
    with pytest.raises(ValueError, match=r"Inputs must have rows of shape \(3,\)"):
        measured(FourierSpectrum(path=along), make_run(Sines(), torch.zeros(50, 3)))


def test_path_without_an_input_for_each_point_is_rejected():
    with pytest.raises(ValueError, match=r"`path` must give an input for each of the 200 points"):
        measured(FourierSpectrum(path=lambda z: z[None]), make_run(Sines(), torch.zeros(50, 1)))


# FourierSpectrum between samples


def test_spectrum_between_samples_matches_a_loop_over_segments(mlp, inputs):
    run = make_run(mlp, inputs)
    probe = FourierSpectrum(num_points=32, num_segments=5, frequencies=[1, 3])
    result = measured(probe, run)
    starts, ends = probe._segments(run, run.batch("train"))
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


def test_segments_are_the_same_at_every_step_and_join_different_samples(mlp, inputs):
    run = make_run(mlp, inputs)
    one = measured(FourierSpectrum(), run, 0)
    run.step = 7
    other = measured(FourierSpectrum(), run, 7)
    assert np.array_equal(one["fourier/amplitude/train"].value, other["fourier/amplitude/train"].value)
    starts, ends = FourierSpectrum(num_segments=200)._segments(run, run.batch("train"))
    assert ((starts - ends).norm(dim=1) > 0).all()


def test_no_more_rows_go_through_the_model_than_it_is_known_to_bear():
    model = Sines()
    measured(FourierSpectrum(), make_run(model, torch.randn(10, 1)))
    assert max(model.rows) == 40 and sum(model.rows) == 16 * 64


def test_half_precision_models_are_measured(inputs):
    run = make_run(nn.Linear(3, 2).to(torch.bfloat16), inputs.to(torch.bfloat16))
    assert measured(FourierSpectrum(), run)["fourier/amplitude/train"].value.dtype == np.float32


def test_positions_on_a_path_are_not_rounded_to_the_half_precision_of_a_model():
    given = []
    run = make_run(nn.Linear(1, 1).to(torch.bfloat16), torch.zeros(5, 1, dtype=torch.bfloat16))
    measured(FourierSpectrum(path=lambda z: given.append(z) or z[:, None]), run)
    assert given[0].tolist() == pytest.approx([j / 200 for j in range(200)], rel=1e-6)


def test_exact_spectrum_agrees_with_a_fine_grid(mlp, inputs):
    run = make_run(mlp, inputs)
    exact = measured(FourierSpectrum(exact=True, num_segments=3, frequencies=[1, 2, 40]), run)
    fine = measured(FourierSpectrum(num_points=4096, num_segments=3, frequencies=[1, 2, 40]), run)
    np.testing.assert_allclose(
        exact["fourier/amplitude/train"].value, fine["fourier/amplitude/train"].value, rtol=2e-2, atol=1e-5
    )
    assert exact["fourier/amplitude/train"].value.dtype == np.float64


def test_exact_spectrum_counts_linear_regions(mlp, inputs):
    run = make_run(mlp, inputs)
    probe = FourierSpectrum(exact=True, num_segments=3)
    starts, ends = probe._segments(run, run.batch("train"))
    counts = [len(breakpoints(double(mlp), a, b)[0]) - 1 for a, b in zip(starts, ends, strict=True)]
    regions = measured(probe, run)["fourier/linear_regions/train"]
    # Every breakpoint of a generic network is a bend of some output.
    assert regions.value == pytest.approx(np.mean(counts)) and regions.unit == "pieces"


def test_exact_spectrum_of_a_smooth_network_is_rejected_with_the_reason(inputs):
    run = make_run(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), inputs)
    with pytest.raises(ValueError, match="it applies `tanh` to data that depends on the input"):
        measured(FourierSpectrum(exact=True), run)


def test_spectrum_rejects_what_cannot_be_measured():
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
    with pytest.raises(ValueError, match="must hold at least 2 samples to be joined, got 1"):
        measured(FourierSpectrum(), make_run(nn.Linear(3, 1), torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="no floating-point input"):
        measured(FourierSpectrum(), make_run(nn.Embedding(9, 2), torch.arange(6)))


# SpectralNorm


def test_norms_of_a_chain_are_those_of_its_matrices_and_bound_it(mlp, inputs):
    result = measured(SpectralNorm(), make_run(mlp, inputs))
    weights = [mlp[i].weight.detach().numpy() for i in (0, 2, 4)]
    norms = [np.linalg.norm(weight, 2) for weight in weights]
    layers = result["spectral_norm/weight"]
    np.testing.assert_allclose(layers.value, norms, rtol=1e-5)
    assert layers.coords["layer"].values.tolist() == ["0", "2", "4"]
    assert result["lipschitz/spectral_norm_product"].value == pytest.approx(np.prod(norms), rel=1e-5)
    bound = max(abs(weight).max() for weight in weights) ** 3 * math.sqrt(3 * 2) * 16 * 16
    assert result["lipschitz/max_norm"].value == pytest.approx(bound, rel=1e-5)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.spare = nn.Conv2d(1, 1, 1)
        self.head = nn.Linear(2, 1)

    def forward(self, image):
        return self.head(self.norm(self.conv(image)).mean((2, 3)))


def test_norms_of_convolutions_are_those_at_the_size_of_their_input():
    torch.manual_seed(0)
    model = Convolutional()
    result = measured(SpectralNorm(), make_run(model, torch.zeros(5, 1, 6, 7)))
    layers = result["spectral_norm/weight"]
    assert layers.coords["layer"].values.tolist() == ["conv", "norm", "head"]
    with torch.no_grad():
        units = torch.eye(42).reshape(42, 1, 6, 7)
        matrix = (model.conv(units) - model.conv(torch.zeros(1, 1, 6, 7))).flatten(1)
    assert layers.value[0] == pytest.approx(np.linalg.norm(matrix.numpy(), 2), rel=1e-5)
    assert result["spectral_norm/unconverged"].value == 0
    # Its forward may add branches, for all that can be seen; its author knows that it does not.
    assert not [name for name in result if name.startswith("lipschitz/")]
    result = measured(SpectralNorm(chain=True), make_run(model, torch.zeros(5, 1, 6, 7)))
    assert "lipschitz/spectral_norm_product" in result and "lipschitz/max_norm" not in result


@pytest.mark.parametrize(
    ("model", "chain"),
    [
        (nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Dropout(), nn.Linear(3, 1)), True),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), True),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, stride=1)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(3.0)), False),
        (nn.Sequential(*[nn.Linear(2, 2)] * 2), False),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), False),
        (nn.LSTM(2, 2), False),
    ],
)
def test_only_what_certainly_is_a_chain_of_affine_maps_is_taken_for_one(model, chain):
    assert is_chain(model) == chain


def test_measuring_norms_leaves_no_forward_hook_behind_also_after_a_failure():
    model = Convolutional()
    measured(SpectralNorm(), make_run(model, torch.zeros(5, 1, 6, 7)))
    with pytest.raises(RuntimeError):
        measured(SpectralNorm(), make_run(model, torch.zeros(5, 3, 6, 7)))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_norms_start_from_the_vectors_of_the_last_time_also_after_a_resume(monkeypatch):
    torch.manual_seed(0)
    run = make_run(Convolutional(), torch.zeros(5, 1, 6, 7))
    first = SpectralNorm()
    measured(first, run)
    second = SpectralNorm()
    second.load_state_dict(first.state_dict())
    started = []
    import probes_fourier.probe_norms as probe_norms

    real = probe_norms.module_spectral_norm
    monkeypatch.setattr(
        probe_norms, "module_spectral_norm", lambda m, s, v, **k: started.append(v) or real(m, s, v, **k)
    )
    measured(second, run)
    assert next(v for v in started if v is not None).equal(first.state_dict()["conv"])


def test_no_bound_is_given_for_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0].mean(1)

    result = measured(SpectralNorm(), make_run(Attention(), torch.zeros(5, 3, 4)))
    assert list(result) == ["spectral_norm/weight"]
    assert result["spectral_norm/weight"].coords["layer"].values.tolist() == ["attention", "attention.out_proj"]


# The others


def test_kernel_spectrum_keeps_the_length_of_the_outputs(mlp, inputs):
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
    with pytest.raises(ValueError, match="`sigma` must be positive, got 0"):
        KernelSpectrum(sigma=0)


def test_radial_spectrum_of_a_plane_wave_is_one_ring():
    result = measured(RadialSpectrum(box=((0, 1), (0, 1))), make_run(Sines(), torch.zeros(20, 2)))
    zeta = result["radial_spectrum/zeta"]
    k = zeta.coords["wave_number"]
    assert k.unit == "cycles per unit of input"
    assert zeta.value.argmax() == 4 and k.values[4] == 5
    assert zeta.value[[i for i in range(32) if i not in (4, 19)]].max() < 1e-4 * zeta.value[4]


def test_radial_spectrum_takes_the_box_of_the_batch_by_default():
    inputs = torch.tensor([[-1.0, 0.0], [1.0, 4.0], [0.0, 2.0]])
    zeta = measured(RadialSpectrum(num_points=32), make_run(Sines(), inputs))["radial_spectrum/zeta"]
    assert "((-1.0, 1.0), (0.0, 4.0))" in zeta.estimator


def test_radial_spectrum_rejects_inputs_of_another_size(mlp, inputs):
    with pytest.raises(ValueError, match=r"two numbers each, shape \(n, 2\), for a radial spectrum; got \(3,\)"):
        measured(RadialSpectrum(), make_run(mlp, inputs))
    with pytest.raises(ValueError, match="with low < high"):
        RadialSpectrum(box=((0, 0), (0, 1)))


def test_robustness_of_a_function_that_is_proportional_to_its_parameter_is_that_of_the_parameter():
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
def test_every_measurement_says_how_it_was_obtained_and_repeats(probe):
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
