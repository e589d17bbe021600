"""Tables of a run file: a group of columns that grow together along ``step``, written in blocks that survive a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ..measurement import Axis

__all__ = ["Column", "Table", "create_table", "cut_after", "cut_to_common_length", "growing", "tables"]

Array = NDArray[Any]

LARGE_ROW = 16 * 1024
"""Bytes from which a row is a compressed chunk of its own. Smaller rows share a chunk, uncompressed: a compressed
chunk that is flushed before it is full is written anew elsewhere each time."""


class Column(NamedTuple):
    """What a column holds: the type of its numbers and, beyond ``step``, the dimensions of a row."""

    dtype: Any
    dims: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = {}


class Table:
    """An open table. Handles are kept: looking them up costs more than writing a row.

    Cost: about 0.1 ms for a block, whatever its number of rows.
    """

    def __init__(self, group: Any) -> None:
        self.columns = growing(group)
        self.rows = _common_length(group)

    def append(self, blocks: Mapping[str, Array]) -> None:
        """Add rows: for each column, an array with one entry for each row."""
        end = self.rows + len(blocks["step"])
        for name, column in self.columns.items():
            # One column is on disk before the next one grows, `step` last: a row that has a step is whole.
            column.resize(end, axis=0)
            column[self.rows : end] = blocks[name]
            column.flush()
        self.rows = end


def create_table(file: Any, name: str, columns: Mapping[str, Column], scales: Mapping[str, Axis] | None = None) -> Any:
    """Create an empty table with ``step``, ``wall_time``, the given columns, and the scales of their dimensions."""
    group = file.require_group(name)
    for dim, axis in (scales or {}).items():
        # Strings of variable length are read alike by all readers; they may not change in SWMR mode, and do not.
        text = axis.values.dtype.kind == "U"
        scale = group.create_dataset(dim, data=axis.values.astype(object) if text else _stored_coordinates(axis.values))
        scale.make_scale(dim)
        scale.attrs.update({"units": axis.unit, "long_name": axis.description or dim})
    step = group.create_dataset("step", (0,), "i8", maxshape=(None,), chunks=(256,))
    step.make_scale("step")
    step.dims[0].label = "step"
    step.attrs.update({"units": "1", "long_name": "optimizer updates"})
    time = {"units": "seconds since 1970-01-01T00:00:00Z", "calendar": "standard", "long_name": "wall time"}
    for key, column in {**columns, "wall_time": Column("f8", (), time)}.items():
        row = tuple(len(group[dim]) for dim in column.dims)
        size = int(np.prod(row)) * np.dtype(column.dtype).itemsize
        large = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if size >= LARGE_ROW else {}
        chunk = 1 if large else max(1, min(256, 2 * LARGE_ROW // max(size, 1)))
        dataset = group.create_dataset(
            key, (0, *row), column.dtype, maxshape=(None, *row), chunks=(chunk, *row), **large
        )
        for index, dim in enumerate(("step", *column.dims)):
            dataset.dims[index].attach_scale(group[dim])
            dataset.dims[index].label = dim
        dataset.attrs.update(column.attributes)
    return group


def tables(file: Any) -> Iterator[Any]:
    """Every group of the file that is a table, events and sessions included."""
    groups: list[Any] = []
    file.visititems(lambda _, item: groups.append(item) if isinstance(item, h5py.Group) else None)
    return (group for group in groups if isinstance(group.get("step"), h5py.Dataset))


def cut_to_common_length(group: Any) -> None:
    """Drop rows of which not every column was written."""
    _resize(group, _common_length(group))


def cut_after(group: Any, step: int) -> None:
    """Drop the rows of later steps; the others keep their order."""
    kept = np.flatnonzero(group["step"][: _common_length(group)] <= step)
    if len(kept) and kept[-1] != len(kept) - 1:  # steps came out of order: what is kept is not the head
        for column in growing(group).values():
            column[: len(kept)] = column[:][kept]
    _resize(group, len(kept))


def growing(group: Any) -> dict[str, Any]:
    """The datasets that grow, ``step`` last."""
    datasets = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    step = datasets.pop("step")
    return {**{name: item for name, item in datasets.items() if item.maxshape[0] is None}, "step": step}


def _common_length(group: Any) -> int:
    return min(len(column) for column in growing(group).values())


def _resize(group: Any, rows: int) -> None:
    for column in growing(group).values():
        if len(column) != rows:
            column.resize(rows, axis=0)


def _stored_coordinates(values: Array) -> Array:
    # Neither half nor extended precision nor HDF5's enumeration of booleans is read by every reader.
    kinds = {"b": np.uint8, "f": np.float32 if values.dtype.itemsize <= 4 else np.float64}
    return values.astype(kinds.get(values.dtype.kind, values.dtype))
