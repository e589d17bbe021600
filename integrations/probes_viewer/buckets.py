"""Histograms whose buckets differ, over common buckets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["common"]

MOST = 200
"""Common buckets; of more borders, every so many."""


def common(histograms: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """The counts of histograms, each ``[buckets, (left, right, count)]``, over buckets that all share.

    The count of a bucket is spread evenly over it, so that each histogram keeps its sum.

    Returns:
        The borders, the counts ``[histograms, buckets]``, and whether all had the same buckets anyhow.
    """
    first = histograms[0]
    same = all(each.shape == first.shape and np.array_equal(each[:, :2], first[:, :2]) for each in histograms)
    if same and np.array_equal(first[1:, 0], first[:-1, 1]):
        return np.append(first[:, 0], first[-1, 1]), np.stack([each[:, 2] for each in histograms]), True
    histograms = [np.column_stack([np.nan_to_num(each[:, :2]), each[:, 2]]) for each in histograms]
    borders = np.unique(np.concatenate([each[:, :2].ravel() for each in histograms]))
    if len(borders) == 1:
        borders = borders.repeat(2)
    if len(borders) > MOST + 1:
        borders = borders[np.linspace(0, len(borders) - 1, MOST + 1).round().astype(int)]
    return borders, np.stack([_over(borders, each) for each in histograms]), same


def _over(borders: NDArray[np.float64], histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    left, right, count = histogram[np.argsort(histogram[:, 0], kind="stable")].T
    places = np.maximum.accumulate(np.column_stack([left, right]).ravel())
    so_far = np.cumsum(np.column_stack([np.zeros_like(count), count]).ravel())
    below = np.interp(borders / 2, places / 2, so_far)  # halves, for a difference may be more than a number can be
    below[0] = 0.0  # what lies on the lowest border is within
    return np.diff(below)
