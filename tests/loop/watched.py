"""A small model, a batch, a loop, and a manager that watches them."""

import torch
from torch import nn

from probes import Measurement, Probe, ProbeManager, every


class Seen(Probe):
    """Yields the mean of the output on the train batch."""

    needs = frozenset({"batch"})

    def measure(self, run, step):
        yield Measurement("seen/mean", run.evaluate("train").mean())


def net(inputs=4, outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def train(model, loss, x, optimizer=None, steps=2, **call):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x, **call)).backward()
        optimizer.step()


def attached(model, **settings):
    return ProbeManager(model, probes=[Seen(every(1))], **{"sinks": [], "overhead": None, **settings}).attach()


X = torch.arange(24.0).reshape(6, 4) / 24
Y = torch.tensor([0, 1, 2, 0, 1, 2])
