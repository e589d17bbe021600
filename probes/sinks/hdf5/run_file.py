"""A run file as a whole: its head, sessions and events, the room it needs on disk, letting go of it after a fault."""

from __future__ import annotations

import errno
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...run import Event, Run
from ..log_dir import RESERVE
from .provenance import git_state, provenance
from .superblock import OtherFormat, read_file
from .table import Column, Table, create_table, tables

__all__ = [
    "FORMAT",
    "NoRoomError",
    "SCHEMA_NAME",
    "abandon",
    "add_session",
    "changing",
    "check_metadata",
    "check_owner",
    "check_version",
    "copy_open_file",
    "create_head",
    "create_own_tables",
    "describe",
    "event_rows",
    "hold_metadata",
    "make_room",
    "release",
    "reserve",
    "same_file",
    "what_is_missing",
]

SCHEMA_NAME, SCHEMA_VERSION = "torch-probes", "2"
# Not "latest": HDF5 1.14 cannot read what HDF5 2.0 calls the latest format. Our own lock replaces HDF5's, which does
# not work on every network file system and would let a reader keep us from reopening the file.
FORMAT: dict[str, Any] = {"libver": ("v110", "v110"), "locking": False}

MAX_METADATA = 128 * 2**20
"""Bytes; the most that HDF5 takes."""

EVENT = {"kind": 16, "plugin": 64, "message": 1024}
SESSION = {"git_commit": 40, "host": 64}


def create_head(file: Any, run: Run) -> None:
    """Write the root attributes and create the tables of sessions and events."""
    file.attrs.update({"schema_name": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **provenance(run)})
    create_own_tables(file)


def create_own_tables(file: Any) -> None:
    """Create the tables of sessions and events, where they are not there."""
    if "events" not in file:
        create_table(file, "events", {name: Column(_text(size)) for name, size in EVENT.items()})
    if "sessions" not in file:
        columns = {name: Column(_text(size)) for name, size in SESSION.items()}
        create_table(file, "sessions", {**columns, "git_dirty": Column("u1")})


def add_session(file: Any, step: int, since: float) -> None:
    """Add a row for a start or resume at ``step`` and the wall time ``since``, unless it is there."""
    if since in file["sessions/wall_time"][-1:]:
        return
    commit, dirty = git_state()
    Table(file["sessions"]).append(
        {
            "step": np.array([step]),
            "wall_time": np.array([since]),
            "git_commit": _clipped([commit], SESSION["git_commit"]),
            "git_dirty": np.array([dirty], dtype=np.uint8),
            "host": _clipped([platform.node()], SESSION["host"]),
        }
    )


def event_rows(events: Sequence[Event]) -> dict[str, NDArray[Any]]:
    """The columns of a block of events."""
    texts = {name: _clipped([getattr(event, name) for event in events], size) for name, size in EVENT.items()}
    numbers = {name: np.array([getattr(event, name) for event in events]) for name in ("wall_time", "step")}
    return {**texts, **numbers}


def describe(path: Path) -> str:
    """What a file holds, in words."""
    try:
        return read_file(path, _described)
    except ValueError:
        return "not a readable run file"


def _described(file: Any) -> str:
    if file.attrs.get("schema_name") != SCHEMA_NAME:
        return "a file that torch-probes did not write"
    check_version(file)
    steps = [table["step"][:].max() for table in tables(file) if len(table["step"])]
    return f"{_of(file.attrs['run_id'])}, recorded up to step {max(steps, default=0)}"


def check_version(file: Any) -> None:
    """Make sure that a file is of the format that is written here.

    Raises:
        OtherFormat: If it is of another one.
    """
    if file.attrs.get("schema_name") != SCHEMA_NAME:
        raise OtherFormat("it is an HDF5 file, but not one that torch-probes wrote")
    if (version := str(file.attrs.get("schema_version"))) != SCHEMA_VERSION:
        raise OtherFormat(
            f"it is of format {version}, and this version of torch-probes reads format {SCHEMA_VERSION}; read it with "
            f"the version that wrote it"
        )


def check_owner(path: Path, run: Run) -> None:
    """Make sure that a file may be continued by the run.

    Raises:
        FileExistsError: If it is of another run, or of this one but not resumed.
    """
    held = describe(path)
    if run.resumed_from is None:
        raise FileExistsError(
            f"`log_dir` must not hold another run, but {path} is {held}. Pass another log_dir=, or call "
            f"load_state_dict(checkpoint) before attach() to continue that run."
        )
    if not held.startswith(_of(run.run_id)):
        raise FileExistsError(
            f"The checkpoint is {_of(run.run_id)}, but {path} is {held}. Pass the log_dir= of the run that is to be "
            f"continued, or a new one."
        )


