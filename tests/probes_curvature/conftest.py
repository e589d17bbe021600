"""A small network whose Hessian can be formed."""

import pytest
import torch
from torch import nn


@pytest.fixture
def tanh():
    """A small network with classes: model, inputs, targets."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
