"""Repairing run files that were never closed, or of which a part is missing, so that any program can read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from ...measurement import Axis
from ...run import Event
from .run_file import FORMAT, changing, create_own_tables, event_rows, make_room
from .streams import coordinates, dimensions
from .superblock import SUPERBLOCK, as_if_closed, check_heaps, closed_superblock, end_of_file
from .table import Column, Table, attributes, create_table, cut_to_common_length, growing, refuse_foreign, tables

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["add_event", "exclusive", "is_held", "let_go", "mend", "repair", "repair_here"]

SECONDS, BYTES_A_SECOND = 60.0, 2**20
"""How long a repair may take: in a damaged file HDF5 can go round in circles."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises for a block that is not what it should be."""


def repair(path: str | Path) -> str:
    """Make the file of a killed run like one that was closed, in place: plain readers open it, rows can be appended.

    Nothing that was flushed is lost; a row of which only some columns were written is cut. A file whose end is missing
    (a power failure, a copy that was broken off) is written anew from the rows that are whole, and says so in its
    events; what was there stays beside it, as ``run.damaged-1.h5``. A sound file is left as it is.

    Returns:
        What was done, in words.

    Raises:
        FileNotFoundError: If there is no such file.
        RuntimeError: If a process is still writing the file.
        ValueError: If it is not a run file, or so little of it is left that nothing can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with exclusive(path):
        with path.open("rb") as raw:
            try:
                closed_superblock(raw.read(SUPERBLOCK.size), 0)
            except ValueError as error:
                raise ValueError(f"{path} is no run file. {error}") from None
        # In a process of its own: some damage crashes HDF5.
        command = [sys.executable, "-c", "from probes.sinks.hdf5.repair import _main; _main()", str(path)]
        deadline = SECONDS + path.stat().st_size / BYTES_A_SECOND
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=deadline)
        except subprocess.TimeoutExpired:
            why = f"HDF5 came to no end within {deadline:.0f} s"
        else:
            if done.returncode == 0:
                return done.stdout.strip()
            crashed = f"HDF5 crashed ({done.returncode})"
            why = done.stderr.strip().rpartition("\n")[2] if done.returncode > 0 else crashed
        path.with_suffix(".new").unlink(missing_ok=True)
        raise ValueError(f"{path} is damaged beyond repair: {why}")


def _main() -> None:
    try:
        print(repair_here(Path(sys.argv[1])))
    except DAMAGE as error:
        sys.exit(str(error))


def repair_here(path: Path) -> str:
    """:func:`repair` for one who has the file to himself, in this process."""
    check_heaps(path)
    if _is_cut(path):
        return _salvage(path)
    return f"{path} was not closed; it is now, with all its rows." if mend(path) else f"{path} is sound."


def mend(path: Path) -> bool:
    """Close a file that a killed process left open; whether it was one. For one who has the file to himself."""
    size = path.stat().st_size
    with path.open("r+b") as raw:
        superblock = raw.read(SUPERBLOCK.size)
        closed = closed_superblock(superblock, size)
        if not superblock[11] and end_of_file(superblock) <= size:
            return False
        raw.seek(0)
        raw.write(closed)
    with h5py.File(path, "r+", **FORMAT) as file:
        for table in tables(file):
            cut_to_common_length(table)
    return True


def exclusive(path: Path) -> FileLock:
    """Take the lock beside a run file; the system releases it when the process ends, however it ends.

    Raises:
        RuntimeError: If another process, or another manager of this one, holds it.
    """
    from filelock import FileLock, Timeout  # here, so that to import the package stays quick

    lock = FileLock(path.with_suffix(".lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        held = _held.get(path.absolute())
        if held is not None and held.is_locked:
            raise RuntimeError(
                f"Another ProbeManager of this process is writing {path}. Call its detach() first, or pass another "
                f"log_dir=."
            ) from None
        raise RuntimeError(
            f"Another process is writing {path}. Pass another log_dir=, one for each process, or wait until that "
            f"process has ended."
        ) from None
    _held[path.absolute()] = lock
    return lock


def is_held(path: Path) -> bool:
    """Whether a process of this machine, or a manager of this process, is writing a run file."""
    try:
        import fcntl

        with path.with_suffix(".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back at once, as the file is closed
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows, or there is no lock
        return False
    return False


_held: weakref.WeakValueDictionary[Path, FileLock] = weakref.WeakValueDictionary()
"""The locks that this process has taken."""


def _is_cut(path: Path) -> bool:
    """Whether something that the file refers to is not in it."""
    size = path.stat().st_size
    try:
        with as_if_closed(path) as file:
            for table in tables(file):
                columns = growing(table)
                if any(_whole_rows(column, size) < len(column) for column in columns.values()):
                    return True
                for name in set(table) - set(columns):
                    if isinstance(table[name], h5py.Dataset):
                        coordinates(table[name])
                for column in columns.values():
                    dimensions(column), attributes(column)
    except DAMAGE:
        return True
    return False


def _salvage(path: Path) -> str:
    """Write a damaged file anew from the rows that are whole."""
    size = path.stat().st_size
    names = (path.with_suffix(f".damaged-{number}.h5") for number in count(1))
    damaged = next(file for file in names if not file.exists())
    new = path.with_suffix(".new")
    lost: list[str] = []
    with as_if_closed(path) as old, h5py.File(new, "w", **FORMAT) as file:
        file.attrs.update(old.attrs)
        for name in _groups(old, lost):
            try:
                _copy_table(old[name], file, name, size, lost)
            except DAMAGE:
                if name in file:
                    del file[name]
                lost.append(f"all of {name}")
        create_own_tables(file)
        message = f"The file was damaged and written anew. Lost: {', '.join(lost) or 'no row'}."
        Table(file["events"]).append(event_rows([Event("repair", "", message, 0, time.time())]))
    os.replace(path, damaged)
    os.replace(new, path)
    return f"{path} was damaged, and is written anew. Lost: {', '.join(lost) or 'no row'}. As it was: {damaged}."


def _groups(group: Any, lost: list[str], prefix: str = "") -> Iterator[str]:
    """The names of all tables that can be opened."""
    for name in group:
        try:
            refuse_foreign(group, name)
            item = group[name]
            if isinstance(item, h5py.Group):
                if isinstance(item.get("step"), h5py.Dataset):
                    yield prefix + name
                yield from _groups(item, lost, f"{prefix}{name}/")
        except DAMAGE:
            lost.append(f"all of {prefix}{name}")


def _copy_table(old: Any, file: Any, name: str, size: int, lost: list[str]) -> None:
    for item in old:
        refuse_foreign(old, item)
    columns = growing(old)
    rows = min(_whole_rows(column, size) for column in columns.values())
    if rows < (longest := max(map(len, columns.values()))):
        lost.append(f"{longest - rows} of {longest} rows of {name}")
    dims = {key: dimensions(column)[1:] for key, column in columns.items()}
    scales = {dim: Axis(*coordinates(old[dim])) for names in dims.values() for dim in names}
    table = create_table(
        file,
        name,
        {
            key: Column(column.dtype, dims[key], attributes(column))
            for key, column in columns.items()
            if key not in ("step", "wall_time")
        },
        scales,
    )
    Table(table).append({key: column[:rows] for key, column in columns.items()})


def _whole_rows(column: Any, size: int) -> int:
    """The rows before the first chunk that is not within the first ``size`` bytes of the file."""
    ends: list[int] = [len(column)]
    column.id.chunk_iter(
        lambda chunk: ends.append(chunk.chunk_offset[0]) if chunk.byte_offset + chunk.size > size else None
    )
    return min(ends)


def add_event(path: Path, event: Event, room: int) -> None:
    """Add an event to a file that nobody has open; to a copy first, so as to damage nothing.

    Args:
        path: The file.
        event: The event.
        room: Bytes that must be free.
    """
    copy = path.with_suffix(".new")
    try:
        shutil.copyfile(path, copy)
        make_room(copy, room)
        mend(copy)
        with changing(copy, "r+") as file:
            Table(file["events"]).append(event_rows([event]))
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)


def let_go(descriptor: int | None, lock: FileLock | None) -> None:
    """In a forked child: let what HDF5 writes to an open file go nowhere, and leave its lock to the parent."""
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    # Older versions of filelock unlock for the parent too; later ones have closed it in the child.
    held: Any = getattr(lock, "_context", None)
    if getattr(held, "lock_file_fd", None) is not None:
        os.close(held.lock_file_fd)
        held.lock_file_fd = None
