"""Figures 4.4 and B.7: alignment with the labels of easy and of difficult examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...frame.figures import WIDEST, figure
from ..drawing import Run, band, of_seeds
from .settings import KINDS, OTHERS, Settings

__all__ = ["draw"]

COLORS = {"easy": "C0", "difficult": "C3"}


def draw(settings: Settings, seeds: Sequence[dict[str, Run]], folder: Path) -> None:
    look: dict[str, Any] = {"boxed": False, "sharex": True, "sharey": True, "squeeze": False}
    title = f"easy and difficult examples ({of_seeds(len(seeds))})"
    with figure(folder / "fig_4_4.png", 1, len(KINDS), title=title, size=(8.6, 3.9), **look) as (picture, axes):
        shown = "digits with random labels", f"{OTHERS[settings.others]} ({settings.others}) among digits"
        for axis, kind, words in zip(axes[0], KINDS, shown, strict=True):
            runs = [seed[kind] for seed in seeds]
            for batch, color in COLORS.items():
                band(axis, runs[0]["step"], [run[f"ntk/alignment/{batch}"] for run in runs], color, batch)
            axis.set(xlabel="training step", title=words)
        axes[0, 0].set_ylabel("alignment with the labels")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2)
    look |= {"title": "easy and difficult examples by depth (rows) and seed (columns)"}
    look |= {"size": (min(WIDEST, 2.5 * len(seeds) + 0.8), 1.9 * len(settings.depths) + 0.9)}
    with figure(folder / "fig_b_7.png", len(settings.depths), len(seeds), **look) as (picture, axes):
        for row, depth in enumerate(settings.depths):
            for axis, seed in zip(axes[row], seeds, strict=True):
                run = seed[f"depth {depth}"]
                for batch, color in COLORS.items():
                    band(axis, run["step"], [run[f"ntk/alignment/{batch}"]], color, batch)
            axes[row, 0].set_ylabel(f"alignment,\n{depth} layers")
        for number, axis in enumerate(axes[0], 1):
            axis.set_title(f"seed {number} of {len(seeds)}")
        for axis in axes[-1]:
            axis.set_xlabel("training step")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2)
