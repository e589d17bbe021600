"""A model with a layer of each kind that the guard has to mind."""

import pytest
import torch
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))
    net[1].eval()  # a layer the user froze on purpose
    net[0].bias.requires_grad_(False)
    net(torch.randn(5, 3)).sum().backward()
    return net
