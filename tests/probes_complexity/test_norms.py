"""Counts and lengths of parameters, against sums over single numbers."""

import math

import pytest
import torch
from torch import nn

from probes_complexity.norms import distance_from_initialization, frobenius_norm, parameter_count


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.full((50,), 100.0), requires_grad=False)
        self.norm = nn.BatchNorm1d(3)


def numbers(model):
    """Every trainable number once."""
    return [float(number) for p in set(model.parameters()) if p.requires_grad for number in p.detach().flatten()]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


def test_tied_parameters_count_once_and_frozen_ones_and_buffers_not(model):
    assert parameter_count(model) == 9 + 3 + 6 == len(numbers(model))


def test_frobenius_norm_is_the_root_of_all_squares(model):
    expected = math.sqrt(math.fsum(number**2 for number in numbers(model)))
    norm = frobenius_norm(model)
    assert norm.dtype == torch.float64 and float(norm) == pytest.approx(expected, rel=1e-12)


def test_frobenius_norm_of_many_half_precision_numbers_is_exact():
    layer = nn.Linear(200, 300, bias=False).half()
    nn.init.constant_(layer.weight, 2.0)
    assert float(frobenius_norm(layer)) == pytest.approx(2 * math.sqrt(60000), rel=1e-12)


def test_distance_is_zero_at_first_and_then_that_of_the_parameters_alone(model):
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert distance_from_initialization(model, initial) == 0
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape))  # the frozen one moves too, and does not count
    moved = [
        (a - b) ** 2
        for name, p in model.named_parameters()
        if p.requires_grad
        for a, b in zip(p.flatten().tolist(), initial[name].flatten().tolist(), strict=True)
    ]
    assert float(distance_from_initialization(model, initial)) == pytest.approx(math.sqrt(math.fsum(moved)), rel=1e-12)


def test_refused(model):
    with pytest.raises(ValueError, match="no trainable parameter"):
        frobenius_norm(nn.ReLU())
    initial = dict(model.named_parameters())
    with pytest.raises(ValueError, match=r"for 'first.weight', of shape \(3, 3\), it holds nothing"):
        distance_from_initialization(model, {})
    with pytest.raises(ValueError, match=r"'first.bias', of shape \(3,\), it holds a tensor of shape \(1,\)"):
        distance_from_initialization(model, {**initial, "first.bias": torch.zeros(1)})


def test_frobenius_norm_of_complex_parameters_counts_both_parts():
    model = nn.Linear(2, 3, dtype=torch.cfloat, bias=False)
    expected = model.weight.detach().abs().double().square().sum().sqrt()
    torch.testing.assert_close(frobenius_norm(model), expected, rtol=1e-6, atol=0)
