"""The runs below a directory, and where each is read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probes.commands.runs import runs as runs_below

from .contents import HDF5Contents, RunContents
from .event_files import EventFileContents, has_event_files

__all__ = ["contents_of", "listed", "summary_of"]


def contents_of(path: Path) -> RunContents:
    """The run in a log directory: its ``run.h5`` or, where there is none, its event files.

    Raises:
        FileNotFoundError: If there is neither.
    """
    file = path / "run.h5" if path.is_dir() else path
    if file.exists():
        return HDF5Contents(file)
    if path.is_dir() and has_event_files(path):
        return EventFileContents(path)
    raise FileNotFoundError(
        f"There is no run in {path}: neither run.h5 nor event files of TensorBoard. Name the log directory of a run."
    )


def summary_of(catalogue: dict[str, Any]) -> dict[str, Any]:
    """A run in one line, from its catalogue; as :func:`listed` gives it."""
    streams = [meta for meta in catalogue["streams"] if not meta["name"].startswith("probes/")]
    return {
        "name": catalogue["name"],
        "when": catalogue["about"].get("created", ""),
        "model": catalogue["model"],
        "steps": max((meta["last"] or 0 for meta in streams), default=0),
        "rows": sum(meta["rows"] for meta in streams),
        "state": "",
        "problem": "",
    }


def listed(folder: Path) -> list[dict[str, Any]]:
    """The runs below a directory in plain values, newest first; ``name`` is the path from there, ``.`` is itself."""
    found = runs_below(folder)
    known = {row["name"] for row in found}
    for directory in sorted({file.parent for file in folder.rglob("*tfevents*")}):
        name = directory.relative_to(folder).as_posix()
        if name not in known:
            empty = {"when": "", "model": "", "steps": 0, "rows": 0, "state": "event files", "problem": ""}
            found.append({"name": name, **empty})
    return found
