"""How many examples a turn can afford."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from .cka import similarity_matrix
from .features import as_features
from .ranks import covariance_eigenvalues

__all__ = ["LEAST_SAMPLES", "affordable_samples", "seconds_per_operation", "work"]

LEAST_SAMPLES = 32
"""Below which a turn is not cut: cross-validation and CKA would say nothing."""
DECOMPOSITIONS = 24
"""What the decompositions of a layer cost, in n k^2 operations: two sets of singular values, and a ridge classifier."""


def work(n: int, widths: Sequence[int]) -> float:
    """Operations of a turn of n examples, besides the forward passes.

    .. math:: \\sum_l \\big(2 d_l n^2 + 24 n k_l^2\\big) + 2 L^2 n^2, \\qquad k_l = \\min(d_l, n + 1)

    Args:
        n: Number of examples.
        widths: The number of features of each of the L layers.

    Example:
        >>> work(10, [1])
        640.0
    """
    layers = sum(2 * d * n**2 + DECOMPOSITIONS * n * min(d, n + 1) ** 2 for d in widths)
    return float(layers + 2 * (len(widths) * n) ** 2)


def affordable_samples(n: int, widths: Sequence[int], seconds: float, rate: float, limit: float) -> int:
    """The most examples, halved from n, that a turn of so many seconds has time for, or :data:`LEAST_SAMPLES`.

    Args:
        n: That there are.
        widths: The number of features of each layer.
        seconds: Of the forward passes, for each example.
        rate: Seconds for each operation.
        limit: Seconds of a turn.

    Example:
        >>> affordable_samples(512, [10, 10], seconds=1.0, rate=0.0, limit=300.0)
        256
    """
    while n > LEAST_SAMPLES and n * seconds + rate * work(n, widths) > limit:
        n = max(LEAST_SAMPLES, n // 2)
    return n


def seconds_per_operation(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that an operation of :func:`work` takes, from a layer of 64 examples and 128 features.

    Example:
        >>> 0 < seconds_per_operation(torch.device("cpu")) < 1e-4
        True
    """
    rows = torch.randn(64, 128, generator=torch.Generator().manual_seed(0), device="cpu").to(device)
    least = float("inf")
    for _ in range(3):  # the first one is slow
        start = clock()
        features = as_features(rows)
        float(covariance_eigenvalues(features.centred).sum() + covariance_eigenvalues(features.raw).sum())
        float(similarity_matrix(features.centred).sum())
        least = min(least, clock() - start)
    return least / work(64, [128])
