"""What the figures and tables of Experiments 3 to 7 share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..frame.criteria import Array
from ..frame.figures import figure

__all__ = ["arranged", "band", "heat_map", "heat_maps", "listed", "of_seeds", "panel_title", "plain", "points"]


def listed(values: Iterable[float], form: str = ".2f") -> str:
    """Numbers with commas between them.

    Example:
        >>> listed([1, 0.5])
        '1.00, 0.50'
    """
    return ", ".join(format(value, form) for value in values)


def of_seeds(count: int, spread: bool = False) -> str:
    """What a figure shows of so many seeds; with ``spread`` it has a band, too.

    Example:
        >>> of_seeds(3, spread=True), of_seeds(1)
        ('mean, least and most of 3 seeds', 'one seed')
    """
    return f"mean{', least and most' * spread} of {count} seeds" if count > 1 else "one seed"


def panel_title(title: str, value: float, published: Iterable[float]) -> str:
    """A title with the letter of the thesis' panel of that value, where it has one.

    Example:
        >>> panel_title("depth = 6", 6, (3, 4, 5, 6)), panel_title("depth = 7", 7, (3, 4, 5, 6))
        ('(d) depth = 6', 'depth = 7')
    """
    letters = dict(zip(published, "abcdefgh", strict=False))
    return f"({letters[value]}) {title}" if value in letters else title


def band(axis: Any, steps: Array, curves: Sequence[Array], color: Any, label: str, **line: Any) -> None:
    """Draw the mean of the seeds' curves as a line, and a band from the least to the most, logarithmic upwards.

    The legend stands beside the axes; ticks are plain numbers.

    Args:
        steps: Shape ``(T,)``.
        curves: One of each seed. Shape ``(T,)`` each.
        line: Other properties of the line.
    """
    every = np.array(curves)
    axis.plot(steps, every.mean(0), color=color, label=label, **line)
    axis.fill_between(steps, every.min(0), every.max(0), color=color, alpha=0.2, linewidth=0)
    axis.set(yscale="log", xlim=(steps[0], steps[-1]))
    plain(axis.yaxis, *axis.dataLim.intervaly)
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)


def plain(axis: Any, low: float, high: float) -> None:
    """Give one logarithmic axis ticks at powers of ten, and at 2 and 5 times these if it is short.

    They are written out, but for those of an axis that goes below 0.0001.
    """
    from matplotlib.ticker import LogLocator

    if low > 1e-4:
        axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter("{x:g}" if high < 100 * low else "")


def heat_map(axis: Any, x: Any, y: Any, values: Array, low: float | None, high: float | None) -> Any:
    """Draw values as colours, rows upwards; what it returns is what a colour bar needs."""
    look = {"cmap": "viridis", "shading": "nearest", "rasterized": True}
    return axis.pcolormesh(x, y, values, vmin=low, vmax=high, **look)


def points(axis: Any, published: Iterable[tuple[float, float, float]], high: float) -> None:
    """Draw values of the thesis (x, y, value) on a heat map: diamonds have the map's colour if both agree."""
    x, y, values = zip(*published, strict=True)
    look: dict[str, Any] = {"cmap": "viridis", "marker": "D", "s": 45, "edgecolors": "white", "zorder": 3}
    axis.scatter(x, y, c=values, vmin=0, vmax=high, clip_on=False, **look)


def arranged(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels: up to three in a row, four in two rows.

    Example:
        >>> arranged(2), arranged(4), arranged(5)
        ((1, 2), (2, 2), (2, 3))
    """
    columns = 2 if count == 4 else min(3, count)
    return math.ceil(count / columns), columns


def heat_maps(
    path: Path,
    title: str,
    panels: Mapping[str, Array],
    x: Any,
    steps: Array,
    high: float,
    label: str,
    *,
    published: Mapping[str, Sequence[tuple[float, float, float]]] = MappingProxyType({}),
    **axes_of: Any,
) -> None:
    """Draw heat maps in the thesis' order, training upwards, and one colour bar from 0 to ``high``.

    Args:
        panels: By title. Shape ``(T, K)`` each.
        x: Positions to the right. Shape ``(K,)``.
        label: Of the colour bar.
        published: Position, step and value of points of the thesis, by title of the panel; see :func:`points`.
        axes_of: Properties of all axes, such as ``xlabel``.
    """
    rows, columns = arranged(len(panels))
    size = (2.5 * columns + 1.5 if columns > 2 else 2.9 * columns + 1.5, 2.7 * rows + 0.8)
    with figure(path, rows, columns, title=title, size=size, sharex=True, sharey=True, squeeze=False) as drawn:
        picture, axes = drawn
        for axis, (name, values) in zip(axes.flat, panels.items(), strict=False):
            image = heat_map(axis, x, steps, values, 0, high)
            axis.set(title=name, ylabel="training step", ylim=(steps[0], steps[-1]), **axes_of)
            if name in published:
                points(axis, published[name], high)
            axis.label_outer()
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        picture.colorbar(image, ax=axes, extend="max", pad=0.01, aspect=20 * rows).set_label(label)
