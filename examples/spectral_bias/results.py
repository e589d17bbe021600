"""What Experiment 1 measured of one network, and the criteria of Figs. 3.1, 3.2 and A.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes_fourier import half_amplitude_steps

from ..frame.criteria import Array, Finding, enough

__all__ = ["Fit", "judge"]
PUBLISHED = ((20, 33_000, 1.0), (50, 30_000, 0.5), (50, 60_000, 0.85))
"""Cycles, step and about what amplitude then, with equal amplitudes at the thesis' setting: read off its figure."""
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
        half: Array = half_amplitude_steps(torch.tensor(self.steps), torch.tensor(self.amplitude)).numpy()
        return half

    @property
    def loss(self) -> Array:
        """Mean squared error on the grid, which is the training loss. Shape ``(T,)``."""
        squares: Array = ((self.learnt.astype(float) - self.target) ** 2).mean(1)
        return squares

    @property
    def cutoff(self) -> Array:
        """The highest frequency such that it and all below are at half or more now, 0 when none is. Shape ``(T,)``."""
        learned = np.cumprod(self.amplitude >= 0.5, axis=1).sum(1)  # how many, from the lowest on
        return np.where(learned > 0, self.frequencies[np.maximum(learned - 1, 0)], 0)

    @property
    def published(self) -> list[tuple[float, float, float]]:
        """Place of a frequency, step and amplitude of ``PUBLISHED``, where this is the thesis' problem."""
        if len(self.target) != 200 or self.steps[-1] < 60_000:
            return []
        return [(float(np.searchsorted(self.frequencies, k)), step, value) for k, step, value in PUBLISHED]

    def missing_energy(self, between: bool = False) -> Array:
        r"""Share of the target's energy up to :attr:`cutoff` that the learnt function lacks; NaN when the cutoff is 0.

        .. math:: \sum_{k \le k_c} |\tilde\lambda_k - \tilde f_k|^2 \Big/ \sum_{k \le k_c} |\tilde\lambda_k|^2

        over the target's frequencies, or with ``between`` over all integers k. Shape ``(T,)``.
        """
        k = np.arange(len(self.target) // 2 + 1) if between else self.frequencies.astype(int)
        residual = np.abs(np.fft.rfft(self.target - self.learnt.astype(float))[:, k]) ** 2
        energy = np.abs(np.fft.rfft(self.target)[k]) ** 2
        low = k <= self.cutoff[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.cutoff > 0, (residual * low).sum(1) / (energy * low).sum(1), np.nan)

    @property
    def shown(self) -> list[int]:
        """The measured steps that Fig. 3.2 shows, as indices: 1/60, 1/10, 1/3 of training and its end."""
        last = len(self.steps) - 1
        return [max(1, round(last * share)) for share in (1 / 60, 1 / 10, 1 / 3, 1)]


def concordance(half: Array) -> tuple[float, int]:
    """Share of the pairs of frequencies of which the lower one is learned first, and how many pairs can be told apart.

    Two that are reached at the same measured step, or are never reached, cannot.

    Example:
        >>> concordance(np.array([100, 300, 200, np.inf, np.inf]))
        (0.8888888888888888, 9)
    """
    lower, higher = np.triu_indices(len(half), 1)
    told = half[lower] != half[higher]
    return float((half[lower] < half[higher])[told].mean()) if told.any() else 0.0, int(told.sum())


def judge(settings: Any, seeds: Sequence[dict[str, Fit]]) -> list[Finding]:
    findings = []
    for kind, panel in PANEL.items():
        fits = [fits[kind] for fits in seeds]
        findings += [_order(panel, fits, kind == "equal", settings.least_concordance), _norms(panel, fits)]
    equal = [fits["equal"] for fits in seeds]
    return [*findings, _low_pass(equal), *(_loss(kind, [fits[kind] for fits in seeds]) for kind in PANEL)]


def _order(panel: str, fits: list[Fit], equal: bool, least: float) -> Finding:
    # With increasing amplitudes the lowest is 0.1: what the network misses of frequencies ten times as large changes it
    # by more than 0.15 of itself until all of them are learned (`quick`, seeds 0 to 6: 1.42, 1.31, 0.97, 1.20, 1.43,
    # 1.01, 1.52; `paper`, seed 0: 0.95). There its final value is reported, not judged.
    k, half = fits[0].frequencies, [fit.half for fit in fits]
    pairs = len(k) * (len(k) - 1) // 2
    order, told = zip(*map(concordance, half), strict=True)
    ratio = [steps[-1] / max(steps[0], 1) if np.isfinite(steps[0]) else np.nan for steps in half]
    lowest = [float(fit.amplitude[-1, 0]) for fit in fits]
    passed = [
        s >= least and n >= 2 * pairs / 3 and r >= 8 and (not equal or 0.85 <= a <= 1.15)
        for s, n, r, a in zip(order, told, ratio, lowest, strict=True)
    ]
    middle = [_step(step) for step in np.median(half, axis=0)]
    return Finding(
        quantity=f"Fig. {panel}: step at which a frequency reaches half its amplitude",
        published="low frequencies first"
        + "\n50 cycles: about 0.5 at step 30,000, 0.85 at step 60,000" * (equal and bool(fits[0].published)),
        measured=f"median of seeds {', '.join(f'{f:g}: {m}' for f, m in zip(k, middle, strict=True))}\n"
        f"lower one first in {_list(order, '.1%')} of the pairs that can be told apart, {_list(told)} of {pairs}\n"
        f"highest / lowest {_list(ratio, '.0f')}\nfinal amplitude of {k[0]:g} cycles {_list(lowest, '.2f')}",
        criterion=f"lower one first in >= {least:.1%} of the pairs, of which two thirds can be told apart, "
        f"highest / lowest >= 8{', final amplitude of the lowest 0.85 to 1.15' if equal else ''}",
        passed=enough(passed),
        values={
            "half_amplitude_steps": half,
            "concordance": order,
            "pairs": told,
            "ratio": ratio,
            "final_amplitude_of_lowest": lowest,
            "passed": passed,
        },
    )


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
    # Some step of Adam throws the network off now and then: nearly all steps must hold, not every single one. `quick`,
    # seeds 0 to 6: 99.1 % of the steps hold in seed 0 (largest 0.27), all in the others (largest 0.19 to 0.25).
    missing = [share[np.isfinite(share)] for share in (fit.missing_energy() for fit in fits)]
    held = [float((share < 0.25).mean()) if len(share) else 0.0 for share in missing]
    largest = [float(share.max(initial=0)) for share in missing]
    between = [float(np.nanmedian(fit.missing_energy(between=True))) if fit.cutoff.any() else np.nan for fit in fits]
    passed = [share >= 0.95 for share in held]
    return Finding(
        quantity="Fig. 3.2: energy missing at the target's frequencies, up to the highest learned by half",
        published="the learnt function is the target, low-passed",
        measured=f"< 0.25 at {_list(held, '.1%')} of the steps, largest {_list(largest, '.2f')}\n"
        f"(with all frequencies in between, median {_list(between, '.2f')})",
        criterion="< 0.25 at 95 % of the measured steps",
        passed=enough(passed),
        values={"share_of_steps": held, "largest": largest, "median_with_all_frequencies": between, "passed": passed},
    )


def _loss(kind: str, fits: list[Fit]) -> Finding:
    # The figure averages over runs, and so does the criterion: Adam at a constant rate lets a single run jump back.
    means = [np.array([part.mean() for part in np.array_split(fit.loss, 8)]) for fit in fits]
    mean = np.mean(means, axis=0)
    falling = [bool((np.diff(one) < 0).all()) for one in means]
    return Finding(
        quantity=f"Fig. A.1: loss, {kind} amplitudes, means over eighths of training",
        published="falls (mean of runs)",
        measured=f"{_list(mean, '.3g')} (mean of seeds; {sum(falling)} of {len(falling)} seeds fall alone)",
        criterion="mean of seeds: every eighth (10,000 of 80,000 steps) lower than the one before",
        passed=bool((np.diff(mean) < 0).all()),
        values={"means": means, "falls_alone": falling},
    )


def _step(step: float) -> str:
    return f"{step:.0f}" if np.isfinite(step) else "never"


def _list(values: Any, form: str = "") -> str:
    return ", ".join("inf" if np.isinf(value) else format(value, form) for value in values)
