"""A stream of measurements as a table of a run file, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...measurement import Axis, Measurement, first_line
from .table import Column, create_table, cut_after, tables

__all__ = ["coordinates", "create_stream", "dimensions", "first_of", "misfit", "rows_of", "take_over"]

Array = NDArray[Any]

PART = Axis(np.array(["real", "imag"]), "1", "part of a complex number")
RESERVED_GROUPS = ("events", "sessions")


def create_stream(file: Any, first: Measurement) -> str | None:
    """Create the table of a stream from its first measurement; why there can be none, in words, else None."""
    before = set(file.get(first.name, ()))
    try:
        _create_stream(file, first)
    except (TypeError, ValueError) as error:  # HDF5 has no form for 40 dimensions
        for item in set(file.get(first.name, ())) - before:
            del file[f"{first.name}/{item}"]
        return f"HDF5 cannot store it ({first_line(error)}); it takes 31 dims at most"
    return None


def _create_stream(file: Any, first: Measurement) -> None:
    is_complex = first.value.dtype.kind == "c"
    dims = (*first.dims, "part") if is_complex else first.dims
    attributes = {
        "units": first.unit,
        "long_name": first.description or first.name,
        "coordinates": "wall_time",
        "estimator": first.estimator,
        "num_samples": first.num_samples,
        "probe": first.probe,
        "probe_version": first.version,
        "dtype": str(first.value.dtype),
        "complex": 1 if is_complex else None,
    }
    columns = {
        "value": Column(
            _stored_dtype(first.value), dims, {key: item for key, item in attributes.items() if item is not None}
        )
    }
    if first.standard_error is not None:
        error = {"units": first.unit, "long_name": "standard error", "coordinates": "wall_time"}
        columns["standard_error"] = Column(_stored_dtype(_errors([first])[0]), dims, error)
    group = create_table(file, first.name, columns, {**first.coords, **({"part": PART} if is_complex else {})})
    # NeXus' convention (NXdata): any viewer of it, such as H5Web, draws the stream over its axes.
    axes = np.array(("step", *columns["value"].dims), dtype=h5py.string_dtype())
    group.attrs.update({"NX_class": "NXdata", "signal": "value", "axes": axes})


def rows_of(measurements: Sequence[Measurement]) -> dict[str, Array]:
    """The columns of a block of measurements of one stream."""
    blocks = {
        "value": _with_parts(np.stack([m.value for m in measurements])),
        "wall_time": np.array([m.wall_time for m in measurements]),
        "step": np.array([m.step for m in measurements]),
    }
    if measurements[0].standard_error is not None:
        blocks["standard_error"] = _with_parts(_errors(measurements))
    return blocks


def _errors(measurements: Sequence[Measurement]) -> Array:
    """Their standard errors: never integer, and complex where the value is."""
    errors = np.stack([np.asarray(m.standard_error) for m in measurements])
    return errors.astype(np.result_type(errors, measurements[0].value, np.float32))


def misfit(file: Any, new: Measurement, first: Measurement | None) -> str | None:
    """What keeps a measurement from being written into the file, in words; None when it fits.

    Args:
        file: The open file; None when there is none yet.
        new: The measurement.
        first: Another measurement of its stream; None when there is none.
    """
    if first is not None:
        return first.disagreement(new)
    if new.name.split("/")[0] in RESERVED_GROUPS:
        return f"the names {' and '.join(RESERVED_GROUPS)} are taken"
    return None if file is None else _clash(file, new)


def _clash(file: Any, new: Measurement) -> str | None:
    parts = new.name.split("/")
    for depth in range(1, len(parts) + 1):
        if isinstance(file.get("/".join(parts[:depth])), h5py.Dataset):
            return f"{'/'.join(parts[:depth])!r} is a column of the stream {'/'.join(parts[: depth - 1])!r}"
    for column in ("value", "standard_error", "wall_time", "step", *new.dims):
        if isinstance(file.get(f"{new.name}/{column}"), h5py.Group):
            return f"there is a stream below it named {new.name}/{column}"
    return None


def first_of(group: Any) -> Measurement:
    """A measurement like those of a stream in the file: its dims, coordinates, unit and kind, with value 0."""
    value = group["value"]
    dims = tuple(dim for dim in dimensions(value)[1:] if dim != "part")
    zeros = np.zeros([len(group[dim]) for dim in dims], dtype=value.attrs["dtype"])
    return Measurement(
        group.name.strip("/"),
        zeros,
        dims,
        {dim: Axis(*coordinates(group[dim])) for dim in dims},
        unit=value.attrs["units"],
        standard_error=zeros if "standard_error" in group else None,
    )


def take_over(file: Any, resumed_from: int | None) -> dict[str, Measurement]:
    """The first measurement of every stream that an earlier session has written, cut to where this one starts."""
    first = {}
    for table in tables(file):
        name = table.name.strip("/")
        if name != "sessions" and resumed_from is not None:
            cut_after(table, resumed_from)
        if name not in ("sessions", "events"):
            first[name] = first_of(table)
    return first


def dimensions(dataset: Any) -> tuple[str, ...]:
    """The names of a dataset's dimensions."""
    names = tuple(str(dataset.attrs["dimensions"]).split("/"))
    if len(names) != dataset.ndim:
        raise ValueError(f"{dataset.name!r} names {len(names)} dimensions and has {dataset.ndim}")
    return names


def coordinates(scale: Any) -> tuple[Array, str, str]:
    """The values of a dimension scale, its unit and its description.

    Raises:
        ValueError: If it claims more values than there are.
    """
    if scale.id.get_storage_size() < scale.size * scale.id.get_type().get_size():
        raise ValueError(f"{scale.name!r} claims {scale.size} values, which are not there")
    values = scale.asstr()[:].astype(str) if h5py.check_string_dtype(scale.dtype) else scale[:]
    return values, str(scale.attrs["units"]), str(scale.attrs["long_name"])


def _stored_dtype(array: Array) -> np.dtype[Any]:
    """Wide enough for what may follow: a stream's first number may be float32 and its next one float64."""
    if array.dtype.kind == "b":
        return np.dtype(np.uint8)
    if array.dtype.kind in "iu":
        return np.dtype(np.int64 if array.dtype.kind == "i" else np.uint64)
    single = array.ndim and array.dtype.itemsize <= (8 if array.dtype.kind == "c" else 4)
    return np.dtype(np.float32 if single else np.float64)


def _with_parts(array: Array) -> Array:
    """A complex array as real numbers with a last dimension for real and imaginary part; booleans as 0 and 1."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return np.stack([array.real, array.imag], axis=-1) if array.dtype.kind == "c" else array