def _of(run_id: str) -> str:
    return f"of run {run_id!r}"


class NoRoomError(OSError):
    """There is no room for what is to be written; nothing was tried yet, the file is sound."""


@contextmanager
def changing(path: Path, mode: str) -> Iterator[Any]:
    """The file, opened to add or cut tables; closed afterwards, or let go of when that fails."""
    file = h5py.File(path, mode, **FORMAT)
    try:
        yield file
        file.flush()
    except Exception:
        abandon(file)
        raise
    finally:  # after an interrupt too, to which HDF5 is blind
        file.close()


def reserve(path: Path, file: Any, size: int) -> None:
    """Make sure that ``size`` bytes can be appended, before HDF5 tries: it does not recover from a failed write.

    Raises:
        NoRoomError: If the disk, the quota or the largest size of a file leaves no room.
    """
    free = shutil.disk_usage(path.parent).free
    if free < max(RESERVE, 2 * size):
        raise NoRoomError(f"only {free / 2**20:.0f} MiB are free on the disk, and {RESERVE / 2**20:.0f} are kept free")
    if file is not None:
        _allocate(file.id.get_vfd_handle(), file.id.get_filesize(), size)


def make_room(path: Path, size: int) -> None:
    """:func:`reserve`, and :func:`release`, for a file that HDF5 has not opened yet.

    Raises:
        NoRoomError: If the disk, the quota or the largest size of a file leaves no room.
    """
    with path.open("ab") as file:
        end = file.tell()
        try:
            _allocate(file.fileno(), end, size)
        finally:
            file.truncate(end)


def _allocate(descriptor: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, start, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoRoomError(error.strerror) from error
            # Otherwise the file system cannot allocate ahead, which is no fault.


def same_file(path: Path, descriptor: int) -> bool | None:
    """Whether a path still leads to an open file; None if it leads nowhere."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return None


def copy_open_file(descriptor: int, target: Path) -> None:
    """Copy a file that is open, whether or not it still has a name, without moving its position."""
    position = 0
    with target.open("wb") as copy:
        while block := os.pread(descriptor, 2**20, position):
            copy.write(block)
            position += len(block)


def hold_metadata(file: Any) -> None:
    """Let HDF5 keep in memory what it knows of the file, about 3 kB for each stream.

    With more of it than the cache takes, 2 MiB at first, it evicts some, and in SWMR mode fails to write or crashes the
    process: seen with HDF5 2.0 from 1,300 streams on.
    """
    config = file.id.get_mdc_config()
    config.set_initial_size, config.decr_mode = True, 0
    config.initial_size = config.max_size = MAX_METADATA
    file.id.set_mdc_config(config)


def check_metadata(file: Any) -> None:
    """Make sure that the metadata of another block of rows can be kept in memory.

    Raises:
        NoRoomError: If it cannot.
    """
    if file.id.get_mdc_size()[2] > 0.9 * MAX_METADATA:
        raise NoRoomError(
            f"the file holds more streams than HDF5 can keep in {MAX_METADATA / 2**20:.0f} MiB, about 40,000. "
            f"Measure fewer names, or arrays instead of numbers"
        )


def release(file: Any) -> None:
    """Give back what :func:`reserve` took and was not used."""
    with suppress(OSError):
        os.ftruncate(file.id.get_vfd_handle(), file.id.get_filesize())


def abandon(file: Any) -> None:
    """Close a file that cannot be written, leaving on disk what is there.

    What HDF5 still wants to write goes nowhere: were it to fail once more, HDF5 would crash the process at its exit.
    """
    with suppress(Exception):
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
    with suppress(Exception):
        file.close()


def _text(size: int) -> Any:
    return h5py.string_dtype("utf-8", size)


def _clipped(texts: Sequence[str], size: int) -> NDArray[Any]:
    """UTF-8 of at most ``size`` bytes, cut between characters."""
    whole = [text.encode(errors="replace")[:size].decode(errors="ignore").encode() for text in texts]
    return np.array(whole, dtype=_text(size))


def what_is_missing(run: Run, path: Path, begun: bool) -> str:
    """What a new file lacks of the run; empty if nothing."""
    if begun:
        return f"{path} was deleted while it was closed: what was recorded before step {run.step} is missing here."
    if run.resumed_from is not None and run.resumed_from >= 0:
        return (
            f"The records of this run up to step {run.resumed_from} are missing here: there was no file {path} when "
            f"the run was resumed."
        )
    return ""
