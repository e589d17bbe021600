"""What a probe yields: a number or an array that knows its axes, its unit and how it was obtained; or why it cannot.

Everything downstream (HDF5 dimension scales, TensorBoard records, plots) is derived from ``dims`` and ``coords`` alone.
This module imports nothing from the package: start reading here.
"""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = ["NAME", "Axis", "CannotMeasure", "Measurement", "first_line", "printable", "same_coordinates", "storable"]

Array = NDArray[Any]

# A name is a path in HDF5 and a tag in TensorBoard: no empty part, no part made of dots alone, no white space.
NAME = re.compile(r"(?!\.+(/|$))[\w.=+@,()\[\]-]+(/(?!\.+(/|$))[\w.=+@,()\[\]-]+)*")
# A dimension is a name beside the columns of the table of its stream.
RESERVED = ("value", "standard_error", "wall_time", "step", "part")
_DIM = re.compile(r"(?!\.+$)[^/]+")


def printable(text: str) -> str:
    """Without what could command a terminal: names may come from anybody's model or file."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def first_line(error: BaseException) -> str:
    """The first sentence of an error's message, at most 120 letters of it."""
    text = next(iter(str(error).strip().splitlines()), "").split(". ")[0]
    return text if len(text) <= 120 else f"{text[:120]}..."


def storable(text: Any) -> Any:
    """Text as any file takes it: NUL and lone surrogates, which HDF5 and UTF-8 refuse, as escapes like ``\\x00``."""
    if not isinstance(text, str) or text.isprintable():
        return text
    return text.replace("\0", r"\x00").encode(errors="backslashreplace").decode()


def same_coordinates(first: Array, second: Array) -> bool:
    """Whether two dimensions have the same values; NaN equals NaN."""
    return np.array_equal(first, second, equal_nan=first.dtype.kind == second.dtype.kind == "f")


class Axis(NamedTuple):
    """The coordinates of one dimension: its values, one for each entry, and their unit."""

    values: Array
    unit: str = "1"
    description: str = ""


