"""Tangent features by plain loops in float64, for the tests of what is read off a kernel."""

import pytest
import torch
from torch import nn


def naive_features(model, inputs):
    """Rows (output, example), columns parameters: one gradient at a time."""
    rows = []
    for a in range(model(inputs).shape[1]):
        for i in range(len(inputs)):
            gradients = torch.autograd.grad(model(inputs[i : i + 1])[0, a], list(model.parameters()))
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


@pytest.fixture
def small():
    """A model of 3 outputs, 7 inputs, and its tangent features."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    inputs = torch.randn(7, 4, dtype=torch.float64)
    return model, inputs, naive_features(model, inputs)


@pytest.fixture
def features():
    """Random tangent features of 3 outputs and 7 examples, and their kernel."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(3, 7, 30, dtype=torch.float64, generator=generator) + 0.5
    return phi, torch.einsum("aip,bjp->aibj", phi, phi)
