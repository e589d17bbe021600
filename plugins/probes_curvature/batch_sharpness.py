"""Batch sharpness: the curvature that mini-batches have along their own gradients."""

from __future__ import annotations

import math

import torch

from probes.batches import seeded
from probes_ntk import Estimate, spread

from .objective import Objective

__all__ = ["batch_sharpness"]


def batch_sharpness(
    objective: Objective, batch_size: int, *, batches: int = 10, generator: torch.Generator | None = None
) -> Estimate:
    r"""The mean curvature of mini-batches along their gradients.

    .. math:: \frac{\mathbb{E}_B\, g_B^\top H_B\, g_B}{\mathbb{E}_B\, |g_B|^2}, \qquad
              g_B = \nabla L_B, \quad H_B = \nabla^2 L_B

    What stochastic gradient descent holds at 2 / learning rate, as gradient descent does with the largest eigenvalue;
    it is above the curvature of the whole loss along its gradient. For one batch of all examples it is that.

    Args:
        objective: The mean loss of n examples, of which mini-batches are taken.
        batch_size: Of a mini-batch, from 1 to n.
        batches: How many are drawn, each without replacement.
        generator: Of the batches, on the CPU; seeded with 0 by default.

    Returns:
        The ratio and its standard error over the mini-batches, by the delta method.

    Raises:
        ValueError: If ``batch_size`` is not from 1 to n, or ``batches`` below 2.

    Cost: for each batch a product with its Hessian, which is about three forward and three backward passes of it.

    Example:
        >>> line = torch.nn.Linear(1, 1, bias=False)
        >>> x, y = torch.ones(4, 1), torch.zeros(4, 1)
        >>> objective = Objective(line, torch.nn.functional.mse_loss, x, y)  # L_B = w^2 for all
        >>> round(batch_sharpness(objective, 2).value, 5)
        2.0

    Reference:
        Andreyev & Beneventano, "Edge of stochastic stability: revisiting the edge of stability for SGD",
        arXiv:2412.20553 (2024), where it is defined.
    """
    if not (isinstance(batch_size, int) and 1 <= batch_size <= objective.n):
        raise ValueError(f"`batch_size` must be from 1 to the {objective.n} examples, got {batch_size!r}.")
    if not isinstance(batches, int) or batches < 2:
        raise ValueError(f"`batches` must be an integer from 2 on, got {batches!r}.")
    generator = seeded(generator)
    curved, squared = [], []
    for _ in range(batches):
        part = objective.subset(torch.randperm(objective.n, generator=generator)[:batch_size].sort().values)
        gradient = part.gradient()
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        along = (gradient / norm).to(gradient) if norm > 0 else gradient  # its square may leave single's range
        squared.append(float(norm.square()))
        curved.append(squared[-1] * float(torch.dot(along.double(), part.hessian_product(along).double())))
    mean, square = sum(curved) / batches, sum(squared) / batches
    if not square > 0:
        return Estimate(math.nan, math.nan)
    ratio = mean / square
    return Estimate(ratio, spread([(a - ratio * b) / square for a, b in zip(curved, squared, strict=True)]))
