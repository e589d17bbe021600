"""The device under test, and a small training on it, with probes or without."""

import random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Measurement, Probe, ProbeManager, at
from probes.sinks.recorder import Recorder


def accelerator():
    """What torch finds; the CPU where there is none."""
    if hasattr(torch, "accelerator"):  # since torch 2.6
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    found = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
    return torch.device(next((name for name, module in found.items() if module.is_available()), "cpu"))


DEVICE = accelerator()
DTYPES = [torch.float32] if DEVICE.type == "mps" else [torch.float32, torch.float64]
"""What it computes in, without loss."""


def device_in_words():
    if DEVICE.type == "cpu":
        return "the CPU, for torch finds no accelerator"
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else torch.xpu.get_device_name() if (
        DEVICE.type == "xpu"
    ) else "an Apple GPU" if DEVICE.type == "mps" else "an accelerator"  # fmt: skip
    return f"{name} ({DEVICE.type})"


class Never(Probe):
    """Attached, and never due."""

    name = "never"

    def __init__(self):
        super().__init__(at([10**9]))

    def measure(self, run, step):
        yield Measurement("never", 0.0)


class Careless(Probe):
    """Draws from every global generator, trains, and leaves buffers, modes and hooks as they come."""

    name = "careless"
    needs = frozenset({"targets"})

    def measure(self, run, step):
        batch = run.batch("train")
        run.model.train()
        F.cross_entropy(run.forward(batch).float(), batch.targets).backward()
        torch.rand(3), torch.rand(3, device=DEVICE), random.random(), np.random.rand()  # noqa: NPY002
        run.model.register_forward_hook(lambda *_: None)
        torch.backends.cudnn.benchmark = True
        yield Measurement("careless", torch.ones((), device=DEVICE))


def network():
    """A convolution, batch normalisation, dropout and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3)
    )


def perceptron():
    """A network without anything random."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))


def images(n=32):
    """Images and labels, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=generator), torch.randint(3, (n,), generator=generator)


def vectors(n=200):
    """Three clusters in six dimensions, and which one each is of, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (n,), generator=generator)
    return 2 * torch.randn(3, 6, generator=generator)[labels] + torch.randn(n, 6, generator=generator), labels


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class Loop:
    """A plain loop; tests change a part of it."""

    def __init__(self, make=network, data=images, optimizer=sgd, device=DEVICE, dtype=torch.float32):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
        self.model = make().to(device, dtype)  # initialised on the CPU: the same weights on any device
        x, y = data()
        self.x, self.y = x.to(device, dtype), y.to(device)
        self.optimizer = optimizer(self.model.parameters())
        self.called = self.model

    def loss(self, number):
        return F.cross_entropy(self.called(self.x), self.y)

    def update(self, number):
        self.optimizer.zero_grad()
        self.loss(number).backward()
        self.optimizer.step()


class Result(NamedTuple):
    state: dict[str, Any]
    rows: list[Measurement]
    manager: ProbeManager | None
    loop: Loop


def train(probes=(), make=Loop, steps=6, **settings):
    """Train, with probes or without."""
    loop, sink, manager = make(), Recorder(), None
    if probes:
        # Exact schedules, and no exception is swallowed.
        settings = {"overhead": None, "on_error": "raise", "sinks": [sink], **settings}
        manager = ProbeManager(loop.called, probes=probes, **settings).attach()
    for number in range(steps):
        loop.update(number)
    if manager is not None:
        manager.detach()
    return Result(everything(loop), sink.rows, manager, loop)


def everything(loop):
    """Weights, buffers, gradients, optimizer state, modes, and the next numbers of every global generator."""
    state = {f"state {name}": value for name, value in loop.model.state_dict().items()}
    state |= {f"gradient {name}": parameter.grad for name, parameter in loop.model.named_parameters()}
    for number, values in loop.optimizer.state_dict()["state"].items():
        state |= {f"optimizer {number} {key}": value for key, value in values.items()}
    state["modes"] = [module.training for module in loop.model.modules()]
    state["hooks"] = [len(module._forward_hooks) for module in loop.model.modules()]
    state["drawn"] = [random.random(), np.random.rand(), torch.backends.cudnn.benchmark]  # noqa: NPY002
    state["drawn on the CPU"], state["drawn on the device"] = torch.rand(4), torch.rand(4, device=DEVICE)
    return state


def differences(first, second):
    """What is not equal to the last bit."""

    def bits(value):
        return value.detach().cpu().reshape(-1).view(torch.uint8).tolist() if isinstance(value, Tensor) else value

    return [name for name in first.keys() | second.keys() if bits(first.get(name)) != bits(second.get(name))]


def values(rows, name, step=None):
    """The numbers of a stream, of one step or of all."""
    return np.array([row.value for row in rows if row.name == name and step in (None, row.step)])
