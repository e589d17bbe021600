"""What Experiments 3 to 7 share: a full-batch fit by Adam with probes attached, probes of its errors, their data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes import Measurement, Probe, ProbeManager
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule

from ..frame.classification import Samples
from ..frame.data import mnist, mnist_subset
from ..frame.models import MLP
from ..frame.task import Task

__all__ = ["Fitting", "Outputs", "SquaredError", "digits", "fit", "flower"]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A chain of linear layers with ReLU in between, and Adam on the whole training set at once."""

    width: int = 256
    depth: int = 6
    """Linear layers, as in Experiment 1."""
    learning_rate: float = 3e-4
    steps: int
    measure_every: int
    clip: float | None = None
    """Largest magnitude of every weight and bias, enforced after each step; None for no limit."""


def fit(
    fitting: Fitting,
    task: Task,
    x: Tensor,
    y: Tensor,
    probes: Sequence[Probe],
    batches: Mapping[str, Batch] | None = None,
    *,
    seed: int | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss,
) -> None:
    """Fit a target by full-batch Adam, with probes attached; the batch ``train`` is the training set itself.

    Args:
        x: Inputs. Shape ``(n, d)``.
        y: Target. Shape ``(n, 1)``.
        batches: Others that the probes measure on.
        seed: Of the initial weights; the task's by default.
    """
    torch.manual_seed(task.seed if seed is None else seed)
    model = MLP(x.shape[1], fitting.width, fitting.depth, 1).to(task.device)
    x, y = x.to(task.device), y.to(task.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=fitting.learning_rate, fused=True)
    if fitting.clip is not None:  # registered before the probes are attached, so that they see clipped weights
        optimizer.register_step_post_hook(lambda *_: _clamp(model, fitting.clip))
    manager = ProbeManager(
        model,
        probes=probes,
        batches={"train": Batch((x,), targets=y), **(batches or {})},
        sinks=["hdf5"],
        log_dir=task.log_dir,
        overhead=None,
        seed=task.seed,
        on_error="raise",
        quiet=True,
    )
    task.resume(model=model, optimizer=optimizer, probes=manager)
    with manager.attach(optimizer):
        for _ in task.steps(fitting.steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


class SquaredError(Probe):
    """Mean squared error on whole batches, against the targets of each: ``squared_error/<batch>``."""

    name = "squared_error"

    def __init__(self, schedule: Schedule, batches: Sequence[str] = ("train",)) -> None:
        super().__init__(schedule)
        self.batches = tuple(batches)

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        for batch in self.batches:
            targets = run.batch(batch).targets
            assert targets is not None  # all batches of these experiments have them
            error = nn.functional.mse_loss(run.evaluate(batch), targets)
            yield Measurement(f"squared_error/{batch}", error, num_samples=len(targets))


class Outputs(Probe):
    """The network's single output on each input of a batch: ``outputs/<batch>``."""

    name = "outputs"

    def __init__(self, schedule: Schedule, batch: str = "train") -> None:
        super().__init__(schedule)
        self.batch = batch

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        yield Measurement(f"outputs/{self.batch}", run.evaluate(self.batch)[:, 0], dims=("sample",))


def digits(n: int, n_validation: int, seed: int) -> tuple[Samples, Samples]:
    r"""Threes and eights of MNIST, and the target :math:`\tau_0`: -1 for a three, 1 for an eight, shape ``(n, 1)``.

    Args:
        n: Samples to train on; with 0 a stand-in that needs no download, for a trial: 200 to train, 200 to validate.

    Returns:
        Samples to train on and to validate on, disjoint, inputs in [0, 1] of shape ``(n, 784)``.
    """
    images, labels = mnist() if n else mnist_subset()
    chosen = (labels == 3) | (labels == 8)
    x, y = images[chosen].flatten(1), torch.where(labels[chosen] == 3, -1.0, 1.0)[:, None]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n, n_validation = (n, n_validation) if n else (200, 200)
    train, validation = order[:n], order[n : n + n_validation]
    return Samples(x[train], y[train]), Samples(x[validation], y[validation])


def flower(z: Tensor, petals: int) -> Tensor:
    r"""The curve on which the inputs lie: a circle, or a flower of L petals.

    .. math:: \gamma_L(z) = R_L(z) (\cos 2 \pi z, \sin 2 \pi z), \qquad R_L(z) = 1 + \tfrac12 \sin 2 \pi L z

    Args:
        z: Position along the curve, in [0, 1). Shape ``(n,)``.
        petals: L.

    Returns:
        Shape ``(n, 2)``.

    Example:
        >>> flower(torch.tensor([0.0, 0.25]), 1).round(decimals=3).tolist()
        [[1.0, 0.0], [-0.0, 1.5]]

    Reference:
        Baratin (2021), eq. 13.
    """
    radius = 1 + 0.5 * torch.sin(2 * torch.pi * petals * z)
    return radius[:, None] * torch.stack([torch.cos(2 * torch.pi * z), torch.sin(2 * torch.pi * z)], 1)


@torch.no_grad()
def _clamp(model: nn.Module, clip: float | None) -> None:
    if clip is not None:
        for parameter in model.parameters():
            parameter.clamp_(-clip, clip)
