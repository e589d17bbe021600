"""Simpler things that a measurement can be shown as, in tools that do not know axes: numbers, histograms, images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..measurement import Measurement

__all__ = ["bars", "charts", "distinct", "gray", "scalars"]

MAX_LINES, MAX_NAMES = 12, 64
MAX_BUCKETS = 512
"""Of a histogram, by the limits of Weights & Biases, whose interface others have taken over."""


def scalars(item: Measurement) -> list[tuple[str, float]]:
    """The numbers that a measurement can be shown as, by tag, no two alike: itself, or one for each of few entries."""
    if item.value.dtype.kind == "c" or len(item.dims) > 1:
        return []
    if not item.dims:
        return [(item.name, float(item.value))]
    (dim,), axis = item.dims, item.coords[item.dims[0]]
    if axis.values.dtype.kind == "U":
        labels = axis.values[:MAX_NAMES].tolist()
    elif item.value.size <= MAX_LINES:
        labels = [f"{dim}={text}" for text in _digits(axis.values.tolist())]
    else:
        return []
    tags = distinct(f"{item.name}/{label}" for label in labels)
    return [(tag, float(value)) for tag, value in zip(tags, item.value, strict=False)]


def _digits(places: list[float]) -> list[str]:
    """Numbers with six digits, or with as many as tell different ones apart."""
    texts = ([f"{place:.{digits}g}" for place in places] for digits in range(6, 18))
    return max(texts, key=lambda each: len(set(each)))  # the first of the best


def distinct(names: Iterable[str], taken: Iterable[str] = (), allowed: Callable[[str], str] = str) -> list[str]:
    """Names as a tool allows them, no two alike: what is taken ends in ``_2``, ``_3``, ...

    Example:
        >>> distinct(["a", "b", "a"])
        ['a', 'b', 'a_2']
    """
    found: dict[str, None] = dict.fromkeys(taken)
    before = len(found)
    for name in names:
        tries = chain([name], (f"{name}_{number}" for number in count(2)))
        found[next(each for each in map(allowed, tries) if each not in found)] = None
    return list(found)[before:]


def bars(item: Measurement) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A spectrum as a histogram: the edges of its buckets lie around the coordinates, its counts are the values.

    Returns:
        The edges, one more than there are counts, and the counts; None where it cannot be shown so.
    """
    if len(item.dims) != 1:
        return None
    places = item.coords[item.dims[0]].values
    heights = np.where(np.isfinite(item.value), item.value, 0).astype(float) if item.value.dtype.kind in "fiu" else None
    if heights is None or places.dtype.kind not in "fiu" or len(places) < 2 or (heights < 0).any():
        return None
    centres = places.astype(float)
    if not np.isfinite(centres).all():
        return None
    halves = np.diff(centres / 2)  # the difference of two numbers may be more than a number can be
    if not (halves > 0).all():
        return None
    with np.errstate(over="ignore"):
        edges = np.concatenate(([centres[0] - halves[0]], centres[:-1] + halves, [centres[-1] + halves[-1]]))
    return np.nan_to_num(edges), heights


def gray(value: NDArray[Any]) -> NDArray[np.uint8]:
    """An image from its least value (black) to its greatest (white), as bytes."""
    halves = value.astype(float) / 2  # the difference of two numbers may be more than a number can be
    finite = halves[np.isfinite(halves)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(halves, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    pixels: NDArray[np.uint8] = np.round(255 * scaled).astype(np.uint8)
    return pixels


def charts(item: Measurement, tool: Any) -> dict[str, Any]:
    """All of these by tag, for a tool with ``Histogram(np_histogram=)`` and ``Image``, as wandb and trackio are."""
    shown: dict[str, Any] = dict(scalars(item))
    histogram = bars(item)
    if histogram is not None and len(histogram[1]) <= MAX_BUCKETS:
        edges, counts = histogram
        shown[item.name] = tool.Histogram(np_histogram=(counts, edges))
    elif item.dims == ("y", "x") and item.value.dtype.kind in "fiu":
        shown[item.name] = tool.Image(gray(item.value))
    return shown
