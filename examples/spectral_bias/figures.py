"""Figures 3.1, 3.2 and A.1 of Experiment 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..frame.figures import figure, shades
from .drawing import heat_map, of_seeds, plain
from .results import PANEL, Fit

__all__ = ["draw"]


def draw(settings: Any, seeds: Sequence[dict[str, Fit]], folder: Path) -> None:
    _amplitudes_and_norms(seeds, folder / "fig_3_1.png")
    _learnt_function(seeds[0]["equal"], folder / "fig_3_2.png")
    _losses(seeds, folder / "fig_a_1.png")


def _amplitudes_and_norms(seeds: Sequence[dict[str, Fit]], path: Path) -> None:
    layout = {"width_ratios": [1, 1.15, 1, 1.15]}
    with figure(path, 1, 4, size=(15, 4.2), font=11, boxed=False, gridspec_kw=layout) as (picture, axes):
        for column, (kind, panel) in enumerate(PANEL.items()):
            fits = [fits[kind] for fits in seeds]
            first = fits[0]
            heat, lines = axes[2 * column : 2 * column + 2]
            places = np.arange(len(first.frequencies))
            image = heat_map(heat, places, first.steps, np.mean([fit.amplitude for fit in fits], axis=0), 0, 1)
            heat.set_xticks(places, [f"{k:g}" for k in first.frequencies])
            half = np.median([fit.half for fit in fits], axis=0)
            reached = np.isfinite(half)
            heat.plot(np.flatnonzero(reached), half[reached], "o", mfc="none", mec="white", clip_on=False)
            heat.set(xlabel="frequency (cycles)", ylabel="training step", ylim=(first.steps[0], first.steps[-1]))
            heat.set_title(f"({panel[3]}) {kind} amplitudes", fontsize=11)
            for layer, (name, color) in enumerate(zip(first.layers, shades(len(first.layers), 0.9), strict=True)):
                norms = np.array([fit.norms[:, layer] for fit in fits])
                lines.plot(first.steps, norms.mean(0), color=color, label=name)
                lines.fill_between(first.steps, norms.min(0), norms.max(0), color=color, alpha=0.15, linewidth=0)
            lines.set(xlabel="training step", xlim=(first.steps[0], first.steps[-1]), yscale="log")
            lines.set_title("spectral norm of each layer", fontsize=11)
            lines.locator_params(axis="x", nbins=5)
            lines.grid(alpha=0.3)
        axes[1].sharey(axes[3])
        low, high = np.array([line.dataLim.intervaly for line in (axes[1], axes[3])]).T
        for lines in (axes[1], axes[3]):
            plain(lines.yaxis, low.min(), high.max())
        axes[3].legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), title="layer")
        picture.suptitle(f"Fig. 3.1: {of_seeds(len(seeds))}; ○ half of the target's amplitude reached, median")
        bar = picture.colorbar(image, ax=axes[0], extend="max", location="left", pad=0.02)
        bar.set_label("amplitude / target amplitude")


def _learnt_function(fit: Fit, path: Path) -> None:
    z = np.arange(len(fit.target)) / len(fit.target)
    with figure(path, 2, 2, size=(11, 6), font=11, boxed=False, sharex=True, sharey=True) as (_, axes):
        for axis, index in zip(axes.flat, fit.shown, strict=True):
            axis.plot(z, fit.target, color="tab:blue", alpha=0.6, label="target")
            axis.plot(z, fit.learnt[index], color="tab:green", label="learnt function")
            learned = f"up to {cutoff:g} cycles" if (cutoff := fit.cutoff[index]) else "nothing"
            axis.set_title(f"step {fit.steps[index]}: {learned} learned by half", fontsize=11)
            axis.set_xlim(0, 1)
        for axis in axes[1]:
            axis.set_xlabel("z")
        for axis in axes[:, 0]:
            axis.set_ylabel("function value")
        axes[0, 0].legend(loc="upper right", fontsize=9)


def _losses(seeds: Sequence[dict[str, Fit]], path: Path) -> None:
    with figure(path, size=(7, 4), font=11, boxed=False) as (_, axis):
        for kind, color in zip(PANEL, ("tab:blue", "tab:orange"), strict=True):
            steps = seeds[0][kind].steps
            losses = np.array([fits[kind].loss for fits in seeds])
            axis.plot(steps, losses.mean(0), color=color, label=f"{kind} amplitudes, mean of {len(seeds)} seeds")
            axis.fill_between(steps, losses.min(0), losses.max(0), color=color, alpha=0.2, linewidth=0)
        axis.set(xlabel="training step", ylabel="mean squared error", yscale="log", xlim=(steps[0], steps[-1]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}" if losses.max() < 30 * losses.min() else "")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
