"""Figures 4.2, 4.3 and B.8: the spectrum of the tangent kernel of a VGG19, and its alignment with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...frame.criteria import Array
from ...frame.figures import WIDEST, figure, shades
from ..drawing import Run, band, beside, of_seeds
from .settings import BATCHES, Settings, parts

__all__ = ["draw"]

STYLES = dict(zip(BATCHES, ("-", "--"), strict=True))
GRID: dict[str, Any] = {"font": 8, "boxed": False, "sharex": True, "sharey": "row", "squeeze": False}
"""What all figures have."""
HIGHLIGHTED = ("4 %", "8 %", "16 %")
"""Shares of the eigenvalues of which the probe records trace ratios: of 1000, the thesis' 40, 80 and 160."""
OTHERS = (0.01, 0.02, 0.32, 0.64)
RANK_LEFT = {0.0: 0.1, 0.5: 0.2}
"""Published: below which share of its start the effective rank falls, by share of random labels."""
HIGHEST = {0.0: {"train": 0.27, "test": 0.23}, 0.5: {"train": 0.075, "test": 0.09}}
"""Published: the highest alignment, read off the figure."""


def draw(settings: Settings, seeds: Sequence[dict[str, Run]], folder: Path) -> None:
    runs = {name: [seed[name] for seed in seeds] for name in parts(settings)}
    fast = {share: runs[name] for name, (rate, share) in parts(settings).items() if rate == settings.learning_rate}
    slow = {share: runs[name] for name, (rate, share) in parts(settings).items() if rate != settings.learning_rate}
    title = f"tangent kernel at learning rate {settings.learning_rate:g} ({of_seeds(len(seeds))})"
    look = GRID | {"size": (min(WIDEST, 2.1 * len(fast) + 1.1), 6.6)}
    with figure(folder / "fig_4_2.png", 4, len(fast), title=title, **look) as (_, axes):
        for column, (share, found) in enumerate(fast.items()):
            for batch in BATCHES:
                curves = [run[f"accuracy/{batch}"] for run in found]
                band(axes[0, column], found[0]["step"], curves, "C0", batch, linestyle=STYLES[batch])
            axes[0, column].set_title(f"{share:.0%} random labels")
            _spectrum(axes[1:, column], found)
            if share in RANK_LEFT:
                start = np.mean([run["ntk/effective_rank/train"][0] for run in found])
                label = f"published: below {RANK_LEFT[share]:.0%} of the start"
                axes[2, column].axhline(RANK_LEFT[share] * start, color="k", linestyle=":", linewidth=1)
                axes[2, column].set_title(label, fontsize=7)
            axes[3, column].axhline(0.7, color="k", linestyle=":", linewidth=1, label="published:\n4 % above")
        axes[0, 0].set_ylabel("accuracy")
        _labels(axes[1:])
        beside(axes[0, -1])
    _alignments(fast, folder / "fig_4_3.png")
    title = f"tangent kernel at learning rate {settings.slow_learning_rate:g} ({of_seeds(len(seeds))})"
    look = GRID | {"size": (min(WIDEST, 2.1 * len(slow) + 1.6), 5.3)}
    with figure(folder / "fig_b_8.png", 3, len(slow), title=title, **look) as (picture, axes):
        for column, (share, found) in enumerate(slow.items()):
            _spectrum(axes[:, column], found)
            axes[0, column].set_title(f"{share:.0%} random labels")
            if share in fast:
                curves = [run["ntk/effective_rank/train"] for run in fast[share]]
                band(axes[1, column], found[0]["step"], curves, "C1", f"train, rate {settings.learning_rate:g}")
        _labels(axes)
        words = "published: the least effective rank is about 3 times that at the higher rate"
        picture.supxlabel(words, fontsize=8)


def _spectrum(axes: Any, runs: Sequence[Run]) -> None:
    """The largest, mean and median eigenvalue, the effective rank and the trace ratios, downwards."""
    steps = runs[0]["step"]
    for batch, style in STYLES.items():
        for color, stream in (("C3", "max"), ("C0", "mean"), ("C2", "median")):
            label = stream if batch == "train" else ""
            band(
                axes[0], steps, [run[f"ntk/{stream}_eigenvalue/{batch}"] for run in runs], color, label, linestyle=style
            )
        band(axes[1], steps, [run[f"ntk/effective_rank/{batch}"] for run in runs], "C0", batch, linestyle=style)
    axes[2].plot(steps, _others(runs), color="0.7", linewidth=1)
    axes[2].lines[0].set_label(", ".join(f"{100 * share:g}" for share in OTHERS) + " %")
    for index, color in enumerate(("#b30000", "#e34a33", "#fc8d59")):
        for batch, style in STYLES.items():
            curves = [run[f"ntk/trace_ratio/{batch}"][:, index] for run in runs]
            band(axes[2], steps, curves, color, HIGHLIGHTED[index] if batch == "train" else "", linestyle=style)
    axes[0].set_yscale("log")


def _others(runs: Sequence[Run]) -> Array:
    """Trace ratios of other shares, on the training batch, mean of the seeds. Shape ``(T, shares)``."""
    values = np.array([run["ntk/eigenvalues/train"] for run in runs])  # (seeds, T, N), descending
    sums = values.cumsum(2)
    counts = [max(1, round(share * values.shape[2])) for share in OTHERS]
    ratios: Array = np.mean([sums[..., count - 1] / sums[..., -1] for count in counts], axis=1).T
    return ratios


def _labels(axes: Any) -> None:
    for axis, label in zip(axes[:, 0], ("eigenvalues", "effective rank", "trace ratio"), strict=True):
        axis.set_ylabel(label)
    for axis in axes[:, -1]:
        beside(axis)
    for axis in axes[-1]:
        axis.set_xlabel("training step")


def _alignments(runs: dict[float, list[Run]], path: Path) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    of = of_seeds(len(next(iter(runs.values()))))
    look = GRID | {"size": (min(WIDEST, 2.1 * len(runs) + 1), 5.4)}
    title = f"alignment with the labels ({of}; layers: mean; published: up to 0.55)"
    with figure(path, 3, len(runs), title=title, **look) as (picture, axes):
        for column, (share, found) in enumerate(runs.items()):
            steps = found[0]["step"]
            for row, (batch, color) in enumerate((("train", "C0"), ("test", "C1"))):
                curves = [run[f"ntk/alignment/{batch}"] for run in found]
                band(axes[0, column], steps, curves, color, batch, linestyle=STYLES[batch])
                if share in HIGHEST:
                    label = f"published highest, {batch}"
                    style = {"color": color, "linestyle": ":", "linewidth": 1}
                    axes[0, column].axhline(HIGHEST[share][batch], label=label, **style)
                layers = np.mean([run[f"ntk/layer_alignment/{batch}"] for run in found], axis=0)
                for layer, shade in enumerate(shades(layers.shape[1], 0.95)):
                    band(axes[1 + row, column], steps, [layers[:, layer]], shade)
            axes[0, column].set_title(f"{share:.0%} random labels")
            axes[2, column].set_xlabel("training step")
        for axis, label in zip(axes[:, 0], ("alignment", "of each layer, train", "of each layer, test"), strict=True):
            axis.set_ylabel(label)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
        scale = ScalarMappable(Normalize(1, layers.shape[1]), "viridis")
        picture.colorbar(scale, ax=axes[1:], label="layer, from input to output", aspect=40, pad=0.01)
