"""Which pictures a stream can be shown as, from its dims and coordinates alone."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["views"]


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
