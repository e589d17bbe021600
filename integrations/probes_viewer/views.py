"""Which pictures a stream can be shown as, from its dims and coordinates alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["scale_of", "views"]


def scale_of(values: NDArray[Any]) -> str:
    """``log`` for coordinates that are spaced so or go over three decades, else ``linear``; nothing if they fall."""
    values = np.asarray(values, float)
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        return ""
    if len(values) < 3 or values[0] <= 0 or _even(values):
        return "linear"
    return "log" if values[-1] >= 1000 * values[0] or _even(np.log(values)) else "linear"


def _even(values: NDArray[np.float64]) -> bool:
    """Whether values are evenly spaced, rounded as they may be."""
    gaps = np.diff(values)
    return bool(np.ptp(gaps) < 0.05 * gaps.mean())


def views(dims: list[dict[str, Any]]) -> list[str]:
    """The pictures of a stream with these dims, the best one first; of more than two dims, the last two count."""
    if not dims:
        return ["lines"]
    first, second = dims[-2:] if len(dims) > 1 else (dims[0], None)
    size = len(first.get("labels", first.get("values", ())))
    if second is None:
        if size == 1:
            return ["lines"]
        if re.search("eigenvalue|singular", first["name"]) and size > 3:
            return ["fan", "heat map", "profile"]
        few = size <= (12 if "labels" in first else 8)
        return ["lines", "heat map", "profile"] if few else ["heat map", "profile", "lines"]
    if second["name"] == "plane" and len(second.get("labels", second.get("values", ()))) == 2:
        return ["plane"]
    if (first["name"], second["name"]) == ("y", "x") or ("labels" in first and "labels" in second):
        return ["frames"]
    return ["heat maps", "frames"]
