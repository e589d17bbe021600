"""What a turn of the probe affords: which layers, how many samples, how many steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Costs", "Turn", "affordable", "spread_out", "work"]

STEPS_PER_TURN = 1500
"""Of training, shared by the layers: a turn costs seconds however many there are."""
MOST_STEPS = 600
"""Of one layer."""
LEAST_STEPS = 50
"""Of one layer, below which classifiers have hardly begun."""
LEAST_SAMPLES = 250
EIGENVECTORS = 4
"""What an eigenvalue decomposition costs, in matrix products of the same size."""


class Costs(NamedTuple):
    """In seconds, as one layer has shown."""

    algebra: float
    """For each unit of :func:`work`."""
    start: float
    """Of a training, before its first step."""
    step: float
    """Of training."""


class Turn(NamedTuple):
    """What is done in every turn."""

    layers: list[int]
    """Which ones, in order."""
    samples: int
    steps: int
    """Of each layer."""
    seconds: float
    """What it takes."""


def work(n: int, width: int) -> float:
    """What the distances between n samples and their principal components cost, in additions and multiplications.

    Example:
        >>> work(10, 1000) / work(10, 100) < 10
        True
    """
    return float(n) ** 2 * width + EIGENVECTORS * float(min(n, width)) ** 3


def spread_out(number: int, count: int) -> list[int]:
    """That many of ``range(count)``, from the first to the last; the last, if it is one.

    Example:
        >>> spread_out(3, 13), spread_out(1, 13), spread_out(13, 13) == list(range(13))
        ([0, 6, 12], [12], True)
    """
    if number == 1:
        return [count - 1]
    return [round(i * (count - 1) / (number - 1)) for i in range(number)]


def affordable(
    widths: Sequence[int], n: int, costs: Costs, seconds: float, *, all_layers: bool = False, all_samples: bool = False
) -> Turn:
    """The most layers that fit, each with a training that is worth it; of one that does not fit, fewer samples.

    What is left is for training, up to :data:`STEPS_PER_TURN`. What was asked for is kept, at any cost.

    Args:
        widths: Activations of each layer.
        n: Samples there are.
        costs: As measured.
        seconds: What a turn may take.
        all_layers: Whether they were asked for.
        all_samples: Whether they were asked for.

    Example:
        >>> free, dear = Costs(0.0, 0.0, 0.0), Costs(1e-9, 0.0, 1e-3)
        >>> affordable([100] * 3, 1000, free, 1.0)[:3]
        ([0, 1, 2], 1000, 500)
        >>> affordable([1000] * 3, 1000, dear, 10.1205)[:3], affordable([1000] * 3, 1000, dear, 5.1005)[:3]
        (([0, 2], 1000, 60), ([2], 1000, 100))
    """
    count = len(widths)
    sizes = [n]
    while not all_samples and sizes[-1] >= 2 * LEAST_SAMPLES:
        sizes.append(sizes[-1] // 2)
    turns = []
    for samples in sizes:
        for number in [count] if all_layers else range(count, 0, -1):
            layers = spread_out(number, count)
            share = max(1, min(MOST_STEPS, STEPS_PER_TURN // number))
            before = sum(costs.algebra * work(samples, widths[i]) + costs.start * samples / n for i in layers)
            steps = int(min(share, (seconds - before) / max(number * costs.step, 1e-9)))
            least = min(share, LEAST_STEPS)
            turn = Turn(layers, samples, max(steps, least), before + max(steps, least) * number * costs.step)
            if steps >= least:
                return turn
            turns.append(turn)
    return turns[-1]
