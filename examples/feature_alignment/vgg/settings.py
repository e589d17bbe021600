"""Settings, presets and networks of the VGG19."""

from __future__ import annotations

from dataclasses import dataclass

from ...frame.experiment import Preset

__all__ = ["BATCHES", "PRESETS", "STREAMS", "Settings", "parts"]

STREAMS = (
    "eigenvalues",
    "max_eigenvalue",
    "mean_eigenvalue",
    "median_eigenvalue",
    "effective_rank",
    "trace_ratio",
    "alignment",
)
BATCHES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A VGG19 of some width on some images, of which shares have random labels, at two learning rates."""

    width: int = 64
    num_images: int = 50_000
    num_test: int = 10_000
    num_kernel: int = 100
    steps: int = 300_000
    noise: tuple[float, ...] = (0.0, 0.2, 0.5)
    learning_rate: float = 0.01
    slow_learning_rate: float = 0.003
    slow_noise: tuple[float, ...] = (0.0, 0.5)


PRESETS = {
    "smoke": Preset(
        Settings(width=2, num_images=0, num_test=0, num_kernel=8, steps=6, noise=(0.0, 0.5), slow_noise=(0.0,)),
        seeds=(0,),
        duration="10 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(width=8, num_images=10_000, num_test=1000, num_kernel=40, steps=320),
        seeds=(10, 11, 12),
        duration="25 min",
        least_seeds=3,
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="2400 h", least_seeds=3),
    "large": Preset(
        Settings(width=16, num_test=1000, num_kernel=64, steps=2000),
        seeds=(10, 11, 12),
        duration="4 h",
        least_seeds=3,
    ),
}


def parts(settings: Settings) -> dict[str, tuple[float, float]]:
    """Learning rate and share of random labels of each network."""
    fast = [(settings.learning_rate, share) for share in settings.noise]
    slow = [(settings.slow_learning_rate, share) for share in settings.slow_noise]
    return {f"rate {rate:g}, {share:.0%} random labels": (rate, share) for rate, share in fast + slow}
