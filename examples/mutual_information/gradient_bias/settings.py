"""What the gradient is asked of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A statistics network on the way, between Gaussians; eq. 12 says no more than that there is a bias."""

    dimensions: int = 2
    correlation: float = 0.6
    hidden: tuple[int, ...] = (32, 32)
    trained_steps: int = 300
    """After which the network is held, and its gradient is asked for."""
    batch_sizes: tuple[int, ...] = (16, 32, 64, 128)
    rates: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)
    """Of moving averages; the last one is the library's own."""
    batch_size: int = 32
    """At which rates and learning rates are compared."""
    learning_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6)
    """Of Adam, with which the network moves on."""
    moved_steps: int = 300
    num_moved: int = 5000
    """Pairs that the average of a network's past is taken over, the same all the way."""
    num_batches: int = 600
    groups: int = 10
    """Of so many batches each, of which the standard error is."""
    num_pairs: int = 200_000
    """Of the very large sample."""
    estimate_dimensions: int = 5
    estimate_correlation: float = 0.7
    estimate_batch: int = 16
    estimate_steps: int = 3000
