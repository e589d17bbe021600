"""The spiral and the 25 Gaussians of the plane: samples, and how many of their parts are found."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..frame.criteria import Array

DATASETS = ("spiral", "25 Gaussians")
SPACING = 2.0
"""Between neighbours of the 5 by 5 grid of Gaussians; the source states none, this is that of ALI and PacGAN."""
STD = 0.05
"""Of each Gaussian."""
TURNS, NOISE = 2, 0.1
"""Of the spiral; the source states neither these nor its shape. They are those of the GAN that an author of the source
trained on as many samples of a spiral: https://github.com/IshmaelBelghazi/ALI, ``create_spiral_data_streams``."""
NUM_ARCS, POINTS_OF_ARC = 40, 25
LEAST = 20
"""Generated samples of 10,000 that make a mode or an arc count as found."""


def modes() -> Tensor:
    """Centres of the 25 Gaussians, shape ``(25, 2)``."""
    line = SPACING * torch.arange(-2.0, 3.0)
    return torch.cartesian_prod(line, line)


def spiral(turns: Tensor) -> Tensor:
    """Points of the spiral after so many turns, whose radius grows from 1/3 by 2/3 in each. Shape ``(n, 2)``."""
    angle = 2 * math.pi * turns
    return (2 * turns + 1)[:, None] / 3 * torch.stack([angle.sin(), angle.cos()], 1)


def arcs(n: int) -> Tensor:
    """The middles of n arcs of the spiral, all of the same length, from the inside out. Shape ``(n, 2)``."""
    turns = torch.linspace(0, TURNS, 100_001, dtype=torch.float64)
    points = spiral(turns)
    length = np.append(0, (points[1:] - points[:-1]).norm(dim=1).cumsum(0))
    middles = np.interp((np.arange(n) + 0.5) / n * length[-1], length, turns)
    return spiral(torch.from_numpy(middles)).float()


def samples_of(dataset: str, n: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(n, 2, generator=generator)
    if dataset == "spiral":
        return spiral(TURNS * torch.rand(n, generator=generator)) + NOISE * noise
    return modes()[torch.randint(25, (n,), generator=generator)] + STD * noise


def occupancy(dataset: str, samples: Array) -> tuple[Array, Array]:
    """How many samples are nearest to each mode, or arc of the spiral, and how many of them are near.

    Near is within a quarter of the distance of neighbouring modes, or of neighbouring turns.
    """
    if dataset == "25 Gaussians":
        middles, pieces, near = modes(), 1, SPACING / 4
    else:
        middles, pieces, near = arcs(NUM_ARCS * POINTS_OF_ARC), POINTS_OF_ARC, 2 / 3 / 4
    distance, nearest = torch.cdist(torch.from_numpy(samples), middles).min(1)
    n, index = len(middles) // pieces, nearest // pieces
    return np.bincount(index, minlength=n), np.bincount(index[distance <= near], minlength=n)


def close_share(dataset: str, samples: Array) -> float:
    """The fraction of samples within three of the data's deviations of a mode, or of the curve of the spiral.

    It is what occupancy does not see: whether modes are told apart.
    """
    if dataset == "25 Gaussians":
        middles, near = modes(), 3 * STD
    else:
        middles, near = arcs(NUM_ARCS * POINTS_OF_ARC), 3 * NOISE
    distance = torch.cdist(torch.as_tensor(samples, dtype=middles.dtype), middles).min(1).values
    return float((distance <= near).double().mean())


def evenly_spread(dataset: str, n: int = 10_000) -> Array:
    """A control: points that are spread evenly over the square in which the data lie. Shape ``(n, 2)``."""
    half = 2.25 * SPACING if dataset == "25 Gaussians" else (2 * TURNS + 1) / 3
    points: Array = np.random.default_rng(0).uniform(-half, half, (n, 2)).astype(np.float32)
    return points


def kl_from_uniform(counts: Array) -> float:
    """Kullback-Leibler divergence of a histogram from the uniform one, in nats.

    Example:
        >>> kl_from_uniform(np.array([5, 5, 0, 0])) == math.log(2)
        True
    """
    share = counts[counts > 0] / counts.sum()
    return float((share * np.log(share * len(counts))).sum())


def found(counts: Array, num_samples: int) -> float:
    """The fraction of modes or arcs that enough samples are near to."""
    return float((counts >= LEAST * num_samples / 10_000).mean())


def density(samples: Array, x: Array, y: Array, bandwidth: float) -> Array:
    """Kernel density estimate with Gaussian kernels on a grid, shape ``(len(y), len(x))``."""
    along_x, along_y = (
        np.exp(-(((line[:, None] - samples[:, i]) / bandwidth) ** 2) / 2) for i, line in enumerate((x, y))
    )
    estimate: Array = along_y @ along_x.T / (len(samples) * 2 * math.pi * bandwidth**2)
    return estimate
