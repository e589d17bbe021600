"""A layer in as many dimensions as there are samples, and the principal components that a classifier is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Frame", "Reduced", "most_components"]

MAX_COMPONENTS = 64
"""Principal components of a layer that a classifier is given, at most; and one for every so many samples."""
SAMPLES_PER_COMPONENT = 20


def most_components(n: int) -> int:
    """How many components a classifier is given of n samples."""
    return min(MAX_COMPONENTS, max(1, n // SAMPLES_PER_COMPONENT))


class Frame(NamedTuple):
    """Principal components."""

    mean: Tensor
    components: Tensor
    """Orthonormal. Shape ``(d, k)``."""

    def project(self, features: Tensor) -> Tensor:
        """On the CPU."""
        return ((features - self.mean) @ self.components).cpu()


class Reduced(NamedTuple):
    """A layer in no more dimensions than there are samples: all distances are the same there, and noise is noise."""

    features: Tensor
    """Shape ``(n, d)``, float64."""
    vectors: Tensor | None
    """Of their inner products, where d > n; the largest last. Shape ``(n, n)``."""
    scores: Tensor
    """Shape ``(n, min(n, d))``."""

    @classmethod
    def of(cls, features: Tensor) -> Reduced:
        centred = features - features.mean(0)
        if centred.shape[1] <= len(centred):
            return cls(features, None, centred)
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        return cls(features, vectors, vectors * values.clamp_min(0).sqrt())

    @property
    def frame(self) -> Frame:
        """As many components as a classifier is given."""
        mean, (n, d) = self.features.mean(0), self.features.shape
        most = most_components(n)
        centred = self.features - mean
        if d <= most:
            return Frame(mean, torch.eye(d, dtype=centred.dtype, device=centred.device))
        if self.vectors is None:
            return Frame(mean, torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -most:])
        components = centred.T @ self.vectors[:, -most:]
        return Frame(mean, components / torch.linalg.vector_norm(components, dim=0).clamp_min(1e-300))
