"""What Experiment 1 measured of one network, and the criteria of Figs. 3.1, 3.2 and A.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from probes_fourier import half_amplitude_steps

from .criteria import Finding, enough, spearman

__all__ = ["Fit", "judge"]

Array = NDArray[Any]
PANEL = {"equal": "3.1a, equal amplitudes", "increasing": "3.1b, increasing amplitudes"}


@dataclass(frozen=True)
class Fit:
    """One network's training: T measured steps, K frequencies, L layers, N points."""

    frequencies: Array  # (K,) cycles
    steps: Array  # (T,)
    amplitude: Array  # (T, K), in units of the target's
    layers: list[str]
    norms: Array  # (T, L)
    learnt: Array  # (T, N)
    target: Array  # (N,)

    @property
    def half(self) -> Array:
        """Step at which each amplitude first reaches half the target's; infinity when never. Shape ``(K,)``."""
        steps = half_amplitude_steps(torch.from_numpy(self.steps), torch.from_numpy(self.amplitude))
        return np.nan_to_num(steps.double().numpy(), nan=np.inf)

    @property
    def loss(self) -> Array:
        """Mean squared error on the grid, which is the training loss. Shape ``(T,)``."""
        squares: Array = ((self.learnt.astype(float) - self.target) ** 2).mean(1)
        return squares

    def low_pass_residual(self) -> tuple[Array, Array]:
        """Up to which frequency all are learned by half, and which share of the target's energy up to there is missing.

        Returns:
            Highest such frequency, 0 when there is none, and the share (NaN then); both of shape ``(T,)``.
        """
        reached = np.cumprod(self.half <= self.steps[:, None], axis=1).sum(1)  # how many from the lowest on
        cutoff = np.where(reached > 0, self.frequencies[np.maximum(reached - 1, 0)], 0)
        bins = np.arange(len(self.target) // 2 + 1)
        residual = np.abs(np.fft.rfft(self.target - self.learnt.astype(float))) ** 2
        energy = np.abs(np.fft.rfft(self.target)) ** 2
        low = bins <= cutoff[:, None]
        with np.errstate(invalid="ignore"):
            share = np.where(cutoff > 0, (residual * low).sum(1) / (energy * low).sum(1), np.nan)
        return cutoff, share


def inversions(half: Array) -> int:
    """Pairs of frequencies of which the higher one is learned strictly earlier."""
    return int(np.triu(half[:, None] > half, 1).sum())


def judge(settings: Any, seeds: Sequence[dict[str, Fit]]) -> list[Finding]:
    findings = []
    for kind, panel in PANEL.items():
        fits = [fits[kind] for fits in seeds]
        findings += [_order(panel, fits), _norms(panel, fits)]
    equal = [fits["equal"] for fits in seeds]
    return [*findings, _low_pass(equal), *(_loss(kind, [fits[kind] for fits in seeds]) for kind in PANEL)]


def _order(panel: str, fits: list[Fit]) -> Finding:
    k, half = fits[0].frequencies, [fit.half for fit in fits]
    allowed = len(k) * (len(k) - 1) // 2 // 15
    inverted = [inversions(steps) for steps in half]
    order = [spearman(k, steps) for steps in half]
    ratio = [steps[-1] / steps[0] if np.isfinite(steps[0]) else np.nan for steps in half]
    lowest = [float(fit.amplitude[-1, 0]) for fit in fits]
    passed = [
        i <= allowed and s >= 0.9 and r >= 8 and 0.85 <= a <= 1.15
        for i, s, r, a in zip(inverted, order, ratio, lowest, strict=True)
    ]
    middle = [_step(step) for step in np.median(half, axis=0)]
    return Finding(
        quantity=f"Fig. {panel}: step at which a frequency reaches half its amplitude",
        published="low frequencies first",
        measured=f"median of seeds {', '.join(f'{f:g}: {m}' for f, m in zip(k, middle, strict=True))}\n"
        f"inversions {_list(inverted)}; Spearman {_list(order, '.2f')}\n"
        f"highest / lowest {_list(ratio, '.0f')}\nfinal amplitude of {k[0]:g} cycles {_list(lowest, '.2f')}",
        criterion=f"at most {allowed} inversions of {len(k) * (len(k) - 1) // 2} pairs, Spearman >= 0.9, highest / "
        f"lowest >= 8, final amplitude of the lowest 0.85 to 1.15",
        passed=enough(passed),
        values={"half_amplitude_steps": half, "inversions": inverted, "spearman": order, "ratio": ratio,
                "final_amplitude_of_lowest": lowest, "passed": passed},
    )  # fmt: skip


def _norms(panel: str, fits: list[Fit]) -> Finding:
    growth = np.array([fit.norms[-1] / fit.norms[0] for fit in fits])  # (seeds, L)
    hidden = growth[:, 1:-1]
    passed = [bool(least >= 3) for least in hidden.min(1)]
    return Finding(
        quantity=f"Fig. {panel}: spectral norm of every hidden layer, end / start",
        published="grows while high frequencies are fitted",
        measured=f"hidden layers {_list(np.median(hidden, axis=0), '.1f')} (median of seeds), "
        f"least of each seed {_list(hidden.min(1), '.1f')}",
        criterion="every hidden layer >= 3",
        passed=enough(passed),
        values={"layers": fits[0].layers, "end_over_start": growth, "passed": passed},
    )


def _low_pass(fits: list[Fit]) -> Finding:
    worst = [float(np.nanmax(share)) if np.isfinite(share := fit.low_pass_residual()[1]).any() else np.nan for fit in fits]
    passed = [bool(share < 0.25) for share in worst]
    return Finding(
        quantity="Fig. 3.2: energy still missing below the highest frequency learned by half, largest over training",
        published="the learnt function is the target, low-passed",
        measured=_list(worst, ".2f"),
        criterion="< 0.25",
        passed=enough(passed),
        values={"largest_share": worst, "passed": passed},
    )


def _loss(kind: str, fits: list[Fit]) -> Finding:
    means = [np.array([part.mean() for part in np.array_split(fit.loss, 8)]) for fit in fits]
    passed = [bool((np.diff(mean) < 0).all()) for mean in means]
    return Finding(
        quantity=f"Fig. A.1: loss, {kind} amplitudes, means over eighths of training",
        published="falls",
        measured=f"{_list(np.mean(means, axis=0), '.3g')} (mean of seeds)",
        criterion="every eighth (10,000 of 80,000 steps) lower than the one before",
        passed=enough(passed),
        values={"means": means, "passed": passed},
    )


def _step(step: float) -> str:
    return f"{step:.0f}" if np.isfinite(step) else "never"


def _list(values: Any, form: str = "") -> str:
    return ", ".join("inf" if np.isinf(value) else format(value, form) for value in values)
