"""SpectralNorm of layers that are not torch's own: matrices stored anyhow, stacks of experts, low-rank updates."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import probes_fourier.spectral_norm
from probes_fourier import SpectralNorm, affine_spectral_norm, module_spectral_norm


class Transposed(nn.Module):
    """y = x W + b, with W stored as (inputs, outputs), as in Hugging Face's GPT-2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class LowRank(nn.Module):
    """A frozen layer with an update of rank two beside it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.A, self.B = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x):
        return self.base(x) + 0.5 * (x @ self.A.T) @ self.B.T

    @property
    def whole(self):
        return self.base.weight + 0.5 * self.B @ self.A


class Adapter(nn.Module):
    """The same, as a library of adapters has it: the factors are modules in a dict."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, outputs, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + 2 * self.lora_B["default"](self.lora_A["default"](x))

    @property
    def whole(self):
        return self.base_layer.weight + 2 * self.lora_B["default"].weight @ self.lora_A["default"].weight


class Experts(nn.Module):
    """A mixture whose weights are stacked: (experts, inputs, outputs)."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x):
        hidden = F.relu(torch.einsum("ni,eio->neo", x, self.up))
        return torch.einsum("neo,eoi->ni", hidden, self.down)


def norm(matrix):
    return np.linalg.norm(matrix.detach().numpy(), 2)


def norms_of(model, inputs, make_run, measured, **settings):
    found = measured(SpectralNorm(**settings), make_run(model, inputs))
    layers = found["spectral_norm/weight"]
    return dict(zip(layers.coords["layer"].values.tolist(), layers.value.tolist(), strict=True)), found


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_matrices_are_measured_as_they_are_stored(make_run, measured):
    model = nn.Sequential(Transposed(4, 6), nn.GELU(), Transposed(6, 3))
    norms, _ = norms_of(model, torch.randn(5, 4), make_run, measured)
    assert norms == {"0": pytest.approx(norm(model[0].weight)), "2": pytest.approx(norm(model[2].weight))}


def test_stacks_of_matrices_are_one_map_of_blocks(make_run, measured):
    model = nn.Sequential(nn.Linear(4, 4), Experts())
    norms, _ = norms_of(model, torch.randn(5, 4), make_run, measured)
    assert list(norms) == ["0", "1.up", "1.down"]
    assert norms["1.up"] == pytest.approx(max(map(norm, model[1].up)))
    assert norms["1.down"] == pytest.approx(max(map(norm, model[1].down)))


def test_large_stacks_are_searched(monkeypatch):
    monkeypatch.setattr(probes_fourier.spectral_norm, "DIRECT", 3)
    experts = Experts()
    experts.up = nn.Parameter(torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0)))
    found = module_spectral_norm(experts, tol=1e-6)
    assert found["up"].iterations > 0 and found["up"].vector.shape == (3, 50)
    assert found["up"].norm.item() == pytest.approx(max(map(norm, experts.up)), rel=1e-5)
    again = module_spectral_norm(experts, vector={"up": found["up"].vector}, tol=1e-6)
    assert again["up"].iterations < found["up"].iterations


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_block_that_overtakes_is_found(groups):
    """Parts that do not mix: the vector of the last search is in the one whose norm was the largest then."""
    torch.manual_seed(0)
    layer, vector = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False), None
    with torch.no_grad():
        layer.weight[2:] = layer.weight[:2]
        layer.weight[:2] *= 3
        for _ in range(50):
            found = module_spectral_norm(layer, (4, 6, 6), vector, tol=1e-4)["weight"]
            vector = found.vector
            layer.weight[:2] *= 0.97
            layer.weight[2:] *= 1.03
        again, last = (
            module_spectral_norm(layer, (4, 6, 6), start, tol=1e-6)["weight"].norm.item() for start in (None, vector)
        )
    assert last == pytest.approx(again, rel=1e-5)


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / self.weight.std((1, 2, 3), keepdim=True), self.bias)


def test_a_convolution_that_computes_its_weight_is_the_map_that_it_is():
    torch.manual_seed(0)
    layer = Standardized(2, 3, 3, padding=1)
    dense = torch.stack([(layer(x) - layer(0 * x)).flatten() for x in torch.eye(32).view(32, 1, 2, 4, 4)])
    assert module_spectral_norm(layer, (2, 4, 4))["weight"].norm.item() == pytest.approx(norm(dense), rel=1e-4)


def test_vectors_of_millions_of_numbers_are_of_unit_length():
    """Their squares in single precision add up to too little, and no tolerance was reached: 2.00014 here."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    found = module_spectral_norm(layer, (1, 2048, 2048))["weight"]
    assert found.norm.item() == pytest.approx(2, rel=2e-6) and found.converged


