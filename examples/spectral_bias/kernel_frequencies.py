"""The eigenvectors of a Gaussian kernel on equally spaced points are waves of growing frequency (Figs. 3.6, A.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from probes_fourier import fourier_coefficients, grid, kernel_basis

from ..frame.criteria import Array, Finding, spearman
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from ..frame.task import Task
from .drawing import heat_map, listed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """N points of [0, 1), a kernel narrow enough that its smallest eigenvalue is resolved in float64."""

    num_points: int = 50
    sigma: float = 0.05


PRESETS = {
    "smoke": Preset(Settings(num_points=16, sigma=0.1), seeds=(0,), duration="1 s", judged=False),
    "quick": Preset(Settings(), seeds=(0,), duration="1 s"),
    "paper": Preset(Settings(), seeds=(0,), duration="1 s"),
}


@dataclass(frozen=True)
class Eigenvectors:
    """Eigenvectors in columns, from the largest eigenvalue to the smallest, and a seeded order of frequencies."""

    vectors: Array  # (N, N)
    shuffled: Array  # (N // 2 + 1,)

    @property
    def magnitude(self) -> Array:
        """Magnitude of the Fourier coefficients of each eigenvector. Shape ``(N, N // 2 + 1)``."""
        n = len(self.vectors)
        magnitude: Array = fourier_coefficients(torch.from_numpy(self.vectors.T), range(n // 2 + 1)).abs().numpy()
        return magnitude

    def order(self, control: bool = False) -> float:
        """Rank correlation of index and strongest frequency; with ``control`` the frequencies are shuffled first."""
        magnitude = self.magnitude[:, self.shuffled] if control else self.magnitude
        return spearman(np.arange(len(self.vectors)), magnitude.argmax(1))

    @property
    def in_order(self) -> int:
        """Eigenvectors, from the first on, that change sign exactly as often as their index says."""
        changes = (np.diff(np.sign(self.vectors), axis=0) != 0).sum(0)
        return int(np.cumprod(changes == np.arange(len(changes))).sum())


def train(settings: Settings, task: Task) -> None:
    """There is no network to train."""
    task.folder.mkdir(parents=True, exist_ok=True)


def read(settings: Settings, folder: Path, seed: int) -> Eigenvectors:
    points = grid(settings.num_points, dtype=torch.float64)[:, None]
    shuffled = np.random.default_rng(seed).permutation(settings.num_points // 2 + 1)
    return Eigenvectors(kernel_basis(points, settings.sigma).eigenvectors.numpy(), shuffled)


def judge(settings: Settings, seeds: Sequence[Eigenvectors]) -> list[Finding]:
    # The eigenvectors do not depend on the seed; only the control does.
    order, control = seeds[0].order(), [seed.order(control=True) for seed in seeds]
    n, in_order = settings.num_points, seeds[0].in_order
    return [
        Finding(
            quantity="Fig. 3.6: rank correlation of an eigenvector's index with its strongest frequency",
            published="index and frequency coincide",
            measured=f"{order:.3f}; with shuffled frequencies {listed(control)}",
            criterion=">= 0.99, with shuffled frequencies <= 0.5",
            passed=order >= 0.99 and float(np.median(control)) <= 0.5,
            values={"order": order, "control": control},
        ),
        Finding(
            quantity="Fig. A.3: eigenvectors, from the first on, with as many changes of sign as their index",
            published="waves, from the smoothest to the roughest",
            measured=f"{in_order} of {n}",
            criterion="all",
            passed=in_order == n,
            values=in_order,
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Eigenvectors], folder: Path) -> None:
    found, n = seeds[0], settings.num_points
    title = "Fourier transform of each eigenvector"
    with figure(folder / "fig_3_6.png", title=title, size=(7, 5)) as (picture, axis):
        image = heat_map(axis, np.arange(n // 2 + 1), np.arange(1, n + 1), found.magnitude, 0, None)
        axis.set(xlabel="frequency (cycles)", ylabel="eigenvector n")
        picture.colorbar(image, ax=axis).set_label("magnitude of the Fourier coefficient")
    title = "the first and the last eigenvector"
    with figure(folder / "fig_a_3.png", 1, 2, title=title, size=(8.6, 3.5), boxed=False, sharey=True) as (_, axes):
        for axis, index, letter in zip(axes, (0, n - 1), "ab", strict=True):
            axis.plot(np.arange(n) / n, found.vectors[:, index], ".-", color="tab:blue", linewidth=0.8)
            axis.set(xlabel="x", title=f"({letter}) n = {index + 1}", xlim=(0, 1))
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("eigenvector")


EXPERIMENT = Experiment(
    figures=("3.6", "A.3"),
    summary="Eigenvectors of a Gaussian kernel on equally spaced points are waves, of a frequency that grows with n.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures="The width of the kernel is not stated. Ours is 0.05, in float64: from about 0.1 on the last "
    "eigenvalues are below rounding, and their eigenvectors are noise. The points are j / N, without the end point.",
)
