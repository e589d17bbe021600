"""Sharpness, against all corners of the box and against a search over it."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes_complexity.sharpness import sharpness


def corners(model, evaluate, epsilon):
    """The largest loss over all corners of the box, and the loss in its middle."""
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    half = epsilon * (start.abs() + 1)
    losses = []
    for signs in itertools.product((-1.0, 1.0), repeat=len(start)):
        torch.nn.utils.vector_to_parameters(start + half * torch.tensor(signs), model.parameters())
        losses.append(float(evaluate().detach()))
    torch.nn.utils.vector_to_parameters(start, model.parameters())
    return max(losses), float(evaluate().detach())


def linear(outputs=2):
    torch.manual_seed(0)
    return nn.Linear(3, outputs).double(), torch.randn(5, 3, dtype=torch.float64)


def test_sharpness_of_a_linear_loss_is_that_of_the_best_corner():
    model, x = linear()
    y = torch.randn(5, 2, dtype=torch.float64)

    def loss(outputs, targets):
        return 50 + (outputs * targets).mean()

    top, middle = corners(model, lambda: loss(model(x), y), 0.1)
    found = sharpness(model, x, y, loss=loss, epsilon=0.1, steps=1)
    assert float(found) == pytest.approx(100 * (top - middle) / (1 + middle), rel=1e-10)
    assert found.dtype == torch.float64


@pytest.mark.parametrize(("epsilon", "least"), [(1e-3, 1 - 1e-10), (0.1, 0.9), (1.0, 0.9)])
def test_sharpness_of_a_convex_loss_is_near_that_of_the_best_corner_and_not_above(epsilon, least):
    model, x = linear()
    y = torch.tensor([0, 1, 1, 0, 1])
    top, middle = corners(model, lambda: F.cross_entropy(model(x), y), epsilon)
    found = float(sharpness(model, x, y, epsilon=epsilon)) / (100 * (top - middle) / (1 + middle))
    assert least <= found <= 1 + 1e-10


def test_sharpness_of_a_quadratic_at_its_minimum_is_found_from_rounding_alone():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0 + 1e-12, dtype=torch.float64)
    found = float(sharpness(model, x, y, loss=F.mse_loss, epsilon=0.1))
    assert found == pytest.approx(100 * (0.1 * 3) ** 2, rel=1e-9)


def test_a_maximum_inside_the_box_is_approached_by_shorter_steps():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.0)
    x = torch.ones(1, 1, dtype=torch.float64)

    def hill(outputs, _):  # at 0.3, in a box from -1 to 1
        return 1 - (outputs - 0.3).square().mean()

    found = float(sharpness(model, x, x, loss=hill, epsilon=1.0, steps=40))
    assert found == pytest.approx(100 * 0.09 / (1 + 0.91), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_more_steps_find_no_less_and_no_more_than_there_is(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randint(0, 2, (6,))
    found = [float(sharpness(model, x, y, epsilon=0.3, steps=steps)) for steps in (1, 3, 10, 30)]
    assert found[0] >= 0 and found == sorted(found)
    top, middle = corners(model, lambda: F.cross_entropy(model(x), y), 0.3)
    # The maximum may lie inside the box, above all corners, and the search may stop short of it.
    assert found[-1] >= 0.9 * 100 * (top - middle) / (1 + middle)


def test_sharpness_of_a_stationary_point_of_zero_gradient_is_zero():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    # Both classes equally often: the output bias has no gradient either.
    assert sharpness(model, torch.randn(2, 2), torch.tensor([0, 1])) == 0


def test_frozen_parameters_do_not_move_and_tied_ones_move_together():
    model, x = linear(3)
    model.weight.requires_grad_(False)
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    tied[1].weight = tied[0].weight
    y = torch.tensor([0, 1, 2, 0, 1])
    start = model.bias.detach().clone()
    losses = []
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        with torch.no_grad():
            moved = start + 0.1 * (start.abs() + 1) * torch.tensor(signs)
            losses.append(float(F.cross_entropy(F.linear(x, model.weight, moved), y)))
    middle = float(F.cross_entropy(model(x), y).detach())
    found = float(sharpness(model, x, y, epsilon=0.1))
    assert found == pytest.approx(100 * (max(losses) - middle) / (1 + middle), rel=1e-10)
    top, middle = corners(tied, lambda: F.cross_entropy(tied(x), y), 0.01)
    assert float(sharpness(tied, x, y, epsilon=0.01)) == pytest.approx(100 * (top - middle) / (1 + middle), rel=1e-6)


def test_sharpness_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    sharpness(model, torch.randn(5, 3, generator=torch.Generator()), torch.tensor([0, 1, 0, 1, 1]))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.is_leaf for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_half_precision_is_searched_in_float32():
    model, x = linear()
    y = torch.tensor([0, 1, 1, 0, 1])
    expected = float(sharpness(model.half().double(), x.half().double(), y))
    assert float(sharpness(model.half(), x.half(), y)) == pytest.approx(expected, rel=1e-3)


def test_a_loss_that_is_not_finite_is_not_hidden():
    model, x = linear()
    with torch.no_grad():
        model.bias.fill_(torch.nan)
    assert sharpness(model, x, torch.tensor([0, 1, 1, 0, 1])).isnan()


def test_refused():
    model, x = linear()
    y = torch.tensor([0, 1, 1, 0, 1])
    with pytest.raises(ValueError, match="must be positive, got 0 and 10"):
        sharpness(model, x, y, epsilon=0)
    with pytest.raises(ValueError, match=r"must be positive, got 0\.1 and 0"):
        sharpness(model, x, y, epsilon=0.1, steps=0)
    with pytest.raises(ValueError, match="must not be negative for its relative rise to mean anything, got -3"):
        sharpness(model, x, y, loss=lambda f, t: f.mean() * 0 - 3)
    with pytest.raises(ValueError, match="batch normalisation in training mode"):
        sharpness(nn.Sequential(model, nn.BatchNorm1d(2)), x, y)