@dataclass(frozen=True, eq=False)
class Measurement:
    """One measured quantity at one step.

    In its texts, those of its axes included, NUL and lone surrogates become escapes such as ``\\x00``.

    Args:
        name: Path of the stream it belongs to, ``quantity/detail/batch``, e.g. ``"fourier/amplitude/train"``. All
            measurements of one name form a stream: they share dims, shape, coords and unit.
        value: Number, tensor or array: real or complex, of any shape. Converted to numpy; bfloat16 and float16 become
            float32, and a number that is Python's own int a float if that is exact.
        dims: A name for each dimension of ``value``, e.g. ``("frequency",)``, without a slash; those of the columns of
            its table are taken: ``"value"``, ``"standard_error"``, ``"wall_time"``, ``"step"`` and ``"part"``.
        coords: For each dimension, its values: an :class:`Axis`, or a bare sequence when it has no unit. A dimension
            that is not given is numbered from 0.
        unit: Unit of ``value`` in words (``"nats"``, ``"cycles"``); ``"1"`` when dimensionless.
        standard_error: Standard error of ``value``, of the same shape and unit, where the estimate has one.
        estimator: How the value was obtained, e.g. ``"DFT on 64 points, Hann window, 16 segments"``.
        num_samples: The number of samples it was obtained from.
        description: What it is, for the axis of a plot.

    Raises:
        ValueError: If the name cannot be a path, the value has no entries, or dims, coords and error do not fit it.
        TypeError: If the value is not numeric, a text is none, or the number of samples is not whole.

    Example:
        >>> spectrum = Measurement("fourier/amplitude/train", [1.0, 0.5], dims=("frequency",),
        ...                        coords={"frequency": Axis([5, 10], "cycles")})
        >>> spectrum.value.shape, spectrum.coords["frequency"].unit
        ((2,), 'cycles')

        What several have in common is written once, by :func:`functools.partial`; each may say otherwise:

        >>> from functools import partial
        >>> measured = partial(Measurement, unit="nats", estimator="mean over the batch", num_samples=100)
        >>> loss, error = measured("loss/train", 0.7), measured("error/train", 0.25, unit="1")
        >>> loss.unit, error.unit, error.num_samples
        ('nats', '1', 100)
    """

    name: str
    value: Array
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Axis] = field(default_factory=dict)
    unit: str = "1"
    standard_error: Array | None = None
    estimator: str = ""
    num_samples: int | None = None
    description: str = ""

    # Filled in when the measurement is taken; a probe leaves them alone.
    step: int = -1
    wall_time: float = 0.0
    probe: str = ""
    version: str = ""

    def __init__(
        self,
        name: str,
        value: ArrayLike | torch.Tensor,
        dims: Sequence[str] = (),
        coords: Mapping[str, Axis | ArrayLike | torch.Tensor] | None = None,
        unit: str = "1",
        standard_error: ArrayLike | torch.Tensor | None = None,
        estimator: str = "",
        num_samples: int | None = None,
        description: str = "",
    ) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"`name` of a measurement must be a path like 'fourier/amplitude/train' "
                f"(letters, digits and _.=+@,()[]- between slashes), got {name!r}."
            )
        numbers = _to_array(value, f"The value of measurement {name!r}")
        if not numbers.size:
            raise ValueError(f"The value of measurement {name!r} has no entries (shape {numbers.shape}).")
        for what, text in (("unit", unit), ("estimator", estimator), ("description", description)):
            if not isinstance(text, str):
                raise TypeError(f"`{what}` of measurement {name!r} must be a text, got {text!r}.")
        if num_samples is not None:
            try:
                num_samples = operator.index(num_samples)
            except TypeError:
                raise TypeError(
                    f"`num_samples` of measurement {name!r} must be a whole number, got {num_samples!r}."
                ) from None
        dims = tuple(map(storable, (dims,) if isinstance(dims, str) else dims))
        if bad := [dim for dim in dims if not isinstance(dim, str) or dim in RESERVED or not _DIM.fullmatch(dim)]:
            raise ValueError(
                f"`dims` of measurement {name!r} must be texts without a slash, and none of {', '.join(RESERVED)}: "
                f"got {bad[0]!r}."
            )
        if len(dims) != numbers.ndim or len(set(dims)) != len(dims):
            raise ValueError(
                f"`dims` of measurement {name!r} must name each of the {numbers.ndim} dimensions of its value (shape "
                f"{numbers.shape}) once; got {dims}."
            )
        axes = {storable(dim): _to_axis(coord, dim, name) for dim, coord in (coords or {}).items()}
        for dim, axis in axes.items():
            if dim not in dims or axis.values.shape != (numbers.shape[dims.index(dim)],):
                raise ValueError(
                    f"`coords[{dim!r}]` of measurement {name!r} has shape {axis.values.shape}, but its value has dims "
                    f"{dims} and shape {numbers.shape}."
                )
        for dim, size in zip(dims, numbers.shape, strict=True):
            axes.setdefault(dim, _to_axis(np.arange(size), dim, name))
        error = None
        if standard_error is not None:
            error = _to_array(standard_error, f"The standard error of measurement {name!r}")
            if error.shape != numbers.shape:
                raise ValueError(
                    f"`standard_error` of measurement {name!r} must have the shape of its value, {numbers.shape}, "
                    f"got {error.shape}."
                )
            if error.dtype.kind == "c" != numbers.dtype.kind:
                raise ValueError(f"`standard_error` of measurement {name!r} is complex, but its value is not.")
        given = {
            "name": name,
            "value": numbers,
            "dims": dims,
            "coords": {dim: axes[dim] for dim in dims},
            "unit": storable(unit),
            "standard_error": error,
            "estimator": storable(estimator),
            "num_samples": num_samples,
            "description": storable(description),
        }
        for key, item in given.items():
            object.__setattr__(self, key, item)

    def taken(self, step: int, wall_time: float, probe: str, version: str) -> Measurement:
        """The same measurement with when and by which probe it was taken."""
        stamped = copy.copy(self)
        for key, item in {"step": step, "wall_time": wall_time, "probe": probe, "version": version}.items():
            object.__setattr__(stamped, key, storable(item))
        for array in (stamped.value, stamped.standard_error):
            if array is not None:
                array.setflags(write=False)  # several sinks are given it
        object.__setattr__(stamped, "coords", MappingProxyType(dict(self.coords)))
        return stamped

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "coords": dict(self.coords)}  # what can only be read cannot be pickled

    def disagreement(self, other: Measurement) -> str | None:
        """What keeps two measurements from belonging to one stream, in words; None when they fit together."""
        for what in ("dims", "unit"):
            if getattr(self, what) != getattr(other, what):
                return f"{what} changed from {getattr(self, what)!r} to {getattr(other, what)!r}"
        if self.value.shape != other.value.shape:
            return f"shape changed from {self.value.shape} to {other.value.shape}"
        if not _holds(self.value.dtype, other.value):
            return f"dtype changed from {self.value.dtype} to {other.value.dtype}"
        if (self.standard_error is None) != (other.standard_error is None):
            return "its standard error is given at some steps only"
        for dim in self.dims:
            if not same_coordinates(self.coords[dim].values, other.coords[dim].values):
                return f"the coordinates of {dim!r} changed"
        return None


