"""A small model's training loop, a probe and a sink for it."""

import gc

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from probes import Measurement, Probe, hookimpl


class Norm(Probe):
    name = "norm"

    def measure(self, run, step):
        yield Measurement("norm/weight", run.model.weight.norm(), unit="1")


class Memory:
    """A sink that remembers everything."""

    name = "memory"

    def __init__(self):
        self.rows, self.events, self.calls = [], [], []

    @hookimpl
    def on_attach(self, run):
        self.calls.append("on_attach")

    @hookimpl
    def write(self, measurements):
        self.rows += measurements

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    @hookimpl
    def flush(self):
        self.calls.append("flush")

    @hookimpl
    def on_detach(self):
        self.calls.append("on_detach")

    def steps(self, name):
        return [row.step for row in self.rows if row.name == name]


def step_hooks(collect=True):
    """The step hooks of all optimizers; of other tests, only what is still alive and so will not go by itself."""
    if collect and (_global_optimizer_pre_hooks or _global_optimizer_post_hooks):
        gc.collect()
    return {*_global_optimizer_pre_hooks, *_global_optimizer_post_hooks}


def run_steps(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()
