"""What the viewer is told of a run: a catalogue of its streams as JSON, and the numbers of a stream as bytes.

.. code-block:: text

    bytes of a stream    4 bytes      length L of the header, little-endian
                         L bytes      header, JSON: rows, arrays = [[name, "f4" or "f8", shape], ...]
                         the arrays   one after the other, little-endian, from the next multiple of 8 bytes on

The numbers are those of the file, single or double precision as there, in the order in which they were written; a
complex number is two, real and imaginary part, along a last dimension. ``rows`` is how many the stream has in all; of a
thinned one the arrays have fewer.
"""

from __future__ import annotations

import copy
import functools
import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.drawing.events import over
from probes.drawing.scales import scale_of
from probes.drawing.words import of_layers, with_class
from probes.measurement import NAME, printable
from probes.sinks.hdf5.run_file import check_version
from probes.sinks.hdf5.streams import coordinates, dimensions
from probes.sinks.hdf5.superblock import read_file
from probes.sinks.hdf5.table import growing, refuse_foreign, stored_rows, tables

from .costs import costs_of
from .views import views
from .words import about_run, form, in_words, label, made, short, told_apart, unit_in_words

__all__ = ["HDF5Contents", "RunContents", "as_json", "encoded", "shown", "thinned", "totals"]

Array = NDArray[Any]

MAX_EVENTS = 500
SETTLED = 2.0
"""Seconds since the last change, from which on another one is seen in the file's time."""


class RunContents(Protocol):
    """Where the viewer reads a run from."""

    def catalogue(self) -> dict[str, Any]:
        """What the run holds; see :meth:`HDF5Contents.catalogue`."""

    def stream(self, name: str, after: int = 0) -> bytes:
        """The rows of a stream; see :meth:`HDF5Contents.stream`."""

    def findings(self) -> list[dict[str, Any]]:
        """What stands out, as :func:`probes.summary.findings` says it, in the words that are shown."""


class HDF5Contents:
    """A run as its ``run.h5`` holds it, finished, being written or cut.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def catalogue(self) -> dict[str, Any]:
        """What the run holds, without its numbers.

        ``streams`` lists for each its ``name``, ``title``, ``unit`` and ``label`` as they are written, ``dims``
        (``name``, ``label``, and ``labels`` with ``short`` and ``exact`` ones, or ``values`` and the ``scale`` of
        their axis), ``views`` (its pictures), ``rows``, ``last`` step, ``bytes``, whether it is ``complex`` and has
        an ``error``, its ``form``, and how it was ``made``. ``settings``, ``versions``, ``events`` and ``costs`` are
        those of the run, ``steps`` and ``rows`` what it has in all, ``notes``, ``silence`` and ``empty`` what is said
        of it. Where ``origin`` is another, rows that were read before are not those of now.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If it is not a run file, or is damaged.
        """
        about = self._file.stat()
        changed = about.st_ino, about.st_mtime_ns, about.st_size
        if time.time() - about.st_mtime < SETTLED:
            return _read_catalogue(self._file, changed)
        return copy.deepcopy(_known_catalogue(self._file, changed))

    def stream(self, name: str, after: int = 0) -> bytes:
        """The rows of a stream from row ``after`` on, as the bytes that the viewer reads.

        Raises:
            KeyError: If there is no such stream.
        """

        def read(file: Any) -> bytes | None:
            check_version(file)
            group = _group(file, name)
            if group is None:
                return None
            columns = growing(group)
            rows = _rows(columns)
            chosen = slice(min(after, rows), rows)
            wanted = ("step", "wall_time", "value", "standard_error")
            return encoded(rows, {key: columns[key][chosen] for key in wanted if key in columns})

        data = read_file(self._file, read) if NAME.fullmatch(name) else None
        if data is None:
            raise KeyError(name)
        return data

    def findings(self) -> list[dict[str, Any]]:
        """What stands out in the run, the alarms first."""
        from probes import open_run
        from probes.summary import findings

        return [
            {
                "stream": "" if item.stream == "events" else item.stream,  # which is none that could be shown
                "alarm": item.alarm,
                "text": f"{'Alarm: ' if item.alarm else ''}{item.text}. ",
                "where": f"{item.stream}, {_steps(*item.steps)}",
                "advice": item.advice and f" {item.advice}",
            }
            for item in findings(open_run(self._file))
        ]


def _steps(first: int, last: int) -> str:
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def shown(name: str) -> str:
    """A run's name as any page, file or address can hold it: what cannot be printed as its escape.

    So two directories keep two names, unlike with :func:`probes.measurement.printable`.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def totals(streams: list[dict[str, Any]]) -> dict[str, int]:
    """The last step; and the rows of streams in all, without those about the probes themselves."""
    return {
        "steps": max((meta["last"] or 0 for meta in streams), default=0),
        "rows": sum(meta["rows"] for meta in streams if not meta["name"].startswith("probes/")),
    }


