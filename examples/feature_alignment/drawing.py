"""What the figures of chapter 4 share: curves of several seeds over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..frame.criteria import Array
from ..frame.figures import log_steps

__all__ = ["band", "beside", "of_seeds"]

Run = dict[str, Array]
"""What was measured of one network, by stream, and ``"step"``."""


def band(axis: Any, steps: Array, curves: Sequence[Array], color: Any, label: str = "", **line: Any) -> None:
    """Draw the mean of the seeds' curves as a line and a band from the least to the most, over steps.

    Args:
        steps: Shape ``(T,)``.
        curves: One of each seed. Shape ``(T,)`` each.
        line: Other properties of the line.
    """
    every = np.array(curves)
    axis.plot(steps, every.mean(0), color=color, label=label or None, **{"linewidth": 1.4} | line)
    if len(every) > 1:
        axis.fill_between(steps, every.min(0), every.max(0), color=color, alpha=0.15, linewidth=0)
    log_steps(axis)


def beside(axis: Any, **legend: Any) -> None:
    """A legend to the right of an axis, where it covers nothing."""
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **{"fontsize": 7} | legend)


def of_seeds(count: int) -> str:
    """What lines and bands show.

    Example:
        >>> of_seeds(3), of_seeds(1)
        ('mean, least and most of 3 seeds', 'one seed')
    """
    return f"mean, least and most of {count} seeds" if count > 1 else "one seed"
