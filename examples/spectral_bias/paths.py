"""How a curved data manifold turns low frequencies of the network into high ones on it: kernel P_gamma (eq. 14, 15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from probes_fourier import grid

from ..frame.criteria import Array, Finding
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, shades
from . import arrays
from .drawing import of_seeds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The curves of Experiment 5, with L petals, and wave vectors of these lengths in random directions."""

    petals: tuple[int, ...] = (0, 4, 10, 16, 20)
    lengths: tuple[float, ...] = (5.0, 10.0, 20.0)
    """In radians per unit of the input space."""
    num_directions: int = 8
    num_points: int = 4096
    share: float = 0.99


PRESETS = {
    "smoke": Preset(Settings(petals=(0, 4), num_directions=2, num_points=512), (0,), "1 s", judged=False),
    "quick": Preset(Settings(), seeds=(20, 21, 22, 23, 24), duration="5 s", least_seeds=3),
    "paper": Preset(
        Settings(petals=tuple(range(0, 22, 2)), num_directions=200, num_points=16_384),
        seeds=tuple(range(10)),
        duration="10 min",
        least_seeds=3,
    ),
}


def curve(petals: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the flower, eq. 13, and its derivative. Shape ``(N, 2)`` each."""
    turn, wave = 2 * torch.pi * z, 2 * torch.pi * petals * z
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    tangent = torch.stack([-turn.sin(), turn.cos()], 1)
    radius, slope = 1 + 0.5 * wave.sin(), torch.pi * petals * wave.cos()
    return radius[:, None] * circle, slope[:, None] * circle + 2 * torch.pi * radius[:, None] * tangent


def reach(energy: ArrayLike, share: float) -> float:
    """The lowest |l| below which, or at which, that share of the energy is; of energies at l = 0, 1, 2, ..."""
    total = np.cumsum(np.asarray(energy, float))
    return float(np.searchsorted(total, share * total[-1]))


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    r"""Energy of the kernel, mean over directions of k, and what stationary phase says of its reach.

    .. math:: P_\gamma(l, \mathbf k) = \int_0^1 e^{i (\mathbf k \cdot \gamma(z) - 2 \pi l z)} dz, \qquad
        |l| \le \max_z |\mathbf k \cdot \gamma'(z)| / 2 \pi \le k \max_z |\gamma'(z)| / 2 \pi
    """
    generator = torch.Generator().manual_seed(seed)
    n, z = settings.num_points, grid(settings.num_points).double()
    angles = 2 * torch.pi * torch.rand(settings.num_directions, generator=generator, dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()])
    energy = np.zeros((len(settings.petals), len(settings.lengths), n // 2))
    speed, size = np.zeros(len(settings.petals)), np.zeros(len(settings.petals))
    for i, petals in enumerate(settings.petals):
        points, derivative = curve(petals, z)
        speed[i], size[i] = derivative.norm(dim=1).max(), points.norm(dim=1).max()
        for j, length in enumerate(settings.lengths):
            phase = length * points @ directions  # (N, D)
            power = (torch.fft.fft(torch.polar(torch.ones_like(phase), phase), dim=0) / n).abs().square().mean(1)
            both = power[: n // 2].clone()
            both[1:] += power[n // 2 + 1 :].flip(0)  # l and -l
            energy[i, j] = both
    return {"energy": energy, "speed": speed, "size": size}


def reaches(settings: Settings, seed: Mapping[str, Array]) -> Array:
    """Shape (petals, lengths)."""
    return np.array([[reach(energy, settings.share) for energy in row] for row in seed["energy"]])


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    found = np.array([reaches(settings, seed) for seed in seeds])  # (S, L, K)
    lengths = np.array(settings.lengths)
    ratio = found / (lengths * seeds[0]["speed"][:, None] / (2 * np.pi))
    naive = found / (lengths * seeds[0]["size"][:, None])  # as if gamma mattered by its size, not by its slope
    rising = bool((np.diff(found, axis=1) > 0).all())
    rows = [
        f"L = {petals}: reach {', '.join(f'{x:.0f}' for x in mean)}"
        for petals, mean in zip(settings.petals, found.mean(0), strict=True)
    ]
    return [
        Finding(
            f"eq. 14, 15: reach of {settings.share:.0%} of the energy of P_gamma over k max|gamma'| / 2 pi",
            "energy only where l = J k has a solution",
            f"{ratio.mean():.2f}, {ratio.min():.2f} to {ratio.max():.2f} over {len(seeds)} seeds, L and k",
            "1.0 to 1.4, every seed, L and k",
            bool((ratio >= 1.0).all() and (ratio <= 1.4).all()),
            ratio,
        ),
        Finding(
            "Reach in l at the same k",
            "increases with L",
            f"at k = {', '.join(f'{k:g}' for k in lengths)}, mean of seeds\n" + "\n".join(rows),
            "increasing in L, every seed and k",
            rising,
            found,
        ),
        Finding(
            "The same ratio with max|gamma| instead of max|gamma'| / 2 pi",
            "",
            "\n".join(
                f"L = {petals}: {naive[:, row].min():.2f} to {naive[:, row].max():.2f}{words}"
                for petals, row, words in (
                    (settings.petals[0], 0, ", on a circle the same ratio"),
                    (settings.petals[-1], -1, ": the size of a curve with many petals does not explain its reach"),
                )
            ),
            "outside of 1.0 to 1.4 for the most petals, every seed and k",
            bool(((naive[:, -1] < 1.0) | (naive[:, -1] > 1.4)).all()),
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    title = f"from frequencies of the input space to those along a curve ({of_seeds(len(seeds))})"
    with figure(folder / "eq_14.png", 1, 2, title=title, size=(9, 4.2)) as (_, (left, right)):
        colours = shades(len(settings.petals), 0.85)
        energy = np.mean([seed["energy"] for seed in seeds], axis=0)
        for petals, colour, rows, speed in zip(settings.petals, colours, energy, seeds[0]["speed"], strict=True):
            left.semilogy(rows[0], color=colour, label=f"L = {petals}", linewidth=1)
            left.axvline(settings.lengths[0] * speed / (2 * np.pi), color=colour, linestyle=":", linewidth=1)
        left.set(ylim=(1e-8, 1), xlabel="frequency on the manifold l (cycles)", ylabel="energy of $P_\\gamma(l, k)$")
        left.set_xlim(0, 1.6 * settings.lengths[0] * seeds[0]["speed"].max() / (2 * np.pi))
        left.set_title(f"k = {settings.lengths[0]:g}; dotted: $k\\,\\max|\\gamma'|/2\\pi$")
        found = np.array([reaches(settings, seed) for seed in seeds])
        bound = np.multiply.outer(seeds[0]["speed"], settings.lengths) / (2 * np.pi)
        for petals, colour, line, x in zip(settings.petals, colours, found.mean(0), bound, strict=True):
            right.plot(x, line, "o", color=colour, label=f"L = {petals}")
        limit = bound.max() * 1.1
        right.plot([0, limit], [0, limit], "k:", linewidth=1, label="equal (eq. 15)")
        right.set(xlabel="$k\\,\\max|\\gamma'|/2\\pi$", ylabel=f"reach of {settings.share:.0%} of the energy")
        right.set_title(f"k = {', '.join(f'{k:g}' for k in settings.lengths)}")
        right.legend()


EXPERIMENT = Experiment(
    figures=("eq. 14", "eq. 15"),
    summary="The more petals a curve has, the higher the frequencies on it that a low frequency of the network makes.",
    presets=PRESETS,
    train=lambda settings, task: arrays.compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: arrays.load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis states the condition and shows its consequence in Experiments 5 and 6; the kernel itself is "
        "measured here. Frequencies l are in cycles, so that the condition reads 2 pi l = k . gamma'. Eq. 35 writes a "
        "unit vector where it means l, and eq. 14 lacks the factor of the inverse transform."
    ),
)
