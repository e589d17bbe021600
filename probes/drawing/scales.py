"""Scales of axes and of colours: logarithmic where values span decades."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .words import entries, label, text

__all__ = [
    "COLORS",
    "GRAY",
    "HIGHEST",
    "colors",
    "edges",
    "mesh",
    "near_one",
    "norm",
    "plain_powers",
    "positions",
    "scale_of",
    "spans_decades",
    "steps_axis",
    "ticks",
]

COLORS = "viridis"
GRAY = "#969696"
"""Of what is no finite number: neither the white of a zero nor one of the other colours; as in the browser."""
DECADES = 100.0
"""From this ratio of the largest to the least on, positive values are drawn on a logarithmic scale."""
COLOR_DECADES = 30.0
"""The same for colours, of which fewer can be told apart; the least tenth of the values does not count."""
MAX_TICKS = 24
HIGHEST = 1e300
"""What is beyond is drawn here: matplotlib fails at axes nearer to the largest number."""


def spans_decades(values: NDArray[Any]) -> bool:
    """Whether values are positive, but for a few that are 0, and so far apart that a linear axis shows few of them."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    enough = positive.size and finite.min() >= 0 and positive.size >= 0.9 * finite.size
    return bool(enough and positive.max() >= DECADES * positive.min())


def near_one(value: Any) -> bool:
    """Whether a share, or whatever else is at most 1, is so near to 1 that only what is missing can be seen."""
    finite = value.values[np.isfinite(value.values)]
    dimensionless = str(value.attrs.get("units", "1")) == "1" and value.dtype.kind == "f"
    return bool(dimensionless and finite.size and 0.95 <= finite.min() < 1.0 >= finite.max())


def colors(count: int) -> Any:
    """So many colours, from dark to light, none of them too light for a line."""
    from matplotlib import colormaps

    return colormaps[COLORS](np.linspace(0, 0.85, count))


def steps_axis(axes: Any, steps: NDArray[Any], which: str, limits: bool = True) -> None:
    """Label the axis of the steps, logarithmic when the steps are; ``limits`` sets where it begins and ends, too."""
    getattr(axes, f"set_{which}label")("step")
    positive = steps[steps > 0]
    axis = getattr(axes, f"{which}axis")
    if len(positive) > 6 and positive[-1] > 30 * positive[0] and np.median(positive) < positive[-1] / 3:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=float(positive[0]), linscale=0.4)
        decades = 10.0 ** np.arange(np.ceil(np.log10(positive[0])), np.floor(np.log10(positive[-1])) + 1)
        places = [*([0.0] if steps[0] == 0 else []), *decades]
        if limits:
            getattr(axes, f"set_{which}lim")(steps[0] - 0.1 * positive[0], steps[-1] * 1.1)
        axis.set_ticks(places, [f"{place:g}" for place in places])
    elif len(steps) == 1:
        axis.set_ticks(steps)
    else:
        axis.get_major_locator().set_params(integer=True)


def positions(coordinate: Any) -> NDArray[np.float64]:
    """Where the entries of a dimension are drawn: at their coordinates, or one after the other."""
    places = coordinate.values
    if scale_of(places):
        return np.asarray(np.clip(places.astype(float), -HIGHEST, HIGHEST))
    return np.arange(len(places), dtype=float)


def scale_of(coordinates: NDArray[Any]) -> str:
    """``log`` for coordinates that are spaced so or go over three decades, else ``linear``.

    Nothing for those that no axis shows as they are: names, what does not grow, and such as 0, 1, 2, 4, 8, 16.

    Example:
        >>> scale_of(np.arange(5)), scale_of(2.0 ** np.arange(5)), scale_of(np.array(["a", "b"]))
        ('linear', 'log', '')
    """
    if coordinates.dtype.kind not in "iuf":
        return ""
    values = np.asarray(coordinates, float)
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        return ""
    if len(values) > 4 and values[0] == 0 and scale_of(values[1:]) == "log":
        return ""
    if len(values) < 3 or values[0] <= 0 or _even(values):
        return "linear"
    return "log" if values[-1] >= 1000 * values[0] or _even(np.log(values)) else "linear"


def _even(values: NDArray[np.float64]) -> bool:
    """Whether values are evenly spaced, rounded as they may be."""
    gaps = np.diff(values)
    return bool(np.ptp(gaps) < 0.05 * gaps.mean())


