"""The problems of Experiment 6, for networks and for nearest neighbours: the sign of a wave on a curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes import at, every
from probes.batches import Batch
from probes_fourier import grid

from ..frame.classification import Accuracy, Samples
from ..frame.criteria import Array
from ..frame.task import Task
from .drawing import heat_map
from .fitting import Fitting, Outputs, fit, flower

__all__ = ["BOX", "accuracies", "classify", "samples", "square"]

BOX = 1.6
"""Half a side of the square on which functions are shown, in units of input."""


class Signs(Accuracy):
    """Share of samples on the right side of 0."""

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs > 0) == (labels > 0.5)


def samples(num_points: int, frequency: int, petals: int, seed: int) -> Samples:
    r"""N points of the curve, and whether λ(z) = sin(2π k z + φ) is above 0 there (eq. 13), shape ``(N, 1)``."""
    z = grid(num_points)
    phase = 2 * torch.pi * torch.rand(1, generator=torch.Generator().manual_seed(1000 * seed + frequency))
    above = torch.sin(2 * torch.pi * frequency * z + phase) > 0
    return Samples(flower(z, petals), above.float()[:, None])


def square(num_points: int) -> Tensor:
    """Points of the square on which functions are shown, rows by the first coordinate. Shape ``(num_points^2, 2)``."""
    side = BOX * (2 * grid(num_points) - 1)
    return torch.cartesian_prod(side, side)


def classify(
    fitting: Fitting, task: Task, given: Samples, num_points: int = 0, *, initialization: int | None = None
) -> None:
    """Fit the labels by the logistic loss; with ``num_points`` the last logits on the square are kept."""
    batches = {"square": Batch((square(num_points),))} if num_points else {}
    maps = [Outputs(at([fitting.steps]), "square")] if num_points else []
    accuracy = Signs(every(fitting.measure_every), {"train": given})
    loss = nn.functional.binary_cross_entropy_with_logits
    fit(fitting, task, *given, [accuracy, *maps], batches, loss=loss, seed=initialization)


def accuracies(axis: Any, settings: Any, values: Array, low: float = 0.5) -> Any:
    """Draw a heat map of accuracies from ``low`` to 1, frequencies to the right and petals upwards."""
    k, petals = settings.frequencies, settings.petals
    image = heat_map(axis, range(len(k)), range(len(petals)), values, low, 1)
    if values.size <= 25:
        for (row, column), value in np.ndenumerate(values):
            color = "white" if value < 0.4 * low + 0.6 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    axis.set_xticks(range(len(k)), k)
    axis.set_yticks(range(len(petals)), petals)
    axis.set(xlabel="frequency k (cycles)", ylabel="petals L")
    return image
