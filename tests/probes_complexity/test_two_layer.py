"""The capacity of two-layer networks, against sums over units, and as the bound that it is."""

import itertools
import math

import pytest
import torch
from torch import nn

from probes_complexity.chain import NotDefined
from probes_complexity.two_layer import (
    TwoLayer,
    two_layer_bound,
    two_layer_capacity,
    two_layer_matrices,
    unit_wise_capacity,
)


def draw(c=3, h=5, d=4, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(c, h), (h, d), (h, d), (n, d)]
    return TwoLayer(*(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes))


def length(numbers):
    return math.sqrt(math.fsum(float(number) ** 2 for number in numbers))


def test_capacities_match_sums_over_units():
    network = draw()
    v, u, u0, x = network
    n, c = len(x), len(v)
    size = length(x.flatten())
    layer = math.sqrt(c) * length(v.flatten()) * (length((u - u0).flatten()) * size + length((u0 @ x.T).flatten()))
    assert float(two_layer_capacity(network)) == pytest.approx(layer / math.sqrt(n), rel=1e-12)
    by_unit = 0.0
    for j in range(len(u)):
        response = length([u0[j] @ row for row in x])
        by_unit += length(v[:, j]) * (length(u[j] - u0[j]) * size + response)
    assert float(unit_wise_capacity(network)) == pytest.approx(by_unit / math.sqrt(n), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_unit_by_unit_is_never_more(seed):
    network = draw(seed=seed)
    assert math.sqrt(3) * float(unit_wise_capacity(network)) <= float(two_layer_capacity(network))


def test_unit_wise_capacity_does_not_change_when_units_are_rescaled():
    v, u, u0, x = draw()
    scale = torch.tensor([0.5, 2.0, 3.0, 1.0, 0.1], dtype=torch.float64)
    rescaled = TwoLayer(v / scale, u * scale[:, None], u0 * scale[:, None], x)
    assert float(unit_wise_capacity(rescaled)) == pytest.approx(
        float(unit_wise_capacity(TwoLayer(v, u, u0, x))), rel=1e-12
    )


def test_unit_wise_capacity_bounds_the_rademacher_complexity_of_the_ramp_loss():
    """Theorem 1: any of the networks with these unit impacts and capacities, here as many as were drawn."""
    network = draw(c=2, h=2, d=2, n=4)
    v, u, u0, x = network
    targets, gamma = torch.tensor([0, 1, 0, 1]), 1.0
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(400):
        step = torch.randn(u.shape, dtype=torch.float64, generator=generator)
        other = u0 + step / step.norm(dim=1, keepdim=True) * (u - u0).norm(dim=1, keepdim=True)
        outer = torch.randn(v.shape, dtype=torch.float64, generator=generator)
        outer = outer / outer.norm(dim=0) * v.norm(dim=0)
        outputs = (x @ other.T).clamp_min(0) @ outer.T
        margin = (outputs.gather(1, targets[:, None]) - outputs.gather(1, 1 - targets[:, None]))[:, 0]
        losses.append((1 - margin / gamma).clamp(0, 1))
    losses = torch.stack(losses)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    found = float((signs @ losses.T / 4).max(1).values.mean())
    bound = (2 * math.sqrt(4) + 2) / (gamma * math.sqrt(4)) * float(unit_wise_capacity(network))
    assert 0.1 < found <= bound


def test_bound_adds_the_price_of_the_units():
    assert float(two_layer_bound(torch.tensor(10.0), 0.5, 100, 25)) == pytest.approx(10 / (0.5 * 10) + 0.5, rel=1e-12)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_the_matrices_read_off_a_model_are_the_model(first, second):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5, bias=first), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3, bias=second)
    ).double()
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    start = nn.Linear(6, 5, bias=first).double()
    start.load_state_dict({name.removeprefix("1."): p for name, p in initial.items() if name.startswith("1.")})
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    images = torch.randn(7, 2, 3, dtype=torch.float64)
    v, u, u0, x = two_layer_matrices(model.eval(), images, initial)
    with torch.no_grad():
        torch.testing.assert_close((x @ u.T).clamp_min(0) @ v.T, model(images), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close((x @ u0.T)[:, :5], start(images.flatten(1)), rtol=1e-12, atol=1e-12)
        # What was not there before training neither: the constant unit has come nowhere.
        expected = sum(
            float((p - initial[name]).square().sum()) for name, p in model.named_parameters() if "1." in name
        )
    assert float((u - u0).square().sum()) == pytest.approx(expected, rel=1e-12)
    assert v.shape == (3, 5 + second) and x.shape == (7, 6 + (first or second))
    assert not any(module._forward_hooks for module in model.modules())


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.readout = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x):
        return self.readout(self.hidden(x).relu())


def test_a_forward_of_its_own_is_read_only_when_said():
    torch.manual_seed(0)
    model, x = TwoLayers(), torch.randn(3, 4)
    with pytest.raises(NotDefined, match=r"`model` \(TwoLayers\) must be two linear layers .* chain=True"):
        two_layer_matrices(model, x, dict(model.named_parameters()))
    v, u, _, inputs = two_layer_matrices(model, x, dict(model.named_parameters()), chain=True)
    torch.testing.assert_close(((inputs @ u.T).clamp_min(0) @ v.T).float(), model(x).detach())


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([nn.Linear(4, 4)], "it has Linear"),
        ([nn.Linear(4, 4), nn.ReLU()], "it has Linear, ReLU"),
        ([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)], "it has Linear, Tanh, Linear"),
        ([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()], "it has Linear, ReLU, Linear, ReLU"),
        ([nn.Linear(4, 4), nn.Linear(4, 2)], "it has Linear, Linear"),
        ([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)], "it has Linear, ReLU, Linear, "),
        ([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)], "BatchNorm1d"),
    ],
)
def test_other_models_are_refused(layers, found):
    model = nn.Sequential(*layers).eval()
    with pytest.raises(NotDefined, match=found):
        two_layer_matrices(model, torch.zeros(2, 4), dict(model.named_parameters()))


def test_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    initial = dict(model.named_parameters())
    with pytest.raises(ValueError, match=r"for '0\.bias', of shape \(4,\), it holds nothing"):
        two_layer_matrices(model, torch.zeros(2, 4), {"0.weight": initial["0.weight"]})
    with pytest.raises(NotDefined, match="no matrices of their own"):
        two_layer_matrices(model, torch.zeros(2, 3, 4), initial)
    with pytest.raises(ValueError, match=r"\(3, 5\), \(5, 4\), \(5, 4\), \(6, 3\)"):
        two_layer_capacity(draw()._replace(inputs=torch.zeros(6, 3)))
    with pytest.raises(ValueError, match="must be positive, got 0, 1 and 2"):
        two_layer_bound(1.0, 0, 1, 2)
