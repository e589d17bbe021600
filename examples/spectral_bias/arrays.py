"""What the experiments without training share: arrays that are computed once for a seed, and slopes of spectra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..frame.criteria import Array
from ..frame.task import Task

__all__ = ["compute", "load", "log_slope", "octaves", "spread"]


def compute(task: Task, arrays: Callable[[int], Mapping[str, ArrayLike]]) -> None:
    """Compute the arrays of a seed, unless that is done, and keep them in its folder."""
    task.resume()
    for _ in task.steps(1):
        found: dict[str, Any] = {name: np.asarray(array) for name, array in arrays(task.seed).items()}
        np.savez(task.folder / "arrays.npz", **found)


def load(folder: Path) -> dict[str, Array]:
    """The arrays of a seed, by name."""
    with np.load(folder / "arrays.npz") as file:
        return dict(file)


def log_slope(x: ArrayLike, y: ArrayLike) -> float:
    """Slope of the least-squares line through log y over log x.

    Example:
        >>> round(log_slope([1, 2, 4], [3, 0.75, 0.1875]), 12)
        -2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def octaves(frequencies: ArrayLike, magnitudes: ArrayLike) -> tuple[Array, Array]:
    """Root mean square of a spectrum over each octave [2^j, 2^(j+1)) that is wholly there, at its lower end.

    Args:
        frequencies: Increasing, the first one a power of two. Shape ``(K,)``.
        magnitudes: Shape ``(..., K)``.

    Returns:
        Lower ends, shape ``(J,)``, and root mean squares, shape ``(..., J)``.

    Example:
        >>> octaves([1, 2, 3, 4], [5, 3, 3, 1])[1].tolist()
        [5.0, 3.0]
    """
    k, size = np.asarray(frequencies, float), np.asarray(magnitudes, float)
    ends = k[0] * 2.0 ** np.arange(1, 60)
    # As far as the next frequency would be, spaced by a sum or a ratio.
    starts = ends[ends <= k[-1] ** 2 / k[-2] * (1 + 1e-9)] / 2
    inside = [(k >= start) & (k < 2 * start) for start in starts]
    return starts, np.stack([np.sqrt((size[..., which] ** 2).mean(-1)) for which in inside], -1)


def spread(values: ArrayLike, digits: int = 2) -> str:
    """Mean over seeds, standard deviation and range, in words."""
    x = np.asarray(values, float)
    if len(x) == 1:
        return f"{x[0]:.{digits}f} (1 seed)"
    if not np.isfinite(x).all():  # what was never reached has no mean
        return f"{x.min():.{digits}f} to {x.max():.{digits}f}"
    return f"{x.mean():.{digits}f} ± {x.std(ddof=1):.{digits}f} ({x.min():.{digits}f} to {x.max():.{digits}f})"
