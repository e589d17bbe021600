"""What a criterion of an experiment is made of: arrays, a finding, how many seeds must pass, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = ["Array", "Finding", "clearly_above_zero", "deviation", "enough", "spearman"]

Array = NDArray[Any]
"""What was measured, by numpy."""


@dataclass(frozen=True)
class Finding:
    """One published result and what was measured instead."""

    quantity: str
    published: str
    measured: str
    criterion: str = ""
    passed: bool | None = None
    """None when there is nothing to pass."""
    values: Any = None
    """The numbers behind it, for ``results.json``."""


def enough(passed: Sequence[bool]) -> bool:
    """Whether all seeds but one fifth, rounded down, pass: 4 of 5, 8 of 10, but 3 of 3.

    Example:
        >>> enough([True, True, True, True, False]), enough([True, True, False])
        (True, False)
    """
    return bool(sum(passed) >= len(passed) - len(passed) // 5)


def clearly_above_zero(values: ArrayLike, errors: float = 1, least: float = 0) -> bool:
    """Whether a mean over seeds is above zero by so many standard errors, and that large; never of one seed.

    Example:
        >>> clearly_above_zero([1.0, 2.0, 1.5]), clearly_above_zero([0.0, 0.0, 0.0]), clearly_above_zero([5.0])
        (True, False, False)
        >>> clearly_above_zero([1.0, 2.0, 1.5], errors=2, least=2)
        False
    """
    x = np.asarray(values, dtype=float)
    return len(x) > 1 and bool(x.mean() >= least and x.mean() > errors * x.std(ddof=1) / len(x) ** 0.5)


def deviation(values: ArrayLike) -> Array:
    """Standard deviation over seeds, the first axis, with one degree of freedom less than seeds; 0 of one seed.

    Example:
        >>> float(deviation([1.0, 2.0, 3.0])), float(deviation([5.0]))
        (1.0, 0.0)
    """
    x = np.asarray(values, dtype=float)
    found: Array = np.std(x, axis=0, ddof=min(1, len(x) - 1))
    return found


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks, infinity is a value like any other.

    Args:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``.

    Returns:
        Between -1 and 1, dimensionless; NaN when all values of one are equal.

    Example:
        >>> spearman([1, 2, 3], [10, 30, float("inf")])
        1.0
    """
    a, b = (ranks - ranks.mean() for ranks in (rankdata(x), rankdata(y)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / scale, 12) if scale else float("nan")
