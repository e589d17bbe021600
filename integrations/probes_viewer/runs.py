"""The runs below a directory, and where each is read from."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probes.commands.runs import row_of, run_files

from .contents import HDF5Contents, RunContents, shown
from .event_files import EventFileContents, has_event_files

__all__ = ["RunList", "contents_of", "summary_of"]

PATIENCE = 0.5
"""Seconds that one listing takes, about; runs that it has not come to are described by the next one."""


def contents_of(path: Path) -> RunContents:
    """The run in a log directory: its ``run.h5`` or, where there is none, its event files.

    Raises:
        FileNotFoundError: If there is neither.
    """
    file = path / "run.h5" if path.is_dir() else path
    if file.is_file():
        return HDF5Contents(file)
    if path.is_dir() and has_event_files(path):
        return EventFileContents(path)
    raise FileNotFoundError(
        f"There is no run in {path}: neither run.h5 nor event files of TensorBoard. Name the log directory of a run."
    )


def summary_of(catalogue: dict[str, Any], path: Path) -> dict[str, Any]:
    """A run in one line, from its catalogue and its directory; as :class:`RunList` gives it."""
    file = path if path.is_file() else path / "run.h5"
    return {
        "name": catalogue["name"],
        "when": catalogue["about"].get("created", ""),
        "model": catalogue["model"],
        "steps": catalogue["steps"],
        "rows": catalogue["rows"],
        "state": row_of(file, file.parent)["state"] if file.is_file() else "event files",
        "problem": "",
    }


class RunList:
    """The runs below a directory, newest first; a file is read again when it has changed.

    Args:
        folders: The directory, which need not be there yet; or several, by the name that their runs begin with.
    """

    def __init__(self, folders: Path | Mapping[str, Path]) -> None:
        self._folders = {"": folders} if isinstance(folders, Path) else dict(folders)
        self._known: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._names: dict[str, str] = {}

    def rows(self) -> list[dict[str, Any]]:
        """The runs in plain values; ``name`` is the path from the directory, printable, ``.`` the directory itself."""
        found: dict[str, tuple[str, Path, os.stat_result]] = {}
        for group, folder in self._folders.items():
            for file in run_files(folder):
                name = (Path(group) / file.parent.relative_to(folder)).as_posix()
                if name in found and file.name != "run.h5":  # of both, the latter counts
                    continue
                try:
                    about = file.stat()
                except OSError:  # gone meanwhile
                    continue
                if stat.S_ISREG(about.st_mode):  # a pipe would never end
                    found[name] = (name, file, about)
        newest = sorted(found.values(), key=lambda each: each[2].st_mtime_ns, reverse=True)
        end = time.monotonic() + PATIENCE
        self._names = {shown(name): name for name in found}
        return [
            {**self._row(file, (about.st_mtime_ns, about.st_size), end), "name": shown(name)}
            for name, file, about in newest
        ]

    def _row(self, file: Path, changed: tuple[int, int], end: float) -> dict[str, Any]:
        seen, row = self._known.get(file, (None, {}))
        if seen == changed and row["state"] != "running":
            return row
        late = time.monotonic() > end
        if row and late:
            return row
        empty: dict[str, Any] = {"when": "", "model": "", "steps": 0, "rows": 0, "state": "", "problem": ""}
        if file.name != "run.h5":
            return {**empty, "state": "event files"}
        if late:
            return empty
        row = row_of(file, file.parent)
        self._known[file] = changed, row
        return row

    def directory(self, name: str) -> Path:
        """The log directory of a run, by its name, as :meth:`rows` has given it.

        Raises:
            FileNotFoundError: If it could lie elsewhere.
        """
        name = self._names.get(name, name)
        if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise FileNotFoundError(name)
        for group, folder in self._folders.items():
            if Path(name).is_relative_to(group) and (path := folder / Path(name).relative_to(group)).is_dir():
                return path
        raise FileNotFoundError(name)
