"""The target of Experiment 7, a peak, and how well networks fit it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes_fourier import fourier_coefficients

from ..frame.criteria import Array

__all__ = ["Learning", "peak"]


def peak(num_points: int) -> Tensor:
    r"""The δ-function at x = 1/2 on a grid: 1 at one point, 0 elsewhere (Fig. A.5). Shape ``(N,)``."""
    return (torch.arange(num_points) == num_points // 2).float()


@dataclass(frozen=True)
class Learning:
    """The learnt function of one network at T steps, on N points."""

    steps: Array  # (T,)
    values: Array  # (T, N)

    @property
    def errors(self) -> Array:
        r"""Squared errors relative to the peak's: :math:`\|f - \delta\|^2 / \|\delta\|^2`. Shape ``(T,)``."""
        return np.asarray(((self.values - peak(self.values.shape[1]).numpy()) ** 2).sum(1))

    def best(self, step: int) -> int:
        """Where the error is least up to a step: Adam throws a network off now and then."""
        return int(self.errors[: np.abs(self.steps - step).argmin() + 1].argmin())

    def error(self, step: int) -> float:
        """The least up to a step."""
        return float(self.errors[self.best(step)])

    @property
    def magnitude(self) -> Array:
        """Of the Fourier coefficients, which for the peak are 1 / N at all frequencies. Shape ``(T, N // 2 + 1)``."""
        n = self.values.shape[1]
        coefficients = fourier_coefficients(torch.from_numpy(self.values.astype(float)), range(n // 2 + 1))
        return np.asarray(coefficients.abs())

    def reach(self, step: int) -> int:
        """Highest frequency with at least half the peak's magnitude where the error is least up to a step, or 0."""
        held = np.flatnonzero(self.magnitude[self.best(step)] * self.values.shape[1] >= 0.5)
        return int(held.max(initial=0))
