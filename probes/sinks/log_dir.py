"""Where results go: a directory that can be written, which belongs to this run."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

__all__ = ["LogDirTaken", "RESERVE", "choose"]

RESERVE = 64 * 2**20
"""Free disk space, in bytes, below which nothing is written."""

LONGEST = 200
"""Bytes of the name of a directory to which something may be appended."""


class LogDirTaken(Exception):
    """A sink cannot use the log directory, for it is another process's or run's; another directory may do."""


def choose(given: Path | None, resumed: Path | None, begin: Callable[[Path], None], strict: bool) -> tuple[Path, str]:
    """The directory of a run, there, writable and begun.

    It is the given one, that of the resumed run, or a fresh one in ``runs``. When that cannot be had: the one of the
    resumed run, if another was given; one beside it, called ``<log_dir>_2``, ``_3`` ...; one for temporary files.

    Args:
        given: What the user asked for, if he did.
        resumed: That of the checkpoint, or of the same run in this process.
        begin: Called with a directory; raises :class:`LogDirTaken` if it is another run's or process's.
        strict: Whether the first one must do.

    Returns:
        The directory, and why it is not the one that was asked for, empty if it is.

    Raises:
        OSError, LogDirTaken: If none can be used.
    """
    asked = given or (resumed if resumed is not None and resumed.is_dir() else None)
    places: list[Callable[[], Path]] = [lambda: asked or _fresh_directory(Path("runs"))]
    if resumed is not None and resumed != asked and resumed.is_dir():
        places.append(lambda: resumed)
    places.append(lambda: _beside(asked or Path("runs")))
    places.append(lambda: Path(tempfile.mkdtemp(prefix=f"{_stem(asked or Path('runs'))}-")))
    first: Exception | None = None
    for place in places:
        try:
            log_dir = _writable(place, asked or Path("runs"))
            begin(log_dir)
        except (OSError, LogDirTaken) as error:
            if strict:
                raise
            first = first or error
        else:
            return log_dir, "" if first is None else str(first)
    assert first is not None
    raise first


def _writable(place: Callable[[], Path], asked: Path) -> Path:
    try:
        log_dir = place().absolute()  # the loop may change its directory
        log_dir.mkdir(parents=True, exist_ok=True)
        trial = log_dir / f".writable-{uuid.uuid4().hex}"
        trial.touch()
        trial.unlink()
        free = shutil.disk_usage(log_dir).free
        if free < RESERVE:
            raise OSError(f"only {free / 2**20:.0f} MiB are free, and {RESERVE / 2**20:.0f} are kept free")
    except (OSError, ValueError) as error:  # of a name that cannot be written in the encoding of the system
        raise OSError(f"`log_dir` {str(asked)!r} cannot be written: {error}. Pass another log_dir.") from error
    return log_dir


def _beside(asked: Path) -> Path:
    asked = asked if asked.name else asked.resolve()
    for count in range(2, 1000):
        try:
            (place := asked.with_name(f"{_stem(asked)}_{count}")).mkdir(parents=True)
        except FileExistsError:
            continue
        return place
    raise FileExistsError(f"a thousand runs are called {asked}")


def _stem(asked: Path) -> str:
    """Its name, or what a file system can hold of it: the beginning of one that is too long."""
    try:
        return asked.name if len(os.fsencode(asked.name)) < LONGEST else asked.name[: LONGEST // 4]
    except UnicodeError:
        return asked.name.encode("ascii", "ignore").decode()[: LONGEST // 4] or "run"


def _fresh_directory(parent: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"_{count}" for count in range(2, 1000))):
        try:
            (parent / (name + suffix)).mkdir()
        except FileExistsError:
            continue
        return parent / (name + suffix)
    raise FileExistsError(f"a thousand runs are called {name}")
