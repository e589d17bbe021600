"""Tables of a run file: a group of columns that grow together along ``step``, written in blocks that survive a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ...measurement import Axis

__all__ = [
    "SCALE_ATTRIBUTES",
    "Column",
    "Table",
    "attributes",
    "create_table",
    "cut_after",
    "cut_to_common_length",
    "growing",
    "refuse_foreign",
    "stored_rows",
    "tables",
]

Array = NDArray[Any]

LARGE_ROW = 16 * 1024
"""Bytes from which a row is a compressed chunk of its own. Smaller rows share a chunk, uncompressed: a compressed
chunk that is flushed before it is full is written anew elsewhere each time."""


FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE}


SCALE_ATTRIBUTES = {"REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS", "CLASS", "NAME", "dimensions"}
"""Attributes that bind a column to its dimensions."""


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
        self.rows = min(map(len, self.columns.values()))

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
    step.attrs.update({"units": "1", "long_name": "optimizer updates", "dimensions": "step"})
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
        # The names of the dimensions once more, in a form that HDF5 reads without crashing where it is damaged.
        dataset.attrs.update({**column.attributes, "dimensions": "/".join(("step", *column.dims))})
    return group


def tables(file: Any) -> Iterator[Any]:
    """Every group of the file that is a table, events and sessions included.

    Raises:
        ValueError: If the file refers to anything outside itself, or is encoded as no run file is.
    """
    waiting, seen = [file], {h5py.h5o.get_info(file.id).addr}  # a group may hold itself
    while waiting:
        group = waiting.pop()
        items = {name: refuse_foreign(group, name) for name in group}
        if isinstance(items.get("step"), h5py.h5d.DatasetID):
            yield group
        below = []
        for item in items.values():
            if isinstance(item, h5py.h5g.GroupID) and (at := h5py.h5o.get_info(item).addr) not in seen:
                seen.add(at)
                below.append(h5py.Group(item))
        waiting += reversed(below)


def refuse_foreign(group: Any, name: str) -> Any:
    """Make sure that what a group holds lies in the file itself: links, and data stored elsewhere, could lead anywhere.

    By the lower interface of h5py, which takes a quarter of the time: a listing looks at every column of every run.

    Returns:
        What it holds, as h5py's identifier.

    Raises:
        ValueError: If it does not, or needs a filter that HDF5 would load from somewhere.
    """
    encoded = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    if group.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name!r} in {group.name!r} is a link to somewhere else, which no run file holds")
    item = h5py.h5o.open(group.id, encoded)
    if isinstance(item, h5py.h5d.DatasetID):
        plan = item.get_create_plist()
        filters = {plan.get_filter(index)[0] for index in range(plan.get_nfilters())}
        elsewhere = plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count()
        if elsewhere or not filters <= FILTERS:
            raise ValueError(f"{name!r} in {group.name!r} is stored elsewhere or encoded as in no run file")
    return item


def attributes(column: Any) -> dict[str, Any]:
    """What a column says of itself; what binds it to its dimensions is not read."""
    return {name: column.attrs[name] for name in column.attrs if name not in SCALE_ATTRIBUTES}


def stored_rows(column: Any) -> int:
    """How many rows there is data for in the file; a shape alone may claim any number."""
    whole = column.chunks is not None and column.chunks[1:] == column.shape[1:]  # a chunk is one whole row or several
    return int(column.id.get_num_chunks()) * int(column.chunks[0]) if whole else 0


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
