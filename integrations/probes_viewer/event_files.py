"""A run as TensorBoard's event files hold it, where there is no ``run.h5``: all that they have, and what they lack."""

from __future__ import annotations

import functools
import os
import re
import stat
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.drawing.scales import scale_of
from probes.measurement import printable

from .buckets import common
from .contents import as_json, encoded, shown, totals
from .views import views
from .words import about_run, form, label, made

__all__ = ["EventFileContents", "has_event_files"]

LACKING = (
    "read from event files, which hold single precision and no standard errors, settings or costs; only their scalars "
    "and histograms are shown"
)
REBINNED = "the buckets of the rows differ; counts are put onto common ones, spread evenly within each of their own"
MOST_NOTES = 5


def has_event_files(directory: Path) -> bool:
    """Whether a directory holds event files itself."""
    return bool(_files(directory))


def _files(directory: Path) -> list[tuple[Path, os.stat_result]]:
    found = [(file, file.stat()) for file in sorted(directory.glob("*tfevents*")) if file.exists()]
    return [(file, about) for file, about in found if stat.S_ISREG(about.st_mode)]  # a pipe would never end


class EventFileContents:
    """Scalars are curves, histograms are heat maps; nothing is dropped, as the dashboards do.

    Args:
        directory: Where the event files lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def catalogue(self) -> dict[str, Any]:
        """What the files hold, as :meth:`HDF5Contents.catalogue` gives it."""
        files = _files(self._directory)
        tables, began, left_out = self._read(files)
        streams = [
            {
                "name": name,
                "title": printable(table["title"][:1].upper() + table["title"][1:] or name),
                "unit": "",
                "label": label(name.split("/")[:2][-1], ""),
                "dims": table["dims"],
                "views": views(table["dims"]),
                "rows": len(table["step"]),
                "last": int(table["step"][-1]),
                "bytes": table["value"].nbytes,
                "complex": False,
                "error": False,
                "form": form(table["dims"], "1", False),
                "made": made(table["how"]),
            }
            for name, table in tables.items()
        ]
        # Rows are only added as long as the last file grows and no bucket moves.
        grown = [[file.name, about.st_ino, about.st_size] for file, about in files[:-1]]
        origin = [files[-1][0].name, files[-1][1].st_ino, began, grown, [table["dims"] for table in tables.values()]]
        measured = totals(streams)
        more = len(left_out) - MOST_NOTES
        return {
            "name": shown(self._directory.absolute().name),
            "source": "event files",
            "origin": f"{zlib.crc32(as_json(origin).encode()):x}",
            "model": "",
            "empty": "" if streams else "Nothing has been measured yet.",
            "silence": "Not looked for: the rules read run.h5.",
            "settings": {},
            "versions": {},
            "about": {},
            **measured,
            "streams": streams,
            "events": [],
            "costs": {"rows": []},
            "notes": [
                *about_run("", **measured),
                LACKING,
                *left_out[:MOST_NOTES],
                *([f"and so of {more} other tags"] if more > 0 else []),
            ],
        }

    def stream(self, name: str, after: int = 0) -> bytes:
        """The rows of a tag, as :meth:`HDF5Contents.stream` gives them."""
        table = self._read(_files(self._directory))[0][name]
        rows = len(table["step"])
        return encoded(rows, {key: table[key][after:rows] for key in ("step", "wall_time", "value") if key in table})

    def findings(self) -> list[dict[str, Any]]:
        """None: the rules read ``run.h5``."""
        return []

    @staticmethod
    def _read(files: list[tuple[Path, os.stat_result]]) -> tuple[dict[str, dict[str, Any]], float, list[str]]:
        return _read(tuple((file, about.st_ino, about.st_mtime_ns, about.st_size) for file, about in files))


@functools.lru_cache(maxsize=4)
def _read(files: tuple[tuple[Path, int, int, int], ...]) -> tuple[dict[str, dict[str, Any]], float, list[str]]:
    """As long as the files are these: the tags, when the first event was, and what is left out, in words."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # type: ignore[import-untyped]

    rows: dict[str, list[tuple[int, float, NDArray[Any]]]] = {}
    titles: dict[str, str] = {}
    kinds: dict[str, str] = {}
    bad: Counter[tuple[str, str]] = Counter()
    began = 0.0
    for file, *_ in files:
        for event in EventFileLoader(str(file)).Load():
            began = began or event.wall_time
            for value in event.summary.value:
                kind = kinds.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if kind not in ("scalars", "histograms") or not value.HasField("tensor"):
                    continue
                try:
                    numbers = _numbers(kind, value.tensor)
                except ValueError as error:
                    bad[value.tag, str(error)] += 1
                    continue
                titles.setdefault(value.tag, _title(value.tag, value.metadata.summary_description))
                rows.setdefault(value.tag, []).append((event.step, event.wall_time, numbers))
    left_out = [f"{count} rows of {printable(tag)!r} are left out: {why}" for (tag, why), count in bad.items()]
    return {tag: _table(kinds[tag], titles[tag], found) for tag, found in rows.items()}, began, left_out


def _title(tag: str, description: str) -> str:
    """What its writer says of a tag, before unit and estimator; which entry of a stream it is, after it."""
    words = re.split(r"(?:\. |^)(?:Unit: |No unit)", description)[0].removesuffix(".")
    entry = "/".join(tag.split("/")[2:])
    return f"{words}: {entry}" if words and entry else words


def _numbers(kind: str, tensor: Any) -> NDArray[Any]:
    """The number of a scalar, or of a histogram left, right and count of its buckets.

    Raises:
        ValueError: If the tensor is something else.
    """
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    try:
        found = np.asarray(make_ndarray(tensor))
        numbers = found.astype(float) if found.dtype.kind not in "OSUc" else None
    except Exception as error:  # whatever bytes that are no tensor lead to
        raise ValueError(f"they cannot be read ({printable(str(error))[:80]})") from None
    if numbers is None:
        raise ValueError("they are not real numbers")
    if kind == "scalars" and numbers.size != 1:
        raise ValueError(f"they hold {numbers.size} numbers, not one")
    if kind == "histograms" and (numbers.ndim != 2 or numbers.shape[1] != 3):
        raise ValueError("they are not buckets with left, right and count")
    if kind == "histograms" and not len(numbers):
        raise ValueError("they are histograms without buckets, as of values that are all zero or not finite")
    return numbers


def _table(kind: str, title: str, rows: list[tuple[int, float, NDArray[Any]]]) -> dict[str, Any]:
    head: dict[str, Any] = {"title": title, "dims": [], "how": ""}
    if kind == "histograms":
        edges, values, same = common([row[2] for row in rows])
        centres = edges[:-1] / 2 + edges[1:] / 2
        head["dims"] = [{"name": "bucket", "label": "bucket", "scale": scale_of(centres), "values": centres.tolist()}]
        head["how"] = "" if same else REBINNED
    else:
        values = np.array([row[2].item() for row in rows])
    return {
        **head,
        "step": np.array([row[0] for row in rows]),
        "wall_time": np.array([row[1] for row in rows]),
        "value": values,
    }
