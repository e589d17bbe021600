"""Comparing two runs: where they agree, and by how much they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..measurement import same_coordinates

if TYPE_CHECKING:
    import xarray

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """How one stream differs between two runs, at the steps that both have."""

    stream: str
    rows: tuple[int, int]
    """Of each run, a step that it has twice once; 0 where it has no such stream."""
    common: int
    """Steps that both have."""
    different: int
    """Of these, with another value in any entry."""
    first: int | None
    """The first step with another value."""
    absolute: float
    """The largest distance of two entries; infinite where only one is finite."""
    relative: float
    """The same over the largest magnitude in either stream."""
    problem: str = ""
    """Why the values cannot be compared."""

    def within(self, tolerance: float = 0.0) -> bool:
        """Whether both have the same steps, and values that differ by no more than so much of the largest magnitude."""
        return not self.problem and self.rows == (self.common, self.common) and self.relative <= tolerance


def compare(first: xarray.DataTree, second: xarray.DataTree) -> list[Difference]:
    """Compare two runs, stream by stream: what both measured at the same steps.

    The accounts that the probes keep of themselves are left out; so are wall times. NaN equals NaN. Of a step that a
    stream has twice, the last row counts.

    Example:
        ``[item.stream for item in compare(open_run("runs/a"), open_run("runs/b")) if not item.within()]``
    """
    streams = [_streams(run) for run in (first, second)]
    names = sorted(streams[0].keys() | streams[1].keys())
    return [_difference(name, streams[0].get(name), streams[1].get(name)) for name in names]


def _streams(run: xarray.DataTree) -> dict[str, Any]:
    return {
        node.path.strip("/"): node
        for node in run.subtree
        if "value" in node.variables and not node.path.startswith("/probes/")
    }


def _difference(name: str, first: Any, second: Any) -> Difference:
    rows = tuple(0 if node is None else node["value"].sizes["step"] for node in (first, second))
    if first is None or second is None:
        return Difference(name, rows, 0, 0, None, 0.0, 0.0)  # type: ignore[arg-type]
    last = [{int(step): row for row, step in enumerate(node["step"].values)} for node in (first, second)]
    rows = tuple(map(len, last))
    common = sorted(last[0].keys() & last[1].keys())
    problem = _misfit(first, second)
    if problem or not common:
        return Difference(name, rows, len(common), 0, None, 0.0, 0.0, problem)  # type: ignore[arg-type]
    values = [
        node["value"].values[[row[step] for step in common]] for node, row in zip((first, second), last, strict=True)
    ]
    same = _same(*values)
    per_step = ~same.reshape(len(common), -1).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.where(same, 0.0, np.abs(np.subtract(*[_number(value) for value in values])))
        scale = max((float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) for value in values), default=0.0)
    absolute = float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max(initial=0.0))
    relative = absolute / scale if scale else (0.0 if not absolute else float("inf"))
    where = np.flatnonzero(per_step)
    return Difference(
        name,
        rows,  # type: ignore[arg-type]
        len(common),
        len(where),
        common[where[0]] if len(where) else None,
        absolute,
        relative,
    )


def _misfit(first: Any, second: Any) -> str:
    values = first["value"], second["value"]
    if values[0].dims != values[1].dims or values[0].shape[1:] != values[1].shape[1:]:
        shapes = [" x ".join(f"{value.sizes[dim]} {dim}" for dim in value.dims[1:]) or "a number" for value in values]
        return f"another shape: {shapes[0]}, and {shapes[1]}"
    units = [str(value.attrs.get("units", "1")) for value in values]
    if units[0] != units[1]:
        return f"another unit: {units[0]}, and {units[1]}"
    for dim in values[0].dims[1:]:
        if not same_coordinates(first[dim].values, second[dim].values):
            return f"other coordinates of {dim}"
    return ""


def _same(first: Any, second: Any) -> Any:
    equal = first == second
    if first.dtype.kind in "fc" and second.dtype.kind in "fc":
        equal |= np.isnan(first) & np.isnan(second)
    return equal


def _number(value: Any) -> Any:
    return value if value.dtype.kind == "c" else value.astype(np.float64)
