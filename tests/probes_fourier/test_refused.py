"""What the probes of this plugin do not measure, and say so: noise, coupled examples, graphs, rounding."""

import math

import numpy as np
import pytest
import torch
from loops import Memory
from torch import nn

from probes import ProbeManager, every
from probes_fourier import FourierSpectrum, KernelSpectrum, RadialSpectrum, SpectralNorm, SpectrumRobustness
from probes_fourier.summaries import above_rounding


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x) + torch.randn(len(x), 3)


class Previous(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x + x.roll(1, 0))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x, adjacency):
        return torch.sparse.mm(adjacency, self.layer(x))


class Edges(Sparse):
    def forward(self, x, edges):
        h = self.layer(x)
        return h.index_add(0, edges[0], h[edges[1]])


class LossInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x, y):
        return nn.functional.cross_entropy(self.layer(x), y)


def trained(model, probes, args, steps=4, loss=lambda output: output.square().mean()):
    sink = Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [*probes, SpectralNorm(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(*args)).backward()
            optimizer.step()
    assert sink.steps("spectral_norm/weight") == list(range(steps + 1))  # of weights alone
    return sink


def diagonal(z):
    return torch.stack([z, z], 1)


PROBES = {
    "between samples": lambda: FourierSpectrum(every(1)),
    "exact": lambda: FourierSpectrum(every(1), exact=True),
    "along a path": lambda: FourierSpectrum(every(1), path=diagonal),
    "kernel": lambda: KernelSpectrum(every(1)),
    "radial": lambda: RadialSpectrum(every(1), num_points=4),
    "robustness": lambda: SpectrumRobustness(every(1), path=diagonal, frequencies=[1], num_directions=1),
}


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize(("model", "reason"), [(Noisy, "The output is random"), (Previous, "Examples interact")])
def test_noise_and_coupled_examples_are_refused_once_with_the_reason(name, model, reason, caplog):
    sink = trained(model(), [PROBES[name]()], (torch.randn(8, 2),))
    (told,) = [record.getMessage() for record in caplog.records if "cannot measure" in record.message]
    assert f"On batch 'train': {reason}" in told and "\n" not in told
    assert not [row for row in sink.rows if row.name.startswith(("fourier", "kernel", "radial", "robustness"))]


@pytest.mark.parametrize(
    ("model", "second"), [(Sparse, lambda: torch.eye(8).to_sparse()), (Edges, lambda: torch.randint(8, (2, 20)))]
)
def test_graphs_are_refused_in_one_line(model, second, caplog):
    trained(model(), [FourierSpectrum(every(1))], (torch.randn(8, 2), second()))
    (told,) = [record.getMessage() for record in caplog.records if "cannot measure" in record.message]
    assert "Examples cannot be told apart: the model takes all 8 together" in told and len(told) < 500


def test_a_loss_inside_the_model_keeps_the_spectrum_from_being_measured_and_no_norm(caplog):
    labels = torch.randint(3, (8,))
    trained(LossInside(), [FourierSpectrum(every(1))], (torch.randn(8, 2), labels), loss=lambda output: output)
    (told,) = [record.getMessage() for record in caplog.records if "returns one number" in record.message]
    assert "ProbeManager(model.layer)" in told


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_straight_function_has_no_mean_frequency(dtype, make_run, measured):
    torch.manual_seed(0)
    model = nn.Linear(2, 3).to(dtype)
    run = make_run(model, torch.randn(8, 2, dtype=dtype))
    found = measured(FourierSpectrum(), run)
    assert np.isnan(found["fourier/centroid/train"].value)
    assert np.isnan(found["fourier/low_frequency_power/train"].value)
    assert found["fourier/amplitude/train"].value.max() < 10 * torch.finfo(dtype).eps


def test_a_constant_function_has_no_mean_index_but_what_is_its_own(make_run, measured):
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    found = measured(KernelSpectrum(), make_run(model, torch.randn(8, 2)))
    assert np.isnan(found["kernel_spectrum/centroid/train"].value)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e4, 1e5])
def test_a_function_that_is_straight_between_samples_far_from_zero_has_no_mean_frequency(offset, make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.constant_(model[0].bias, 100.0)  # far on one side of every kink
    for inputs in (torch.randn(16, 8) + offset, torch.randn(1, 8).repeat(16, 1) + offset):
        found = measured(FourierSpectrum(), make_run(model, inputs))
        exact = measured(FourierSpectrum(exact=True), make_run(model, inputs))
        if exact["fourier/linear_regions/train"].value == 1:
            assert np.isnan(found["fourier/centroid/train"].value), offset
            assert np.isnan(found["fourier/low_frequency_power/train"].value), offset


def test_a_function_that_bends_has_a_mean_frequency_far_from_zero_too(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    inputs = torch.randn(16, 8)
    near = measured(FourierSpectrum(), make_run(model, inputs))["fourier/centroid/train"].value
    with torch.no_grad():
        model[0].bias -= 1000 * model[0].weight.sum(1)
    far = measured(FourierSpectrum(), make_run(model, inputs + 1000))["fourier/centroid/train"].value
    assert far == pytest.approx(near, rel=1e-2)


def test_inputs_that_are_not_finite_are_refused_with_the_reason(caplog):
    x = torch.randn(8, 2)
    x[3, 1] = math.nan
    trained(nn.Linear(2, 3), [KernelSpectrum(every(1))], (x,), loss=lambda output: output.nan_to_num().square().mean())
    assert caplog.text.count("holds inputs that are not finite, which have no distances") == 1


@pytest.mark.parametrize("arguments", [{"path": 3}, {"frequencies": "a"}])
def test_settings_of_the_wrong_kind_are_refused(arguments):
    with pytest.raises(TypeError, match=next(iter(arguments))):
        FourierSpectrum(**arguments)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_amplitudes_above_rounding_are_left_as_they_are(size):
    values = size * torch.tensor([1.0, -2.0])
    eps = torch.finfo(torch.float32).eps
    amplitudes = size * torch.tensor([1.0, 1e-3, 8.1 * eps, 7.9 * eps])
    assert torch.equal(above_rounding(amplitudes, values), torch.cat([amplitudes[:3], torch.zeros(1)]))


def test_weights_that_are_not_finite_for_a_while_cost_no_later_turn():
    torch.manual_seed(0)
    model, sink = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [FourierSpectrum(every(1)), KernelSpectrum(every(1)), SpectralNorm(every(1))]
    x = torch.randn(8, 2)
    with ProbeManager(model, probes, {"train": x}, [sink], overhead=None).attach(optimizer):
        for step in range(10):
            if step == 2:
                kept = {name: value.clone() for name, value in model.state_dict().items()}
                nn.init.constant_(model[0].weight, math.nan)
            if step == 6:
                model.load_state_dict(kept)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for name in ("fourier/centroid/train", "kernel_spectrum/centroid/train"):
        values = {row.step: float(row.value) for row in sink.rows if row.name == name}
        assert [step for step, value in values.items() if math.isnan(value)] == [3, 4, 5, 6] and len(values) == 11
    assert not [event for event in sink.events if event.kind in ("fault", "quarantine")]


def test_equal_samples_are_joined_by_a_constant(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    found = measured(FourierSpectrum(exact=True), make_run(model, torch.ones(4, 2)))
    assert found["fourier/amplitude/train"].value.max() == 0 and found["fourier/linear_regions/train"].value == 1
