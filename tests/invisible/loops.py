"""Training loops as people write them, each a variant of the plain one, with the true updates counted by the loop."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, Dataset

from probes.guard.fingerprint import tensor_hash

from . import models

BATCH, EPOCHS = 24, 2

Micro = list[tuple[Tensor, Tensor]]


class Augmented(Dataset):
    """Draws from each global random state for each sample, as augmentations do."""

    def __init__(self) -> None:
        self.x, self.y = models.data()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index] + 0.1 * torch.randn(2) + 0.1 * random.random()
        return x + 0.1 * np.random.rand(), self.y[index]  # noqa: NPY002 - the state that augmentations draw from


class Loop:
    """A plain loop.

    Args:
        called: What the loop calls: the model, or its compiled wrapper.
        model: The model.
        optimizers: Its optimizers; the first one alone when it takes a closure.
        observe: Called with the place after whatever may have changed something.
        midway: Called when half of the epochs are over.
    """

    accumulate = 1

    def __init__(
        self,
        called: nn.Module,
        model: nn.Module,
        optimizers: list[Optimizer],
        observe: Callable[[str], None],
        midway: Callable[[nn.Module, list[Optimizer]], None],
    ) -> None:
        self.called, self.model, self.optimizers, self.observe, self.midway = (
            called, model, optimizers, observe, midway,
        )  # fmt: skip
        self.loader = DataLoader(Augmented(), BATCH, shuffle=True)
        self.epoch = self.iteration = 0
        self.steps = 0
        """True updates: iterations after which a parameter was another."""
        self.order: list[str] = []
        """Fingerprints of the batches, in the order of the loader."""

    def train(self, until: int = EPOCHS) -> None:
        while self.epoch < until:
            if self.epoch == EPOCHS // 2:
                self.midway(self.model, self.optimizers)
            self.run_epoch()
            self.epoch += 1
        if self.epoch == EPOCHS:
            self.finish()

    def run_epoch(self) -> None:
        for micro in self.batches():
            self.iterate(micro)
            self.iteration += 1

    def batches(self) -> Iterator[Micro]:
        micro: Micro = []
        for _ in range(self.accumulate):
            for x, y in self.loader:
                self.order.append(tensor_hash(x))
                micro.append((x, y))
                if len(micro) == self.accumulate:
                    yield micro
                    micro = []

    def iterate(self, micro: Micro) -> None:
        if isinstance(self.optimizers[0], LBFGS):
            self.step(lambda: self.gradients(micro))
        else:
            self.gradients(micro)
            self.observe("backward")
            self.step()
        self.after_step()
        self.observe("step")

    def gradients(self, micro: Micro) -> Tensor:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for x, y in micro:
            loss = self.loss(x, y) / len(micro)
            self.backward(loss)
        return loss

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.called(x), y)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, *closure: Callable[[], Tensor]) -> None:
        before = self.weights()
        for optimizer in self.optimizers:
            self.update(optimizer, *closure)
        self.steps += before != self.weights()

    def weights(self) -> list[str]:
        return [tensor_hash(parameter) for parameter in self.model.parameters() if not is_lazy(parameter)]

    def update(self, optimizer: Optimizer, *closure: Callable[[], Tensor]) -> None:
        optimizer.step(*closure)

    def after_step(self) -> None:
        """What a variant does after the update."""

    def finish(self) -> None:
        """What a variant does when training is over."""

    def more(self) -> dict[str, nn.Module]:
        """Other models that the variant keeps."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "iteration": self.iteration, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.iteration, self.steps = state["epoch"], state["iteration"], state["steps"]


class Autocast(Loop):
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().loss(x, y)


class Scaled(Loop):
    """A gradient scaler that skips an update of the first optimizer, and one of the last, since a gradient is inf."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self, optimizer: Optimizer, *closure: Callable[[], Tensor]) -> None:
        bad = {1: 0, 3: -1}.get(self.iteration)
        if bad is not None and optimizer is self.optimizers[bad]:
            next(p for group in optimizer.param_groups for p in group["params"] if p.grad is not None).grad.fill_(
                float("inf")
            )
        if closure:
            self.scaler.step(optimizer, closure=closure[0])
        else:
            self.scaler.step(optimizer)

    def after_step(self) -> None:
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.scaler.load_state_dict(state["scaler"])


class Accumulating(Loop):
    accumulate = 2


class Clipped(Loop):
    def gradients(self, micro: Micro) -> Tensor:
        loss = super().gradients(micro)
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        return loss


class Averaged(Loop):
    """An exponential average in a deep copy, taken while the first gradients are there, and evaluated each time."""

    average: nn.Module | None = None

    def gradients(self, micro: Micro) -> Tensor:
        loss = super().gradients(micro)
        if self.average is None:
            self.average = copy.deepcopy(self.model)
        return loss

    @torch.no_grad()
    def after_step(self) -> None:
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(parameter, 0.1)
        self.average(self.loader.dataset.x)

    def more(self) -> dict[str, nn.Module]:
        return {} if self.average is None else {"average: ": self.average}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.average = copy.deepcopy(self.model)
        self.average.load_state_dict(state["average"])


class StochasticAverage(Averaged):
    def gradients(self, micro: Micro) -> Tensor:
        loss = Loop.gradients(self, micro)
        if self.average is None:
            self.average = AveragedModel(self.model)
        return loss

    def after_step(self) -> None:
        self.average.update_parameters(self.model)

    def finish(self) -> None:
        update_bn(self.loader, self.average)
        self.observe("batch norm of the average")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        Loop.load_state_dict(self, state)
        self.average = AveragedModel(self.model)
        self.average.load_state_dict(state["average"])


class EarlyExit(Loop):
    """Leaves the first epoch in its middle."""

    def run_epoch(self) -> None:
        for micro in self.batches():
            self.iterate(micro)
            self.iteration += 1
            if self.epoch == 0 and self.iteration == 2:
                break


class Evaluating(Loop):
    def evaluate(self) -> None:
        self.called.eval()
        with torch.no_grad():
            self.called(self.loader.dataset.x)
        self.called.train()
        self.observe("evaluation")

    def run_epoch(self) -> None:
        if not models.is_lazy(self.model):
            self.evaluate()
        super().run_epoch()

    def after_step(self) -> None:
        self.evaluate()


class Raising(Loop):
    """Fails in the forward, in the backward, and between backward and step, catches it, and goes on."""

    def iterate(self, micro: Micro) -> None:
        for fail in (self._between, self._in_backward, self._in_forward):
            with contextlib.suppress(Mishap, RuntimeError):
                fail(micro)
            self.observe(fail.__name__)
        super().iterate(micro)

    def _in_forward(self, micro: Micro) -> None:
        x, y = micro[0]
        self.loss(x.double(), y)

    def _in_backward(self, micro: Micro) -> None:
        loss = self.loss(*micro[0])
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        handle = trained[0].register_hook(_fail)
        try:
            loss.backward()
        finally:
            handle.remove()

    def _between(self, micro: Micro) -> None:
        self.gradients(micro)
        raise Mishap


class Mishap(Exception):
    """Raised by a loop, and caught by it."""


def _fail(gradient: Tensor) -> None:
    raise Mishap


LOOPS: dict[str, type[Loop]] = {
    "plain": Loop,
    "autocast": Autocast,
    "gradient scaler": Scaled,
    "accumulation": Accumulating,
    "clipping": Clipped,
    "average in a copy": Averaged,
    "stochastic average": StochasticAverage,
    "early exit": EarlyExit,
    "evaluation": Evaluating,
    "exceptions": Raising,
}