@pytest.mark.parametrize("kind", [LowRank, Adapter])
def test_a_layer_with_a_low_rank_update_is_measured_as_the_map_it_is(kind, make_run, measured):
    model = nn.Sequential(kind(5, 7), nn.ReLU(), nn.Linear(7, 2))
    norms, _ = norms_of(model, torch.randn(9, 5), make_run, measured)
    assert norms["0"] == pytest.approx(norm(model[0].whole), rel=1e-4)
    parts = {LowRank: ["0.A", "0.B", "0.base"], Adapter: ["0.base_layer", "0.lora_A.default", "0.lora_B.default"]}
    assert list(norms) == ["0", *parts[kind], "2"]
    assert norms[parts[kind][0]] == pytest.approx(
        norm(next(iter(dict(model[0].named_parameters()).values()))), rel=1e-4
    )


def test_of_sequences_it_is_the_norm_of_one_place(make_run, measured):
    model = LowRank(5, 7)
    norms, _ = norms_of(nn.Sequential(model), torch.randn(4, 6, 5), make_run, measured)
    assert norms["0"] == pytest.approx(norm(model.whole), rel=1e-4)


def test_what_is_no_linear_map_is_measured_in_its_parts(make_run, measured):
    model = nn.Sequential(Experts())
    assert affine_spectral_norm(model[0], (4,)) is None
    norms, found = norms_of(model, torch.randn(5, 4), make_run, measured)
    assert list(norms) == ["0.up", "0.down"] and "spectral_norm/unconverged" not in found


def test_the_product_of_a_chain_takes_each_link_once(make_run, measured):
    model = nn.Sequential(LowRank(5, 7), nn.ReLU(), nn.Linear(7, 2))
    _, found = norms_of(model, torch.randn(9, 5), make_run, measured, chain=True)
    expected = norm(model[0].whole) * norm(model[2].weight)
    assert found["lipschitz/spectral_norm_product"].value == pytest.approx(expected, rel=1e-4)


def test_weights_that_scale_are_no_matrices(make_run, measured):
    norms, _ = norms_of(
        nn.Sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(12, 1)), torch.randn(5, 3, 4), make_run, measured
    )
    assert list(norms) == ["2"]


def test_a_parameter_of_the_model_itself_keeps_its_name(make_run, measured):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.layer = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, 2)

        def forward(self, x):
            return self.layer((x + self.place).tanh())

    model = Positions()
    norms, _ = norms_of(model, torch.randn(4, 6, 5), make_run, measured)
    assert norms == {"place": pytest.approx(norm(model.place)), "layer": pytest.approx(norm(model.layer.weight))}


def test_norms_are_nan_where_a_weight_is_not_finite(make_run, measured):
    model = nn.Sequential(Experts(), LowRank(4, 3))
    with torch.no_grad():
        model[0].up[1, 0, 0] = math.nan
        model[1].A[0, 0] = math.inf
    norms, _ = norms_of(model, torch.randn(5, 4), make_run, measured)
    assert math.isnan(norms["0.up"]) and math.isnan(norms["1.A"]) and norms["0.down"] > 0 and norms["1.base"] > 0
