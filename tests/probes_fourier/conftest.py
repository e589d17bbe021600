"""What the tests of the probes share: a model whose spectrum is known, and a run made by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from probes.batches import Batch
from probes.run import Run


class SumOfSines(nn.Module):
    """3 sin(2 pi 5 x + 1) + 0.5 sin(2 pi 20 x) of the first input, as many times as there are outputs."""

    def __init__(self, outputs=1):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, outputs + 1))
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        z = 2 * math.pi * x[:, :1]
        return self.scale * (3 * torch.sin(5 * z + 1) + 0.5 * torch.sin(20 * z))


@pytest.fixture
def Sines():
    return SumOfSines


@pytest.fixture
def make_run():
    def run(model, inputs):
        return Run(model.eval(), Path("unused"), seed=0, output=lambda o: o, batches={"train": Batch((inputs,))})

    return run


@pytest.fixture
def measured():
    """The measurements of a probe by name."""
    return lambda probe, run, step=0: {measurement.name: measurement for measurement in probe.measure(run, step)}


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.fixture
def inputs():
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