class CannotMeasure(ValueError):
    """The model or the batch is not one that can be measured, for the reason given.

    Raise it from ``measure``, or from a function that it calls. It is no fault of the probe: the reason is logged once,
    in one line and without a traceback, and the probe is asked again at its next turn, since the cause may pass. So
    the message says what was found, what is needed and what to pass.

    Example:
        >>> raise CannotMeasure("One sample is no batch. Pass batches={'train': (inputs, targets)} of several.")
        Traceback (most recent call last):
        ...
        probes.measurement.CannotMeasure: One sample is no batch. Pass batches={'train': (inputs, targets)} of several.
    """


def _holds(dtype: np.dtype[Any], numbers: Array) -> bool:
    """Whether a stream of this type loses nothing of these numbers: whole ones fit among real ones, and the reverse."""
    if dtype.kind == numbers.dtype.kind:
        return True
    if not {dtype.kind, numbers.dtype.kind} <= {*"fiu"} or not np.isfinite(numbers).all():
        return False
    exact = bool((np.abs(numbers.astype(np.float64)) < 2.0**53).all())
    whole = dtype.kind == "f" or bool((numbers == np.rint(numbers)).all())
    return exact and whole and (dtype.kind != "u" or bool((numbers >= 0).all()))


def _to_array(value: Any, what: str) -> Array:
    array = _read(value, what)
    if isinstance(value, int) and not isinstance(value, bool):
        bits = value.bit_length()
        if bits <= 1023 and float(value) == value:
            array = array.astype(np.float64)  # 0 may be the first of a stream, and 0.5 the second
        elif array.dtype.kind == "O":
            raise TypeError(f"{what} must be a whole number of at most 64 bits, got one of {bits}. Pass float(value).")
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"{what} must be a number or an array of numbers, got {type(value).__name__} ({array.dtype}).")
    return array


def _read(value: Any, what: str) -> Array:
    """A copy: a tensor may be the model's own memory, which the next step overwrites."""
    try:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().resolve_conj().resolve_neg()
            half = tensor.dtype in (torch.bfloat16, torch.float16)
            array: Array = (tensor.float() if half else tensor).numpy().copy()
        else:
            with torch.no_grad():  # of a list of tensors
                array = np.array(value)
    except (RuntimeError, TypeError, ValueError) as error:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{what} cannot be read by numpy: {first_line(error)}.") from error
        raise TypeError(
            f"{what} must be a dense tensor that numpy can read, got {type(value).__name__} of layout {value.layout}, "
            f"{value.dtype}, on {value.device}. Pass a plain tensor: to_dense() of a sparse one, full_tensor() of a "
            f"DTensor, float() of eight bits."
        ) from error
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _to_axis(coord: Any, dim: str, name: str) -> Axis:
    axis = coord if isinstance(coord, Axis) else Axis(coord)
    what = f"`coords[{dim!r}]` of measurement {name!r}"
    array = _read(axis.values, what)
    if array.dtype.kind not in "fiubU":
        raise TypeError(f"{what} must be numbers or strings, got {array.dtype}.")
    if array.dtype.kind == "U" and not "".join(array.ravel().tolist()).isprintable():
        array = np.array([storable(text) for text in array.ravel().tolist()]).reshape(array.shape)
    if not (isinstance(axis.unit, str) and isinstance(axis.description, str)):
        raise TypeError(f"Unit and description of {what} must be texts, got {axis.unit!r}, {axis.description!r}.")
    array.setflags(write=False)  # several sinks are given it
    return Axis(array, storable(axis.unit), storable(axis.description))
