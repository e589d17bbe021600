"""Figures 3.1, 3.2 and A.1 of Experiment 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..frame.figures import figure, shades
from .drawing import heat_map, of_seeds, plain, points
from .results import PANEL, Fit

__all__ = ["draw"]


def draw(settings: Any, seeds: Sequence[dict[str, Fit]], folder: Path) -> None:
    _amplitudes_and_norms(seeds, folder / "fig_3_1.png")
    _learnt_function(seeds[0]["equal"], folder / "fig_3_2.png")
    _losses(seeds, folder / "fig_a_1.png")


def _amplitudes_and_norms(seeds: Sequence[dict[str, Fit]], path: Path) -> None:
    title = f"frequencies learned ({of_seeds(len(seeds))}), spectral norms ({of_seeds(len(seeds), spread=True)})"
    look: dict[str, Any] = {"boxed": False, "sharex": "col", "sharey": "col"}
    with figure(path, 2, 2, title=title, size=(9, 6.4), **look) as (picture, axes):
        for (heat, lines), (kind, panel) in zip(axes, PANEL.items(), strict=True):
            fits = [fits[kind] for fits in seeds]
            first = fits[0]
            places = np.arange(len(first.frequencies))
            image = heat_map(heat, places, first.steps, np.mean([fit.amplitude for fit in fits], axis=0), 0, 1)
            heat.set_xticks(places, [f"{k:g}" for k in first.frequencies])
            half = np.median([fit.half for fit in fits], axis=0)
            reached = np.isfinite(half)
            heat.plot(np.flatnonzero(reached), half[reached], "o", mfc="none", mec="white", clip_on=False)
            if kind == "equal" and first.published:
                points(heat, first.published, 1)
            heat.set(ylabel="training step", ylim=(first.steps[0], first.steps[-1]))
            heat.set_title(f"({panel[3]}) {kind} amplitudes")
            for layer, (name, color) in enumerate(zip(first.layers, shades(len(first.layers), 0.9), strict=True)):
                norms = np.array([fit.norms[:, layer] for fit in fits])
                lines.plot(first.steps, norms.mean(0), color=color, label=name)
                lines.fill_between(first.steps, norms.min(0), norms.max(0), color=color, alpha=0.15, linewidth=0)
            lines.set(ylabel="spectral norm of each layer", xlim=(first.steps[0], first.steps[-1]), yscale="log")
            lines.set_title(f"({panel[3]}) {kind} amplitudes")
            lines.locator_params(axis="x", nbins=5)
            lines.grid(alpha=0.3)
        low, high = np.array([lines.dataLim.intervaly for lines in axes[:, 1]]).T
        plain(axes[0, 1].yaxis, low.min(), high.max())
        axes[1, 0].set_xlabel("frequency (cycles)")
        axes[1, 1].set_xlabel("training step")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside right center", fontsize=9, title="layer")
        bar = picture.colorbar(image, ax=axes[:, 0], extend="max", aspect=40, pad=0.02)
        bar.set_label(
            f"amplitude / target amplitude (○: half of it reached, median{'; ◇: published' * bool(first.published)})"
        )


def _learnt_function(fit: Fit, path: Path) -> None:
    z = np.arange(len(fit.target)) / len(fit.target)
    look: dict[str, Any] = {"boxed": False, "sharex": True, "sharey": True}
    with figure(path, 2, 2, title="target and learnt function (one seed)", size=(9, 5.4), **look) as (picture, axes):
        for axis, index in zip(axes.flat, fit.shown, strict=True):
            axis.plot(z, fit.target, color="tab:blue", alpha=0.6, label="target")
            axis.plot(z, fit.learnt[index], color="tab:green", label="learnt function")
            learned = f"up to {cutoff:g} cycles" if (cutoff := fit.cutoff[index]) else "nothing"
            axis.set_title(f"step {fit.steps[index]}: {learned} learned by half")
            axis.set_xlim(0, 1)
        for axis in axes[1]:
            axis.set_xlabel("z")
        for axis in axes[:, 0]:
            axis.set_ylabel("function value")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2)


def _losses(seeds: Sequence[dict[str, Fit]], path: Path) -> None:
    title = f"training loss ({of_seeds(len(seeds), spread=True)})"
    with figure(path, title=title, size=(7, 4.2), boxed=False) as (picture, axis):
        for kind, color in zip(PANEL, ("tab:blue", "tab:orange"), strict=True):
            steps = seeds[0][kind].steps
            losses = np.array([fits[kind].loss for fits in seeds])
            axis.plot(steps, losses.mean(0), color=color, label=f"{kind} amplitudes")
            axis.fill_between(steps, losses.min(0), losses.max(0), color=color, alpha=0.2, linewidth=0)
        axis.set(xlabel="training step", ylabel="mean squared error", yscale="log", xlim=(steps[0], steps[-1]))
        plain(axis.yaxis, *axis.dataLim.intervaly)
        axis.grid(alpha=0.3)
        picture.legend(loc="outside lower center", ncols=2)
