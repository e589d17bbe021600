"""What the probes of a run cost, from the streams that tell it."""

from __future__ import annotations

from typing import Any

from .words import spent

__all__ = ["costs_of"]

KINDS = ("measured", "skipped", "failed", "seconds")


def costs_of(streams: dict[str, tuple[Any, list[dict[str, Any]]]]) -> dict[str, Any]:
    """``rows``: of each plugin its name, turns, turns skipped and failed, and seconds; ``words`` of all.

    Args:
        streams: By name, without ``probes/``, the last row and the dims. What a user has called so is no cost.
    """
    found = [_by_plugin(*streams.get(kind, (None, []))) for kind in KINDS]
    names = dict.fromkeys([*found[0], *found[-1]])
    share, _ = streams.get("share", (None, []))
    seconds = [each for each in found[-1].values() if each is not None]
    rows = [[name, *(each.get(name) for each in found)] for name in names]
    return {"rows": rows, "words": spent(seconds, share if isinstance(share, int | float) else None)}


def _by_plugin(last: Any, dims: list[dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(last, list) or len(dims) != 1 or "labels" not in dims[0]:
        return {}
    values = [value if isinstance(value, int | float) else None for value in last]  # a pair is a complex number
    return dict(zip(dims[0]["labels"], values, strict=False))
