"""What the figures of all experiments begin and end with."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import captions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WIDEST", "figure", "formats", "log_steps", "of_seeds", "shades"]

WIDEST = 10
"""Inches. On a page of GitHub, about 8.6 inches wide, text of a wider picture is hard to read."""

formats = [".png"]
"""As which files figures are saved: ``--svg`` adds another."""


@contextmanager
def figure(
    path: Path,
    rows: int = 1,
    columns: int = 1,
    *,
    title: str,
    size: tuple[float, float],
    font: float = 10,
    boxed: bool = True,
    tight: bool = False,
    **options: Any,
) -> Iterator[tuple[Figure, Any]]:
    """Give a figure and its axes to draw on; what was drawn is saved, without a screen.

    Args:
        path: Of the picture.
        title: What it shows, in words; what it shows of the thesis stands before, by its name.
        size: Width and height, in inches.
        font: Size of text, in points.
        boxed: Whether axes have a line on the top and on the right.
        tight: Whether what is empty around the axes is cut off, or added where labels need it.
        options: Others of ``matplotlib.pyplot.subplots``.

    Raises:
        ValueError: If the picture is wider than ``WIDEST``.

    Example::

        with figure(folder / "fig_a_1.png", title="loss of 5 seeds", size=(7, 4)) as (_, axis):
            axis.plot(steps, losses)
    """
    if size[0] > WIDEST:
        raise ValueError(
            f"{path.name} must be at most {WIDEST} inches wide, got {size[0]:g}: put its panels into more rows."
        )
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    look: Any = {"font.size": font, "axes.titlesize": font, "axes.spines.top": boxed, "axes.spines.right": boxed}
    lines = textwrap.wrap(f"{captions.title(path.stem)}: {title}", int(size[0] * 72 / (0.55 * (font + 1))))
    with matplotlib.rc_context(look):
        picture, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
        try:
            picture.suptitle("\n".join(lines), fontsize=font + 1)
            yield picture, axes
            for suffix in formats:
                picture.savefig(path.with_suffix(suffix), dpi=200, bbox_inches="tight" if tight else None)
        finally:
            plt.close(picture)


def shades(count: int, last: float) -> Any:
    """Colours from dark to light, of ``viridis`` from 0 to ``last``. Shape ``(count, 4)``."""
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0, last, count))


def of_seeds(number: int, words: str = "mean and range of") -> str:
    """What a figure shows of its seeds.

    Example:
        >>> of_seeds(5), of_seeds(5, "one of"), of_seeds(1)
        ('mean and range of 5 seeds', 'one of 5 seeds', 'one seed')
    """
    return f"{words} {number} seeds" if number > 1 else "one seed"


def log_steps(axis: Any) -> None:
    """A logarithmic axis of steps that begins at 0, with ticks that do not touch."""
    axis.set_xscale("symlog", linthresh=5, linscale=0.3)
    axis.set_xticks([0, 10, 100, 1000, 10_000, 100_000], ["0", "10", "100", "1000", "10⁴", "10⁵"])
    axis.set_xlim(0, max(line.get_xdata()[-1] for line in axis.lines))
    axis.minorticks_off()