def encoded(rows: int, arrays: dict[str, Array]) -> bytes:
    """The bytes of a stream of so many rows, of which these are sent."""
    parts, listed = [], []
    for name, array in arrays.items():
        kind = "f4" if array.dtype == np.float32 else "f8"
        listed.append([name, kind, list(array.shape)])
        data = np.ascontiguousarray(array, dtype=f"<{kind}").tobytes()
        parts.append(data + bytes(-len(data) % 8))
    header = json.dumps({"rows": rows, "arrays": listed}).encode()
    header += b" " * (-(len(header) + 4) % 8)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def thinned(streams: list[bytes], every: int) -> list[bytes]:
    """A stream of several runs, whole, with every so many of its steps and the last one; of fewer, with the last one.

    Steps that the same runs have are counted together: what two runs have in common they still have in common.
    """
    runs = [_decoded(data) for data in streams]
    steps = [_numbered(arrays["step"].tolist()) for arrays in runs]
    owners: dict[tuple[int, int], list[int]] = {}
    for run, each in enumerate(steps):
        for step in each:
            owners.setdefault(step, []).append(run)
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for step in sorted(owners):
        groups.setdefault(tuple(owners[step]), []).append(step)
    kept = {step for group in groups.values() for step in [*(group[::every] if len(group) > every else []), group[-1]]}
    found = []
    for arrays, each in zip(runs, steps, strict=True):
        rows = [row for row, step in enumerate(each) if step in kept or row == len(each) - 1]
        found.append(encoded(len(each), {key: array[rows] for key, array in arrays.items()}))
    return found


def _numbered(steps: list[int]) -> list[tuple[int, int]]:
    """Each step with how often it was there before; after a resume it is there again."""
    seen: Counter[int] = Counter()
    found = []
    for step in steps:
        found.append((step, seen[step]))
        seen[step] += 1
    return found


