"""The runs below a directory: one line each, newest first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..measurement import printable
from ..sinks.hdf5.repair import is_held
from ..sinks.hdf5.run_file import check_version
from ..sinks.hdf5.superblock import read_file
from ..sinks.hdf5.table import tables

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["row_of", "run_files", "runs", "table"]


def run_files(folder: Path) -> Iterator[Path]:
    """Each ``run.h5`` and event file below a directory, through links too; no directory twice, whatever vanishes."""
    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        try:
            about = os.stat(at)
        except OSError:
            folders.clear()
            continue
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort(key=lambda name: (os.path.islink(os.path.join(at, name)), name))  # a link to a run is the second
        yield from (Path(at, name) for name in sorted(names) if name == "run.h5" or "tfevents" in name)


def runs(folder: Path) -> list[dict[str, Any]]:
    """The runs below a directory in plain values, newest first.

    ``state`` is ``"running"`` while a process of this machine holds the run's lock, ``"ended"`` after ``detach()``,
    ``"cut"`` if it stopped without, and ``"unreadable"`` with the reason in ``problem``.
    """
    found = [row_of(file, folder) for file in run_files(folder) if file.name == "run.h5" and file.is_file()]
    return sorted(found, key=lambda row: (row["when"], row["name"]), reverse=True)


def table(found: list[dict[str, Any]]) -> RichTable:
    """The rows of :func:`runs` for the terminal."""
    from rich.markup import escape
    from rich.table import Column, Table

    right = [Column(name, justify="right", no_wrap=True) for name in ("steps", "rows")]
    shown = Table(Column("run", overflow="fold"), Column("when", no_wrap=True), "model", *right, "state", box=None)
    for row in found:
        when = datetime.fromisoformat(row["when"]).astimezone().strftime("%Y-%m-%d %H:%M") if row["when"] else ""
        state = f"{row['state']}: {row['problem']}" if row["problem"] else row["state"]
        cells = (row["name"], when, row["model"], *(f"{row[key]:,}" for key in ("steps", "rows")), state)
        shown.add_row(*(escape(printable(cell)) for cell in cells))
    return shown


def row_of(file: Path, folder: Path) -> dict[str, Any]:
    """A run below a directory in plain values, as :func:`runs` lists it."""
    name = file.parent.relative_to(folder).as_posix()
    row = {"name": name, "when": "", "model": "", "steps": 0, "rows": 0, "state": "unreadable", "problem": ""}
    try:
        return {**row, **read_file(file, lambda opened: _read(opened, file))}
    except (OSError, ValueError) as error:
        return {
            **row,
            "problem": str(error).removeprefix(f"{file} is damaged: ").removeprefix(f"{file} cannot be read: "),
        }


def _read(opened: Any, file: Path) -> dict[str, Any]:
    check_version(opened)
    rows, steps, turns = 0, 0, [b""]
    for group in tables(opened):
        step = group["step"][:]
        steps = max(steps, int(step.max(initial=0)))
        if group.name == "/events":
            turns += [kind for kind in group["kind"][:] if kind in (b"attach", b"detach")]
        elif not group.name.startswith(("/sessions", "/probes/")):
            rows += len(step)
    state = "ended" if turns[-1] == b"detach" else "running" if is_held(file) else "cut"
    when = datetime.fromisoformat(str(opened.attrs["created"]).replace("Z", "+00:00")).isoformat()
    model = json.loads(opened.attrs["config_json"]).get("model", "")
    return {"when": when, "model": str(model), "steps": steps, "rows": rows, "state": state}
