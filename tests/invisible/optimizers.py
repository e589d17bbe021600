"""Ways to optimize: each makes the optimizers of a model, and may change something midway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Muon, Optimizer


@dataclass(frozen=True)
class Optimization:
    make: Callable[[nn.Module], list[Optimizer]]
    midway: Callable[[nn.Module, list[Optimizer]], None] = lambda model, optimizers: None
    """Called when half of the epochs are over."""


def halves(model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    half = len(parameters) // 2
    return [SGD(parameters[:half], lr=0.05, momentum=0.9), Adam(parameters[half:], lr=0.01)]


def muon(model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    return [Muon(matrices, lr=0.01), AdamW([p for p in parameters if p.ndim != 2], lr=0.01)]


def frozen(model: nn.Module) -> list[Optimizer]:
    *body, weight, bias = model.parameters()
    for parameter in body:
        parameter.requires_grad_(False)
    return [Adam([weight, bias], lr=0.01)]


def unfreeze(model: nn.Module, optimizers: list[Optimizer]) -> None:
    *body, _, _ = model.parameters()
    for parameter in body:
        parameter.requires_grad_(True)
    optimizers[0].add_param_group({"params": body, "lr": 0.003})


OPTIMIZERS: dict[str, Optimization] = {
    "SGD momentum": Optimization(lambda model: [SGD(model.parameters(), lr=0.05, momentum=0.9)]),
    "Adam": Optimization(lambda model: [Adam(model.parameters(), lr=0.01)]),
    "AdamW fused": Optimization(lambda model: [AdamW(model.parameters(), lr=0.01, fused=True)]),
    "AdamW foreach": Optimization(lambda model: [AdamW(model.parameters(), lr=0.01, foreach=True)]),
    "LBFGS": Optimization(lambda model: [LBFGS(model.parameters(), lr=0.05, max_iter=3)]),
    "Muon and AdamW": Optimization(muon),
    "two halves": Optimization(halves),
    "groups added": Optimization(frozen, unfreeze),
}