def _decoded(data: bytes) -> dict[str, Array]:
    """The arrays of :func:`encoded`."""
    (length,) = struct.unpack_from("<I", data)
    place, arrays = 4 + length, {}
    for name, kind, shape in json.loads(data[4:place])["arrays"]:
        arrays[name] = np.frombuffer(data, f"<{kind}", int(np.prod(shape)), place).reshape(shape)
        place += -(-arrays[name].nbytes // 8) * 8
    return arrays


def as_json(values: Any) -> str:
    """JSON that a browser reads: what is not finite is null."""
    return json.dumps(_finite(values), allow_nan=False, default=str)


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {str(key): _finite(item) for key, item in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(item) for item in values]
    if isinstance(values, np.generic):
        values = values.item()
    return None if isinstance(values, float) and not np.isfinite(values) else values


def _group(file: Any, name: str) -> Any:
    """The group of a stream; None where there is none."""
    group = file
    for part in name.split("/"):  # each step of the way lies in the file itself
        if not isinstance(group, h5py.Group) or part not in group:
            return None
        refuse_foreign(group, part)
        group = group[part]
    if not isinstance(group, h5py.Group) or "value" not in group or "step" not in group:
        return None
    for part in group:
        refuse_foreign(group, part)
    return group


def _rows(columns: dict[str, Any]) -> int:
    rows = min(len(column) for column in columns.values())
    if any(stored_rows(column) < rows for column in columns.values()):
        raise ValueError("it claims rows that are not there")
    return rows


def _read_catalogue(path: Path, changed: tuple[int, int, int]) -> dict[str, Any]:
    return read_file(path, lambda file: _catalogue(file, shown(path.absolute().parent.name)))


_known_catalogue = functools.lru_cache(maxsize=64)(_read_catalogue)
"""As long as the file is the same: a page asks every two seconds."""


def _catalogue(file: Any, name: str) -> dict[str, Any]:
    check_version(file)
    streams: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    costs: dict[str, Any] = {}
    modules = _document(file.attrs.get("modules_json"))
    classes = {str(each): kind for kind, names in modules.items() if isinstance(names, list) for each in names}
    for group in tables(file):
        path = group.name.strip("/")
        if path in ("events", "sessions"):
            (events if path == "events" else sessions).extend(_records(group))
        elif "value" in group:
            streams.append(_stream(group, path, classes))
            if path.startswith("probes/") and group["value"].size < 10_000:
                costs[path.removeprefix("probes/")] = _last(group), streams[-1]["dims"]
    created, measured = str(file.attrs.get("created", "")), totals(streams)
    ended = over([str(each["kind"]) for each in events])
    measured["steps"] = max([measured["steps"], *(int(each["step"]) for each in events)])
    return {
        "name": name,
        "source": "run.h5",
        "model": str(_document(file.attrs.get("config_json")).get("model", "")),
        "silence": "Nothing stands out.",
        "empty": "" if measured["rows"] else f"Nothing {'was measured' if ended else 'has been measured yet'}.",
        "settings": in_words(_document(file.attrs.get("config_json"))),
        "versions": in_words(_document(file.attrs.get("versions_json"))),
        "about": {
            key: str(file.attrs.get(key, "")) for key in ("created", "run_id", "git_commit", "seed", "world_size")
        },
        "origin": as_json([created, sessions]),
        **measured,
        "streams": streams,
        "events": events[-MAX_EVENTS:],
        "costs": costs_of(costs),
        "notes": about_run(created, **measured),
    }


def _stream(group: Any, path: str, classes: dict[str, str]) -> dict[str, Any]:
    value, columns = group["value"], growing(group)
    rows = _rows(columns)
    attrs = value.attrs
    words, unit = str(attrs.get("long_name") or path), str(attrs.get("units", "1"))
    scales = {dim: coordinates(group[dim]) for dim in dimensions(value)[1:] if dim != "part"}
    layers = of_layers({dim: found[0] for dim, found in scales.items()})
    dims = [_axis(*found, dim, classes if dim in layers else {}) for dim, found in scales.items()]
    return {
        "name": path,
        "title": printable(words if words == path else words[:1].upper() + words[1:]),
        "unit": unit_in_words(unit),
        "label": label(path.split("/")[:2][-1], unit),
        "dims": dims,
        "views": views(dims),
        "rows": rows,
        "last": int(columns["step"][rows - 1]) if rows else None,
        "bytes": rows * int(np.prod(value.shape[1:])) * value.dtype.itemsize,
        "complex": bool(attrs.get("complex", 0)),
        "error": "standard_error" in columns,
        "form": form(dims, unit, bool(attrs.get("complex", 0))),
        "made": made(
            str(attrs.get("estimator", "")),
            int(attrs["num_samples"]) if "num_samples" in attrs else None,
            str(attrs.get("probe", "")),
        ),
    }


def _axis(values: Array, unit: str, description: str, name: str, classes: dict[str, str]) -> dict[str, Any]:
    axis = {"name": name, "label": label(name, unit), "description": description}
    if values.dtype.kind in "OUS":
        labels = [str(label) for label in values]
        full = told_apart([printable(with_class(label, classes)) for label in labels])
        more = {"short": short(full), "exact": told_apart(labels)}
        return {**axis, "labels": full, **{key: names for key, names in more.items() if names != full}}
    # JSON has no infinite number: a word that JavaScript reads as one
    words = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    return {**axis, "scale": scale_of(values), "values": [words.get(str(value), value) for value in values.tolist()]}


def _records(group: Any) -> Iterator[dict[str, Any]]:
    columns = growing(group)
    rows = _rows(columns)
    start = max(0, rows - MAX_EVENTS)
    read = {
        name: (column.asstr()[start:rows] if h5py.check_string_dtype(column.dtype) else column[start:rows])
        for name, column in columns.items()
    }
    for index in range(rows - start):
        yield {
            name: printable(item) if isinstance(item := values[index], str) else item for name, values in read.items()
        }


def _last(group: Any) -> Any:
    rows = _rows(growing(group))
    return group["value"][rows - 1].tolist() if rows else None


def _document(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
