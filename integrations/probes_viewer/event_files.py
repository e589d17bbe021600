"""A run as TensorBoard's event files hold it, where there is no ``run.h5``: all that they have, and what they lack."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.measurement import printable

from .contents import encoded, shown
from .views import views

__all__ = ["EventFileContents", "has_event_files"]

LACKING = (
    "read from event files, which hold single precision and no standard errors, settings or costs; matrices and "
    "complex numbers are left out"
)


def has_event_files(directory: Path) -> bool:
    """Whether a directory holds event files itself."""
    return any(directory.glob("*tfevents*"))


class EventFileContents:
    """Scalars are curves, histograms are heat maps; nothing is dropped, as the dashboards do.

    Args:
        directory: Where the event files lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def catalogue(self) -> dict[str, Any]:
        """What the files hold, as :meth:`HDF5Contents.catalogue` gives it."""
        streams = [
            {
                "name": name,
                "title": printable(table["title"][:1].upper() + table["title"][1:] or name),
                "unit": "1",
                "dims": table["dims"],
                "views": views(table["dims"]),
                "rows": len(table["step"]),
                "last": int(table["step"][-1]),
                "bytes": table["value"].nbytes,
                "complex": False,
                "error": False,
                "estimator": "",
                "samples": None,
                "probe": "",
            }
            for name, table in self._tables().items()
        ]
        return {
            "name": shown(self._directory.absolute().name),
            "source": "event files",
            "model": "",
            "settings": {},
            "versions": {},
            "about": {},
            "streams": streams,
            "events": [],
            "sessions": [],
            "costs": {"rows": []},
            "notes": [LACKING],
        }

    def stream(self, name: str, after: int = 0, every: int = 1) -> bytes:
        """The rows of a tag, as :meth:`HDF5Contents.stream` gives them."""
        table = self._tables()[name]
        rows = len(table["step"])
        return encoded(
            rows, every, {key: table[key][after:rows:every] for key in ("step", "wall_time", "value") if key in table}
        )

    def findings(self) -> list[dict[str, Any]]:
        """None: the rules read ``run.h5``."""
        return []

    def _tables(self) -> dict[str, dict[str, Any]]:
        files = sorted(self._directory.glob("*tfevents*"))
        return _tables(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.lru_cache(maxsize=4)
def _tables(files: tuple[tuple[Path, int, int], ...]) -> dict[str, dict[str, Any]]:
    """The scalars and histograms by tag, as long as the files are these."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # type: ignore[import-untyped]
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    rows: dict[str, list[tuple[int, float, NDArray[Any]]]] = {}
    titles: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for file, _, _ in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                kind = kinds.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if kind not in ("scalars", "histograms") or not value.HasField("tensor"):
                    continue
                titles.setdefault(value.tag, value.metadata.summary_description.split(". ")[0])
                rows.setdefault(value.tag, []).append((event.step, event.wall_time, make_ndarray(value.tensor)))
    return {tag: _table(kinds[tag], titles[tag], found) for tag, found in rows.items()}


def _table(kind: str, title: str, rows: list[tuple[int, float, NDArray[Any]]]) -> dict[str, Any]:
    head: dict[str, Any] = {"title": title, "dims": []}
    if kind == "histograms":
        rows = [row for row in rows if row[2].shape == rows[0][2].shape]
        buckets = np.stack([row[2] for row in rows])  # left, right, count
        centres = (buckets[0, :, 0] + buckets[0, :, 1]) / 2
        head["dims"] = [{"name": "bucket", "unit": "1", "description": "", "values": centres.tolist()}]
        values = buckets[..., 2]
    else:
        values = np.array([row[2].item() for row in rows])
    return {
        **head,
        "step": np.array([row[0] for row in rows]),
        "wall_time": np.array([row[1] for row in rows]),
        "value": values,
    }
