"""SpectralNorm against the norms of explicit matrices."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from probes_fourier import (
    SpectralNorm,
    is_chain,
)


def test_norms_of_a_chain_are_those_of_its_matrices_and_bound_it(mlp, inputs, make_run, measured):
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


def test_norms_of_convolutions_are_those_at_the_size_of_their_input(make_run, measured):
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


class TenTimes(nn.Linear):
    def forward(self, x):
        return 10 * super().forward(x)


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
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.AvgPool1d(3, 1, 1)), True),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(7)), False),  # may enlarge
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2, 2, dilation=2)), False),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, divisor_override=1)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.AvgPool1d(3, 1, 1, count_include_pad=False)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.AvgPool1d(3, 2, ceil_mode=True)), False),
        (nn.Sequential(TenTimes(2, 2), nn.ReLU()), False),
    ],
)
def test_only_what_certainly_is_a_chain_of_affine_maps_is_taken_for_one(model, chain):
    assert is_chain(model) == chain


def test_measuring_norms_leaves_no_forward_hook_behind_also_after_a_failure(make_run, measured):
    model = Convolutional()
    measured(SpectralNorm(), make_run(model, torch.zeros(5, 1, 6, 7)))
    left_out = []
    run = make_run(model, torch.zeros(5, 3, 6, 7))
    run.bind(lambda plugin, seconds: True, lambda plugin, message: left_out.append(message))
    norms = measured(SpectralNorm(), run)["spectral_norm/weight"].value
    assert np.isnan(norms).any() and not np.isnan(norms).all()  # of convolutions, and of the others
    assert "the model cannot be called with one sample" in left_out[0]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_norms_start_from_the_vectors_of_the_last_time_also_after_a_resume(monkeypatch, make_run, measured):
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
    assert next(v for v in started if v)["weight"].equal(first.state_dict()["conv"])


def test_no_bound_is_given_for_attention(make_run, measured):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0].mean(1)

    result = measured(SpectralNorm(), make_run(Attention(), torch.zeros(5, 3, 4)))
    assert list(result) == ["spectral_norm/weight"]
    assert result["spectral_norm/weight"].coords["layer"].values.tolist() == ["attention", "attention.out_proj"]


def test_weights_are_measured_without_a_batch_and_convolutions_once_the_model_was_called(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    run = make_run(model, torch.zeros(5, 1, 4, 4))
    right = measured(SpectralNorm(), run)["spectral_norm/weight"].value
    batches, run.batches = run.batches, {}
    probe = SpectralNorm()
    before = measured(probe, run)["spectral_norm/weight"]
    assert np.isnan(before.value[0]) and before.value[1] == right[1]
    run.shown = batches["train"]
    after = measured(probe, run)["spectral_norm/weight"]
    np.testing.assert_allclose(after.value, right, rtol=1e-4)
    assert after.coords["layer"].values.tolist() == before.coords["layer"].values.tolist()


def test_a_search_goes_on_from_turn_to_turn_where_a_turn_may_take_no_longer(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 3))
    run = make_run(model, torch.zeros(5, 3, 8, 8))
    right = measured(SpectralNorm(), run)["spectral_norm/weight"].value
    run.bind(lambda plugin, seconds: True, lambda plugin, message: None, lambda: 0.0)
    probe = SpectralNorm()
    turns = [measured(probe, run) for _ in range(100)]
    assert turns[0]["spectral_norm/unconverged"].value == 1 and turns[0]["spectral_norm/weight"].value[0] < right[0]
    assert [turn["spectral_norm/weight"].value[0] for turn in turns] == pytest.approx(
        sorted(turn["spectral_norm/weight"].value[0] for turn in turns), rel=1e-5
    )
    assert turns[-1]["spectral_norm/weight"].value[0] == pytest.approx(right[0], rel=1e-2)


def told_by(run):
    told = []
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    return told


class Beside(nn.Module):
    """A layer that calls nothing else, beside one that cannot be measured, and a matrix of its own."""

    def __init__(self, other):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other, self.last = nn.Linear(3, 4), other, nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x))


class Raises(nn.Linear):
    @property
    def weight(self):
        raise RuntimeError("it is\nnot here")


def raising():
    layer = nn.Linear(3, 3)
    layer.__class__ = Raises
    return layer


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (nn.Linear(3, 3, device="meta"), r"other \(Linear: The matrix is on the meta device: it holds no numb"),
        (nn.Embedding(3, 3, device="meta"), r"other \(Embedding: The matrix is on the meta device"),
        (raising(), r"other \(Raises: it is"),
    ],
)
def test_a_layer_that_cannot_be_measured_is_named_and_costs_no_other(make_run, measured, other, reason):
    run = make_run(Beside(other), torch.zeros(5, 3))
    told, probe = told_by(run), SpectralNorm(chain=True)
    for _ in range(2):
        found = measured(probe, run)
        layers = found["spectral_norm/weight"]
        assert layers.coords["layer"].values.tolist() == ["first", "last"] and np.isfinite(layers.value).all()
        assert "lipschitz/spectral_norm_product" not in found  # a factor of which is not known
    assert len(set(told)) == 1 and re.search(reason, told[0]) and "\n" not in told[0]


def test_a_layer_that_cannot_be_measured_later_is_nan_then(make_run, measured):
    model = Beside(nn.Linear(3, 3))
    run, probe = make_run(model, torch.zeros(5, 3)), SpectralNorm()
    measured(probe, run)
    model.other = nn.Linear(3, 3, device="meta")
    layers = measured(probe, run)["spectral_norm/weight"]
    assert layers.coords["layer"].values.tolist() == ["first", "other", "last"]
    assert np.isnan(layers.value).tolist() == [False, True, False]


class ComplexConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 1, dtype=torch.complex64), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.conv(x[:, None].to(torch.complex64)).abs().flatten(1))


def test_a_complex_convolution_costs_no_other(make_run, measured):
    run = make_run(ComplexConvolution(), torch.zeros(5, 3))
    told = told_by(run)
    assert measured(SpectralNorm(), run)["spectral_norm/weight"].coords["layer"].values.tolist() == ["head"]
    assert "conv (Conv1d: The norm of a complex convolution" in told[0]


@pytest.mark.parametrize("size", [5, 530], ids=["svd", "search"])
def test_complex_matrices_are_measured(make_run, measured, size):
    torch.manual_seed(0)
    layer = nn.Linear(size, size + 1, dtype=torch.complex64)
    layers = measured(SpectralNorm(), make_run(Beside(layer), torch.zeros(5, 3)))["spectral_norm/weight"]
    expected = torch.linalg.matrix_norm(layer.weight.detach(), 2)
    np.testing.assert_allclose(layers.value[1], expected, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: nn.Linear(0, 3), lambda: nn.Embedding(0, 3), lambda: Empty()])
def test_a_weight_without_a_number_stretches_nothing(make_run, measured, make):
    with warnings.catch_warnings(action="ignore"):  # torch, of initialising nothing
        model = Beside(make())
    layers = measured(SpectralNorm(), make_run(model, torch.zeros(5, 3)))["spectral_norm/weight"]
    assert layers.coords["layer"].values.tolist() == ["first", "other", "last"] and layers.value[1] == 0


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 0, 3))


def test_a_model_that_refuses_one_sample_is_called_with_all(make_run, measured):
    class Refuses(Convolutional):
        def forward(self, image):
            if len(image) == 1:
                raise ValueError("one sample")
            return super().forward(image)

    torch.manual_seed(0)
    model = Convolutional()
    expected = measured(SpectralNorm(), make_run(model, torch.zeros(5, 1, 6, 7)))["spectral_norm/weight"]
    refuses = Refuses()
    refuses.load_state_dict(model.state_dict())
    run = make_run(refuses, torch.zeros(5, 1, 6, 7))
    told = told_by(run)
    np.testing.assert_array_equal(measured(SpectralNorm(), run)["spectral_norm/weight"].value, expected.value)
    assert not [message for message in told if "one sample" in message]


def test_a_tied_matrix_is_listed_once_and_is_a_factor_of_the_bound_each_time(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    found = measured(SpectralNorm(), make_run(model, torch.zeros(5, 3)))
    layers = found["spectral_norm/weight"]
    assert layers.coords["layer"].values.tolist() == ["0", "4"]
    expected = layers.value[0] ** 2 * layers.value[1]
    assert found["lipschitz/spectral_norm_product"].value == pytest.approx(expected, rel=1e-6)
    assert "lipschitz/max_norm" in found


def test_large_matrices_are_searched(make_run, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(600, 700, bias=False), nn.Linear(700, 3, bias=False))
    run = make_run(model, torch.zeros(5, 600))
    probe = SpectralNorm()
    norms = measured(probe, run)["spectral_norm/weight"].value
    right = [torch.linalg.matrix_norm(layer.weight.double(), 2).item() for layer in model]
    np.testing.assert_allclose(norms, right, rtol=1e-4)
    assert list(probe.state_dict()) == ["0"]
    resumed = SpectralNorm()
    resumed.load_state_dict(probe.state_dict())
    np.testing.assert_allclose(measured(resumed, run)["spectral_norm/weight"].value, right, rtol=1e-4)