def ticks(axes: Any, coordinate: Any, which: str) -> None:
    """Ticks at every entry of a dimension of a few, or of names; every second, third ... of many."""
    places, axis = positions(coordinate), getattr(axes, f"{which}axis")
    names = coordinate.values.dtype.kind in "OUS"
    integers = coordinate.values.dtype.kind in "iu"
    elsewhere = not scale_of(coordinate.values)
    if elsewhere or len(places) <= 12 or (integers and len(places) <= MAX_TICKS):
        chosen = slice(None, None, -(-len(places) // (64 if names else 12 if elsewhere else MAX_TICKS)))
        words = list(map(text, entries(coordinate.values)[chosen]))
        small = {"fontsize": 7 if len(places) <= 40 else 5.5} if names else {}
        axis.set_ticks(places[chosen], words, **small)
        if which == "x" and names:
            axes.tick_params(axis="x", labelrotation=90)


def edges(centres: NDArray[Any]) -> NDArray[np.float64]:
    """The borders of cells around increasing centres."""
    centres = np.asarray(centres, dtype=float)
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[centres[0] - (middles[0] - centres[0])], middles, [2 * centres[-1] - middles[-1]]])


def norm(values: NDArray[Any]) -> tuple[Any, Any]:
    """How numbers become colours: white is zero where signs differ, a logarithm where values span decades.

    What is no finite number is gray.
    """
    from matplotlib import colormaps

    scaled, palette = _norm(values)
    return scaled, colormaps[palette].with_extremes(bad=GRAY)


def _norm(values: NDArray[Any]) -> tuple[Any, str]:
    from matplotlib.colors import LogNorm, Normalize, SymLogNorm

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < -1e-6 * abs(high):  # less is rounding, of what cannot be negative
        high = max(-low, high)
        typical = float(np.median(np.abs(finite[finite != 0])))
        if high > DECADES * typical:
            return SymLogNorm(typical, vmin=-high, vmax=high), "RdBu_r"
        return (Normalize(-high, high), "RdBu_r") if finite.max() > 0 else (Normalize(low, finite.max()), COLORS)
    positive = finite[finite > 0]
    typical = float(np.percentile(positive, 10)) if positive.size else 0.0
    if positive.size and high > COLOR_DECADES * typical:
        floor = max(float(positive.min()), high * 1e-6)
        return LogNorm(floor, max(high, floor * 1.01), clip=True), COLORS
    return Normalize(low, high if high > low else low + (abs(low) or 1.0)), COLORS


def mesh(axes: Any, x: Any, y: Any, values: NDArray[Any], scale: tuple[Any, Any]) -> Any:
    """Cells of colour over two coordinates, of which one may be the steps. Shape of the values ``(y, x)``."""
    scaled, palette = scale
    if scaled.clip:  # what a logarithm cannot show is as dark as can be, not white
        values = np.where(values <= scaled.vmin, scaled.vmin, values)
    drawn = axes.pcolormesh(
        edges(positions(x)), edges(positions(y)), values, cmap=palette, norm=scaled, rasterized=True
    )
    for which, coordinate in (("x", x), ("y", y)):
        if coordinate.name == "step":
            steps_axis(axes, coordinate.values, which, limits=False)
        else:
            getattr(axes, f"set_{which}label")(label(coordinate, coordinate.name))
            ticks(axes, coordinate, which)
    return drawn


def plain_powers(figure: Any) -> None:
    """Write the powers of ten on logarithmic axes as plain text.

    Matplotlib's parser of formulas takes more time than all the rest of a picture, and its errors keep the frames of
    all that has called it, the training loop's with its tensors too, until Python looks for cycles.
    """
    from matplotlib.ticker import LogFormatterMathtext

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
            if isinstance(formatter, LogFormatterMathtext):
                formatter.format_ticks = partial(_plain_texts, formatter.format_ticks)  # type: ignore[method-assign]


def _plain_texts(format_ticks: Callable[[Any], list[str]], values: Any) -> list[str]:
    """Of formulas such as ``$\\mathdefault{2\\times10^{-6}}$``."""
    bare = (re.sub(r"^\$\\mathdefault\{(.*)\}\$$", r"\1", words) for words in format_ticks(values))
    raised = (re.sub(r"\^\{(.*?)\}", lambda found: found[1].translate(_RAISED), words) for words in bare)
    return [words.replace(r"\times", "×").replace("-", "\N{MINUS SIGN}") for words in raised]


_RAISED = str.maketrans("-\N{MINUS SIGN}0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
