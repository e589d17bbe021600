"""Writing ``run.h5``: rows are appended in SWMR mode, groups are added to a copy of the file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from ...measurement import Measurement
from ...run import Event, Run, log
from .repair import add_event, exclusive, let_go, mend
from .run_file import (
    FORMAT,
    NoRoomError,
    abandon,
    add_session,
    changing,
    check_metadata,
    check_owner,
    copy_open_file,
    create_head,
    event_rows,
    hold_metadata,
    make_room,
    release,
    reserve,
    same_file,
    what_is_missing,
)
from .streams import create_stream, misfit, rows_of, take_over
from .table import Table

__all__ = ["RunFileWriter"]

SAFE_COPY = 256 * 2**20
"""Size in bytes up to which groups are added to a copy of the file, so that a kill meanwhile damages nothing."""
CHUNKS = 48 * 1024
"""Bytes by which the chunks of a stream may grow beyond its rows."""


class RunFileWriter:
    """Writes rows and events of one run to one file, for one process at a time.

    After an interrupt, what was being written is written whole, once. A file that was deleted meanwhile is written
    again with all that it held; one put in its place is left alone, and the run goes on in ``run_2.h5``.

    Args:
        path: The file; by default ``run.h5`` in the run's log directory.
    """

    def __init__(self, path: Path | None) -> None:
        self._given = path
        self._lock: Any = None
        self._file: Any = None
        self._descriptor, self._size = -1, 0
        self._moved: Path | None = None
        self._written: tuple[Path, str] | None = None
        self._reset(0)

    def _reset(self, start: int) -> None:
        self._start, self._since, self._begun = start, time.time(), False
        self._tables: dict[str, Table] = {}
        self._appending: tuple[str, int, int] | None = None
        """The table to which rows are being added, how many it had and how many are added."""
        self._first: dict[str, Measurement] = {}
        self.waiting: dict[str, list[Measurement]] = {}
        """Rows by stream, in memory."""
        self.events, self.bytes, self.lost = list[Event](), 0, 0
        """Events that wait, what the rows take in memory, and how many are not written."""
        self.misfits: dict[str, str] = {}
        """Why rows of a stream are not written."""

    def attach(self, run: Run) -> None:
        """Take the file for this process, and check that it is ours to write.

        Raises:
            RuntimeError: If another process is writing it.
            FileExistsError: If it is of another run, or of this one but not resumed.
        """
        self._reset(run.step)
        if self._written is None or self._written[1] != run.run_id:
            self._moved = None
        path = self.path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._lock is None:
                self._lock = exclusive(path)
            self._check_owner(run)
        except BaseException:
            self.unlock()
            raise

    def path(self, run: Run) -> Path:
        """Where it writes."""
        return self._moved or self._given or Path(run.log_dir) / "run.h5"

    def is_to_cut(self, run: Run) -> bool:
        """Whether a resumed run has yet to cut what the abandoned one had recorded, also if it measures nothing."""
        attached = self._lock is not None and run.resumed_from is not None
        return attached and not self._begun and self.path(run).exists()

    def take(self, measurement: Measurement) -> int:
        """Keep a row in memory; how many of its stream wait there."""
        waiting = self.waiting.setdefault(measurement.name, [])
        waiting.append(measurement)
        self.bytes += 2 * measurement.value.nbytes + 16
        return len(waiting)

    def write(self, run: Run) -> None:
        """Write what waits, so that it survives a kill of the process."""
        self.finish_append()
        path = self.path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._file and os.fstat(self._descriptor).st_size < self._size:
            # HDF5 would look for what it has written, some of it for ever.
            raise RuntimeError("it was cut to a part of what it held while the run wrote it")
        if self._file and not same_file(path, self._descriptor):
            self._bring_back(run, path)
            path = self.path(run)
        if self._lock is None:
            self._lock = exclusive(path)
        new = [items[0] for name, items in self.waiting.items() if name not in self._first and name not in self.misfits]
        if not self._file or not self._tables or new:
            self._open(run, path, new)
        reserve(path, self._file, self.bytes + 1200 * len(self.events) + CHUNKS * (1 + len(self.waiting)))
        if self.events:
            self._append("events", event_rows(self.events))
        for name in list(self.waiting):
            first, rows = self._first.get(name), list[Measurement]()
            for measurement in self.waiting[name] if first is not None else ():
                if why := misfit(None, measurement, first):
                    self.misfits.setdefault(name, why)
                else:
                    rows.append(measurement)
            self.lost += len(self.waiting[name]) - len(rows)
            self.waiting[name] = rows
            if rows:
                self._append(name, rows_of(rows))
            self.waiting.pop(name, None)
        self.bytes = 0
        release(self._file)
        self._size = os.fstat(self._descriptor).st_size

    def _append(self, name: str, block: Mapping[str, Any]) -> None:
        """Add rows to a table, and take them from what waits; after an interrupt :meth:`finish_append` goes on."""
        check_metadata(self._file)
        table = self._table(name)
        self._appending = (name, table.rows, len(block["step"]))
        table.append(block)
        self.finish_append()

    def finish_append(self) -> None:
        """Write whole what an interrupt has left half written."""
        if self._appending is None:
            return
        name, before, count = self._appending
        table, waiting = self._table(name), self.events if name == "events" else self.waiting.get(name, [])
        if table.rows == before:  # interrupted on the way: the same rows to the same place
            rows: Any = waiting[:count]
            table.append(event_rows(rows) if name == "events" else rows_of(rows))
        # In one line, between whose parts there is no interrupt.
        del waiting[:count]; self._appending = None  # noqa: E702  # fmt: skip

    def _bring_back(self, run: Run, path: Path) -> None:
        """The file was deleted, or replaced by another, while it was open: what it held is still in our hands."""
        there = same_file(path, self._descriptor)
        if there is False:
            taken = path
            path = next(
                other
                for count in range(2, 1000)
                if not (other := path.with_name(f"{path.stem}_{count}{path.suffix}")).exists()
            )
            message = f"{taken} was replaced by another file, which is left as it is; this run goes on in {path}."
        else:
            message = f"{path} was deleted while the run wrote it; it is written again, with what it held."
        self._file.flush()
        reserve(path, None, os.fstat(self._descriptor).st_size)
        if there is False or not path.with_suffix(".lock").exists():
            lock = exclusive(path)
            self.unlock()
            self._lock = lock
        target = path.with_suffix(".new")
        copy_open_file(self._descriptor, target)
        self.close()
        os.replace(target, path)
        self._moved = path if there is False else self._moved
        log.warning(message)
        self.events.append(_event(run, message))

    def _open(self, run: Run, path: Path, new: list[Measurement]) -> None:
        """Open the file in SWMR mode, with a table for each new stream; on the first time with a new session."""
        self.close()
        size = path.stat().st_size if path.exists() else 0
        reserve(path, None, size if size <= SAFE_COPY else 0)
        # Groups cannot be added in SWMR mode, and outside it a kill can damage the file: do it to a copy.
        target = path.with_suffix(".new") if size <= SAFE_COPY else path
        if target != path:
            target.unlink(missing_ok=True)
        if size and target != path:
            shutil.copyfile(path, target)
        axes = sum(axis.values.nbytes for measurement in new for axis in measurement.coords.values())
        make_room(target, 4 * CHUNKS + len(new) * (CHUNKS // 3) + 2 * axes)
        if size:
            if not self._begun:
                self._check_owner(run)
            mend(target)
        first = dict(self._first)
        with changing(target, "r+" if size else "w") as file:
            if not size:
                create_head(file, run)
                if message := what_is_missing(run, path, self._begun):
                    log.warning(message)
                    self.events.append(_event(run, message))
            if not self._begun:
                first.update(take_over(file, run.resumed_from))
                add_session(file, self._start, self._since)
            for measurement in new:
                known = first.get(measurement.name)
                if why := misfit(file, measurement, known) or (known is None and create_stream(file, measurement)):
                    self.misfits[measurement.name] = why
                else:
                    first.setdefault(measurement.name, measurement)
        try:
            if target != path:
                os.replace(target, path)
        finally:  # an interrupt may come as soon as the file is in its place
            if target == path or not target.exists():
                self._begun, self._written, self._first = True, (path, run.run_id), first
        self._file = h5py.File(path, "r+", **FORMAT)
        self._descriptor = self._file.id.get_vfd_handle()
        self._size = 0
        hold_metadata(self._file)
        self._file.swmr_mode = True
        self._tables = {"events": Table(self._file["events"])}

    def _table(self, name: str) -> Table:
        """Of the open file; opened when it is first written, for that costs more than a row."""
        if name not in self._tables:
            self._tables[name] = Table(self._file[name])
        return self._tables[name]

    def _check_owner(self, run: Run) -> None:
        path = self.path(run)
        # One sink may be attached again to the run it has written so far.
        if path.exists() and self._written != (path, run.run_id):
            check_owner(path, run)

    def give_up(self, run: Run, error: Exception) -> None:
        """Write no more of what waits: HDF5 would report success and leave rows of zeros."""
        self.lost += sum(map(len, self.waiting.values()))
        self.waiting, self.events, self._appending = {}, [], None
        if self._file and not isinstance(error, NoRoomError):
            abandon(self._file)
            self._file = None
        with suppress(Exception):
            self.close()
        if self._lock is not None:  # otherwise it may be the copy of another process
            self.path(run).with_suffix(".new").unlink(missing_ok=True)

    def last_word(self, run: Run, message: str) -> None:
        """Add to a file that is closed an event that says what is missing."""
        path = self.path(run)
        with suppress(Exception):
            if self._lock is not None and self._begun and path.stat().st_size <= SAFE_COPY:
                add_event(path, _event(run, message), 2 * CHUNKS)

    def close(self) -> None:
        """Close the file."""
        if not self._file:
            self._file, self._tables = None, {}
            return
        try:
            self._file.flush()
        except Exception:
            abandon(self._file)
            self._file, self._tables = None, {}
            raise
        self._file.close()
        self._file, self._tables = None, {}

    def unlock(self) -> None:
        """Let other processes write it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def forked(self) -> None:
        """In a forked child: let what HDF5 writes when the child ends go nowhere, and leave the lock to the parent."""
        let_go(self._descriptor if self._file is not None else None, self._lock)


def _event(run: Run, message: str) -> Event:
    return Event("warning", "'hdf5'", message, run.step, time.time())
