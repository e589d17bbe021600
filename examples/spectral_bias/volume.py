"""The share of parameter space that expresses high frequencies (Def. A.1, Prop. A.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from probes_fourier import amplitude

from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from . import arrays
from .arrays import log_slope, spread


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Networks whose parameters are uniform in [-K, K]: the L-infinity ball of Definition A.1."""

    num_networks: int = 4000
    width: int = 16
    hidden: int = 3
    clip: float = 1.0
    threshold: float = 0.01
    """epsilon, in units of K to the number of layers, as the function itself scales."""
    num_points: int = 2048
    highest: int = 64


PRESETS = {
    "smoke": Preset(Settings(num_networks=400, num_points=256), seeds=(0,), duration="1 s", judged=False),
    "quick": Preset(Settings(), seeds=(20, 21, 22, 23, 24), duration="15 s", least_seeds=3),
    "paper": Preset(Settings(num_networks=40_000), seeds=tuple(range(10)), duration="30 min", least_seeds=3),
}


def random_functions(settings: Settings, count: int, generator: torch.Generator) -> Tensor:
    """Outputs of networks with uniform parameters on [0, 1], both ends included. Shape ``(count, N + 1)``."""

    def uniform(*shape: int) -> Tensor:
        return settings.clip * (2 * torch.rand(*shape, generator=generator) - 1)

    x, size = torch.linspace(0, 1, settings.num_points + 1)[None, :, None].expand(count, -1, -1), 1
    for _ in range(settings.hidden):
        x = torch.relu(x @ uniform(count, size, settings.width) + uniform(count, 1, settings.width))
        size = settings.width
    return (x @ uniform(count, size, 1) + uniform(count, 1, 1))[..., 0]


def amplitudes(values: Tensor) -> Tensor:
    """Single-sided amplitudes at 0 to N / 2 of functions less the line that joins their ends; ``(S, N / 2 + 1)``.

    Args:
        values: Both ends included. Shape ``(S, N + 1)``.
    """
    values, line = values.double(), torch.linspace(0, 1, values.shape[1], dtype=torch.float64)
    periodic = (values - values[:, :1] - line * (values[:, -1:] - values[:, :1]))[:, :-1]
    n = periodic.shape[1]
    return amplitude(torch.fft.rfft(periodic) / n, torch.arange(n // 2 + 1), n)


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    """Numbers of networks with an amplitude above the threshold: at k, and at some frequency beyond k."""
    generator = torch.Generator().manual_seed(seed)
    threshold = settings.threshold * settings.clip ** (settings.hidden + 1)
    k = np.arange(1, settings.highest + 1)
    at, beyond = np.zeros(len(k)), np.zeros(len(k))
    for first in range(0, settings.num_networks, 200):
        values = random_functions(settings, min(200, settings.num_networks - first), generator)
        over = (amplitudes(values) > threshold).numpy()
        at += over[:, k].sum(0)
        # Any frequency above k: from the highest one down.
        beyond += np.logical_or.accumulate(over[:, ::-1], axis=1)[:, ::-1][:, k + 1].sum(0)
    return {"k": k, "at": at / settings.num_networks, "beyond": beyond / settings.num_networks}


def tail(settings: Settings, seed: Mapping[str, Array]) -> tuple[Array, Array]:
    """Frequencies and shares beyond the middle: below 1/2, and at least 5 networks."""
    chosen = (seed["beyond"] < 0.5) & (seed["beyond"] * settings.num_networks >= 5)
    return seed["k"][chosen], seed["beyond"][chosen]


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    slopes = []
    for seed in seeds:
        k, share = tail(settings, seed)
        slopes.append(log_slope(k, share) if len(k) >= 3 else float("nan"))
    # "Beyond k" can only fall; that fewer networks have the amplitude at 2k than at k could be otherwise.
    octaves = [seed["at"][[0, 1, 3, 7]] for seed in seeds]
    falling = [bool((np.diff(shares) < 0).all()) for shares in octaves]
    last = [int(seed["k"][seed["beyond"] > 0].max(initial=0)) + 1 for seed in seeds]  # beyond k: at k + 1 or higher
    beyond = np.mean([seed["beyond"][[0, 1, 3, 7, 15]] for seed in seeds], axis=0)
    return [
        Finding(
            "Def. A.1: share of parameter space with an amplitude above epsilon at k",
            "decays with k",
            f"at 1, 2, 4, 8, mean of seeds: {', '.join(f'{x:.4f}' for x in np.mean(octaves, axis=0))}",
            "falling from octave to octave, every seed",
            all(falling),
            octaves,
        ),
        Finding(
            "Prop. A.6: share with such an amplitude beyond k, slope of its tail",
            "O(k^-2) for d = 1, a bound",
            f"slope {spread(slopes)}\nbeyond 1, 2, 4, 8, 16: {', '.join(f'{x:.4f}' for x in beyond)}",
            "<= -2, four of five seeds",
            enough([slope <= -2 for slope in slopes]),
            slopes,
        ),
        Finding(
            "Lemma A.5: the highest frequency that any network has",
            "there is one for each network",
            f"{', '.join(map(str, last))} of up to {settings.num_points // 2}, by seed",
            f"below {settings.highest}, every seed",
            max(last) < settings.highest,
            last,
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    title = "share of parameter space with amplitudes beyond a frequency"
    with figure(folder / "prop_a_6.png", title=title, size=(7, 4.5)) as (_, axis):
        for index, seed in enumerate(seeds):
            k, share = seed["k"], seed["beyond"]
            there = share > 0
            label = f"{settings.num_networks} networks, {len(seeds)} seeds" if index == 0 else None
            axis.loglog(k[there], share[there], color="C0", marker="o", markersize=4, linewidth=0.8, label=label)
        k = seeds[0]["k"][:16]
        constant = 1.3 * max((seed["beyond"] * seed["k"] ** 2.0).max() for seed in seeds)  # above all points
        label = "slope of the bound, $k^{-2}$ (constant unknown)"
        axis.loglog(k, constant * k**-2.0, "k:", linewidth=1, label=label)
        axis.axhline(1 / settings.num_networks, color="0.6", linewidth=0.8, label="one network")
        axis.set(xlabel="frequency k (cycles)", ylabel="share with an amplitude > ε beyond k")
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.minorticks_off()
        axis.legend()


EXPERIMENT = Experiment(
    figures=("Def. A.1", "Prop A.6"),
    summary="The higher a frequency, the smaller the share of parameter space that expresses it.",
    presets=PRESETS,
    train=lambda settings, task: arrays.compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: arrays.load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis proves the proposition and measures nothing; clip, epsilon and sizes are ours. Networks on [0, 1] "
        "have their end line taken off, in place of compact support. That the share beyond k falls with k is true of "
        "any functions (remark 1), so the share at k itself is judged too. The bound is not tight: the constant of "
        "Theorem 3.3 is bounded over the ball, so the share is exactly 0 beyond some k, while remark 2 (the indicator "
        "is below the amplitude) needs k >= kappa of each network, where the indicator is 0 already."
    ),
)
