"""The disk, the eigenfunctions that were measured of it, and their figures (Figs. 4.1 and B.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..frame.criteria import Array
from ..frame.figures import figure

__all__ = ["SHOWN", "Modes", "disk", "draw", "plane"]

SHOWN = 20
"""Eigenfunctions recorded; the figure shows every other of the first 12."""


@dataclass(frozen=True)
class Modes:
    """What was measured at T steps."""

    steps: Array  # (T,)
    eigenvalues: Array  # (T, N), descending
    alignment: Array  # (T,)
    functions: Array  # (T, SHOWN, side, side)
    accuracy: Array  # (T,)
    points: Array  # (n, 2), to train on

    @property
    def ratio(self) -> Array:
        """The 20th eigenvalue over the first. Shape ``(T,)``."""
        ratio: Array = self.eigenvalues[:, 19] / self.eigenvalues[:, 0]
        return ratio

    @property
    def label_energy(self) -> Array:
        """Share of the centred label's energy along the first five eigenfunctions. Shape ``(T,)``."""
        side = self.functions.shape[-1]
        label = disk(plane(side)).numpy().reshape(side, side).T.ravel()  # rows upwards in y
        label = label - label.mean()
        top = self.functions[:, :5].reshape(len(self.steps), 5, -1)
        energy: Array = ((top @ label) ** 2).sum(1) / (label @ label)
        return energy


def disk(points: Tensor) -> Tensor:
    """1 in the centred disk of half the square's area, else 0. Shape ``(n,)``."""
    inside: Tensor = points.norm(dim=1) < math.sqrt(2 / math.pi)
    return inside.float()


def plane(side: int) -> Tensor:
    """A grid of side by side points of the square [-1, 1]^2, x slowest. Shape ``(side^2, 2)``."""
    line = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(line, line)


def draw(settings: Any, seeds: Sequence[Modes], folder: Path) -> None:
    _eigenfunctions(seeds[0], folder / "fig_4_1.png")
    _data(seeds[0], settings.grid, folder / "fig_b_4.png")


def _eigenfunctions(first: Modes, path: Path) -> None:
    rows = np.unique(np.linspace(0, len(first.steps) - 1, 5).round().astype(int))
    columns = [0, 1, 2, 3, 4, 6, 8, 11]
    size = (0.9 * len(columns), 0.98 * len(rows) + 0.4)
    title = "eigenfunctions of the tangent kernel, features centred (one seed)"
    with figure(path, len(rows), len(columns), title=title, size=size, font=7) as (picture, axes):
        for row, index in enumerate(rows):
            for column, mode in enumerate(columns):
                axis = axes[row, column]
                shape = first.functions[index, mode]
                bound = np.abs(shape).max()
                look: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound, "interpolation": "nearest"}
                axis.imshow(shape, origin="lower", extent=(-1, 1, -1, 1), **look)
                axis.add_patch(_circle())
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(f"{mode + 1}", fontsize=8)
            axes[row, 0].set_ylabel(f"step {first.steps[index]}\n{first.ratio[index]:.2%}", fontsize=7)
        picture.supxlabel(
            "Blue below, red above 0, each on its own scale. Dotted: the class. Left: 20th eigenvalue / first\n"
            "(published: 1.5 % at step 0, 0.2 % at step 2000)",
            fontsize=7.5,
        )


def _data(first: Modes, side: int, path: Path) -> None:
    look: dict[str, Any] = {"sharex": True, "sharey": True}
    with figure(path, 1, 2, title="the disk dataset (one seed)", size=(8, 4.7), **look) as (picture, axes):
        sets = {f"{len(first.points)} points to train on": first.points, f"grid of {side} by {side}": plane(side)}
        for axis, (title, points) in zip(axes, sets.items(), strict=True):
            inside = disk(torch.as_tensor(points)).numpy() > 0
            x, y = np.asarray(points).T
            for which, color, name in ((inside, "C3", "y = 1"), (~inside, "C0", "y = -1")):
                axis.plot(x[which], y[which], ".", color=color, markersize=4, label=name)
            axis.add_patch(_circle())
            axis.set(title=title, xlabel="$x_1$", aspect="equal")
        axes[0].set_ylabel("$x_2$")
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=3)


def _circle() -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), math.sqrt(2 / math.pi), fill=False, linewidth=0.9, linestyle=":")
