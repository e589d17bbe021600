"""HDF5Sink: every measurement of a run in one file, readable while training writes and after a kill.

.. code-block:: text

    run.h5                          HDF5 1.10 format, SWMR (single writer, multiple readers) while training runs
    /                               Conventions, title, schema_name="torch-probes", schema_version, run_id, created,
                                    git_commit, git_dirty, seed, rank, world_size, config_json, versions_json
    /sessions/                      one row for each start or resume
        step, wall_time             where and when it started
        git_commit, git_dirty, host
    /events/                        one row for each event of the run
        step, wall_time
        kind, plugin, message       UTF-8 of at most 16, 64 and 1024 bytes
    /<stream>/                      one group for each stream, e.g. /fourier/amplitude/train
        value (step, dim1, ...)     units, long_name, estimator, num_samples, probe, probe_version, dtype
        standard_error (as value)   where the estimate has one
        wall_time (step)            seconds since 1970
        step (step)                 dimension scale, written last: a row that has a step is whole
        <dim1> ...                  fixed dimension scales with units

The attributes of ``value`` are those of its first measurement. Complex values have a last dimension ``part`` (real,
imag) and the attribute ``complex``; booleans are 0 and 1; ``dtype`` says what was measured. Scalars are stored with 64
bits; arrays with the precision of the first measurement, to which later ones are rounded.

Rows are in the order in which they came; a step that comes twice is there twice. Plain readers (xarray with
``engine="h5netcdf"`` or ``"netcdf4"``) open the file once the run has ended; :func:`probes.open_run` opens it at any
time. After a kill, :func:`probes.sinks.hdf5.repair.repair` makes it open to plain readers.

What is flushed survives the death of the process, not a power failure: there is no fsync.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock

from ...hookspecs import hookimpl
from ...measurement import Measurement
from ...run import Event, Run
from ..log_dir import LogDirTaken
from .repair import exclusive, mend
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
    describe,
    event_rows,
    hold_metadata,
    make_room,
    release,
    reserve,
    same_file,
)
from .streams import create_stream, first_of, misfit, rows_of
from .table import Table, cut_after, tables

__all__ = ["HDF5Sink", "holds_run"]

MAX_ROWS, MAX_BYTES = 64, 4 * 2**20
"""How much waits in memory before it is written without being asked."""
SAFE_COPY = 256 * 2**20
"""Size in bytes up to which groups are added to a copy of the file, so that a kill meanwhile damages nothing."""
CHUNKS = 48 * 1024
"""Bytes by which the chunks of a stream may grow beyond its rows."""

log = logging.getLogger("probes")


class Locked(LogDirTaken, RuntimeError):
    """Another process is writing into the log directory."""


class OfAnotherRun(LogDirTaken, FileExistsError):
    """The log directory holds the file of another run."""


def holds_run(log_dir: str | Path) -> str | None:
    """What the run file in a log directory holds, in words; None when there is none.

    Example:
        >>> holds_run("no/such/directory") is None
        True
    """
    path = Path(log_dir) / "run.h5"
    return describe(path) if path.exists() else None


class HDF5Sink:
    """Writes the measurements and events of a run to ``run.h5`` in its log directory.

    The file appears with the first flush. Rows wait in memory until then, at most 64 of a stream or 4 MiB. Cost: about
    0.3 ms for each stream and flush, whatever the number of rows.

    A failure to write ends the sink, never the training: it is raised once, what was flushed before stays readable and
    says in its events that rows are missing, and :meth:`on_detach` says how many. An interrupt may come at any point:
    what was being written is written whole, once. A file that was deleted meanwhile is written again with all that it
    held; one that was put in its place is left alone, and the run goes on in ``run_2.h5``.

    Args:
        path: The file; by default ``run.h5`` in the run's log directory.
    """

    name = "hdf5"

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock: FileLock | None = None
        self._file: Any = None
        self._descriptor = -1
        self._moved: Path | None = None
        self._written: tuple[Path, str] | None = None
        self._reset(0)

    def _reset(self, start: int) -> None:
        self._start, self._since, self._begun = start, time.time(), False
        self._tables: dict[str, Table] = {}
        self._appending: tuple[str, int, int] | None = None
        """The table to which rows are being added just now, how many it had and how many are added."""
        self._first: dict[str, Measurement] = {}
        self._waiting: dict[str, list[Measurement]] = {}
        self._events: list[Event] = []
        self._bytes = 0
        self._failure = ""
        self._misfits: dict[str, str] = {}
        self._lost = 0

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Take the directory for this process and check that the file is ours to write.

        Raises:
            RuntimeError: If another process is writing it.
            FileExistsError: If it is of another run, or of this one but not resumed.
        """
        self._reset(run.step)
        if self._written is None or self._written[1] != run.run_id:
            self._moved = None
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._lock is None:
                self._lock = exclusive(path)
            self._check_owner(run)
        except BaseException as error:
            self._unlock()
            if self.path is None and isinstance(error, RuntimeError):
                raise Locked(str(error)) from None
            if self.path is None and isinstance(error, FileExistsError):
                raise OfAnotherRun(str(error)) from None
            raise

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take measurements; writes when many are waiting."""
        if self._failure:
            self._lost += len(measurements)
            return
        many = False
        for measurement in measurements:
            waiting = self._waiting.setdefault(measurement.name, [])
            waiting.append(measurement)
            self._bytes += 2 * measurement.value.nbytes + 16
            many = many or len(waiting) >= MAX_ROWS
        if many or self._bytes >= MAX_BYTES:
            self.flush(run)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        """Take an event."""
        if not self._failure:
            self._events.append(event)

    @hookimpl
    def flush(self, run: Run) -> None:
        """Write what waits, so that it survives a kill of the process.

        Raises:
            OSError: If it cannot be written; the sink then writes nothing more.
            ValueError: If measurements do not fit their stream, once for each stream; the others are written.
        """
        # A resumed run that measures nothing still has to cut what the abandoned one had recorded.
        attached = self._lock is not None and run.resumed_from is not None
        to_cut = attached and not self._begun and self._path(run).exists()
        if self._failure or not (self._waiting or self._events or to_cut):
            return
        told = set(self._misfits)
        try:
            self._write_waiting(run)
        except Exception as error:
            self._fail(run, error)
            raise OSError(f"Nothing more is written to {self._path(run)}: {self._failure}") from error
        except BaseException:  # an interrupt: the rows that were being written are not to be half there
            with suppress(Exception):
                self._finish_append()
            raise
        if new := {name: why for name, why in self._misfits.items() if name not in told}:
            raise ValueError(
                f"Measurements that do not fit their stream are not written to {self._path(run)}: "
                + "; ".join(f"{name!r}: {why}" for name, why in new.items())
                + ". Give each shape, unit or set of coordinates a name of its own."
            )

    @hookimpl
    def state_dict(self) -> dict[str, Any]:
        """Nothing: the file is flushed before a checkpoint, and cut to it after a resume."""
        return {}

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Write what waits and close the file.

        Raises:
            OSError: If measurements could not be written; says how many and why.
        """
        lost, message = 0, ""
        try:
            self.flush(run)
        finally:
            try:
                self._close()
                lost, self._lost = self._lost, 0
                if lost:
                    misfits = [f"{name!r}: {why}" for name, why in self._misfits.items()]
                    why = "; ".join(filter(None, [self._failure, *misfits]))
                    message = f"{lost} measurements are not in {self._path(run)}, because: {why}."
                    self._last_word(run, message)
            finally:
                self._unlock()
        if lost:
            raise OSError(message)

    @hookimpl
    def on_fork(self) -> None:
        """In a forked child: let what HDF5 writes when the child ends go nowhere, and leave the lock to the parent."""
        if self._file is not None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)
        # Older versions of filelock unlock for the parent too; later ones have closed it in the child.
        held: Any = getattr(self._lock, "_context", None)
        if getattr(held, "lock_file_fd", None) is not None:
            os.close(held.lock_file_fd)
            held.lock_file_fd = None

    def _path(self, run: Run) -> Path:
        if self._moved is not None:
            return self._moved
        return self.path if self.path is not None else Path(run.log_dir) / "run.h5"

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _fail(self, run: Run, error: Exception) -> None:
        """Write no more, ever: HDF5 would report success and leave rows of zeros."""
        self._failure = " ".join(str(error).split())[:300]
        self._lost += sum(map(len, self._waiting.values()))
        self._waiting, self._events, self._appending = {}, [], None
        if self._file and not isinstance(error, NoRoomError):
            abandon(self._file)
            self._file = None
        with suppress(Exception):
            self._close()
        if self._lock is not None:  # otherwise it may be the copy of another process
            self._path(run).with_suffix(".new").unlink(missing_ok=True)
        self._last_word(run, f"Nothing more is written here from step {run.step} on: {self._failure}")

    def _last_word(self, run: Run, message: str) -> None:
        """Add to a file that is closed an event that says what is missing; on a copy, so as to damage nothing."""
        path = self._path(run)
        with suppress(Exception):
            if self._lock is None or not self._begun or path.stat().st_size > SAFE_COPY:
                return
            copy = path.with_suffix(".new")
            try:
                shutil.copyfile(path, copy)
                make_room(copy, 2 * CHUNKS)
                mend(copy)
                with changing(copy, "r+") as file:
                    Table(file["events"]).append(event_rows([_event(run, message)]))
                os.replace(copy, path)
            finally:
                copy.unlink(missing_ok=True)

    def _check_owner(self, run: Run) -> None:
        path = self._path(run)
        # One sink may be attached again to the run it has written so far.
        if path.exists() and self._written != (path, run.run_id):
            check_owner(path, run)

    def _write_waiting(self, run: Run) -> None:
        self._finish_append()
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._file and not same_file(path, self._descriptor):
            self._bring_back(run, path)
            path = self._path(run)
        if self._lock is None:
            self._lock = exclusive(path)
        new = [
            items[0] for name, items in self._waiting.items() if name not in self._first and name not in self._misfits
        ]
        if not self._file or not self._tables or new:
            self._open(run, path, new)
        reserve(path, self._file, self._bytes + 1200 * len(self._events) + CHUNKS * (1 + len(self._waiting)))
        if self._events:
            self._append("events", event_rows(self._events))
        for name in list(self._waiting):
            rows = [measurement for measurement in self._waiting[name] if self._fits(measurement)]
            self._lost += len(self._waiting[name]) - len(rows)
            self._waiting[name] = rows
            if rows:
                self._append(name, rows_of(rows))
            self._waiting.pop(name, None)
        self._bytes = 0
        release(self._file)

    def _append(self, name: str, block: Mapping[str, Any]) -> None:
        """Add rows to a table, and take them from what waits; after an interrupt :meth:`_finish_append` goes on."""
        check_metadata(self._file)
        table = self._table(name)
        self._appending = (name, table.rows, len(block["step"]))
        table.append(block)
        self._finish_append()

    def _finish_append(self) -> None:
        if self._appending is None:
            return
        name, before, count = self._appending
        table, waiting = self._table(name), self._events if name == "events" else self._waiting.get(name, [])
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
            path = next(other for count in range(2, 1000)
                        if not (other := path.with_name(f"{path.stem}_{count}{path.suffix}")).exists())  # fmt: skip
            message = f"{taken} was replaced by another file, which is left as it is; this run goes on in {path}."
        else:
            message = f"{path} was deleted while the run wrote it; it is written again, with what it held."
        self._file.flush()
        reserve(path, None, os.fstat(self._descriptor).st_size)
        if there is False or not path.with_suffix(".lock").exists():
            lock = exclusive(path)
            self._unlock()
            self._lock = lock
        target = path.with_suffix(".new")
        copy_open_file(self._descriptor, target)
        self._close()
        os.replace(target, path)
        self._moved = path if there is False else self._moved
        log.warning(message)
        self._events.append(_event(run, message))

    def _fits(self, measurement: Measurement) -> bool:
        name = measurement.name
        if name not in self._first:
            return False
        why = misfit(None, measurement, self._first[name])
        if why:
            self._misfits.setdefault(name, why)
        return not why

    def _open(self, run: Run, path: Path, new: list[Measurement]) -> None:
        """Open the file in SWMR mode, with a table for each new stream; on the first time with a new session."""
        self._close()
        size = path.stat().st_size if path.exists() else 0
        reserve(path, None, size if size <= SAFE_COPY else 0)
        # Groups cannot be added in SWMR mode, and outside it a kill can damage the file: do it to a copy.
        target = path.with_suffix(".new") if size <= SAFE_COPY else path
        if target != path:
            target.unlink(missing_ok=True)
        if size and target != path:
            shutil.copyfile(path, target)
        make_room(target, 4 * CHUNKS + sum(CHUNKS // 3 + 2 * _size_of_axes(measurement) for measurement in new))
        if size:
            if not self._begun:
                self._check_owner(run)
            mend(target)
        first = dict(self._first)
        with changing(target, "r+" if size else "w") as file:
            if not size:
                create_head(file, run)
                self._say_what_is_missing(run, path)
            if not self._begun:
                first.update(self._begin(file, run))
            for measurement in new:
                if why := misfit(file, measurement, first.get(measurement.name)):
                    self._misfits[measurement.name] = why
                elif measurement.name not in first:
                    create_stream(file, measurement)
                    first[measurement.name] = measurement
        try:
            if target != path:
                os.replace(target, path)
        finally:  # an interrupt may come as soon as the file is in its place
            if target == path or not target.exists():
                self._begun, self._written, self._first = True, (path, run.run_id), first
        self._file = h5py.File(path, "r+", **FORMAT)
        self._descriptor = self._file.id.get_vfd_handle()
        hold_metadata(self._file)
        self._file.swmr_mode = True
        self._tables = {"events": Table(self._file["events"])}

    def _table(self, name: str) -> Table:
        """Of the open file; opened when it is first written, for that costs more than a row."""
        if name not in self._tables:
            self._tables[name] = Table(self._file[name])
        return self._tables[name]

    def _say_what_is_missing(self, run: Run, path: Path) -> None:
        if self._begun:
            message = (
                f"{path} was deleted while it was closed: what was recorded before step {run.step} is missing here."
            )
        elif run.resumed_from is not None and run.resumed_from >= 0:
            message = (
                f"The records of this run up to step {run.resumed_from} are missing here: there was no file {path} "
                f"when the run was resumed."
            )
        else:
            return
        log.warning(message)
        self._events.append(_event(run, message))

    def _begin(self, file: Any, run: Run) -> dict[str, Measurement]:
        """Take over what an earlier session has written, cut to where this one starts."""
        first = {}
        for table in tables(file):
            name = table.name.strip("/")
            if name != "sessions" and run.resumed_from is not None:
                cut_after(table, run.resumed_from)
            if name not in ("sessions", "events"):
                first[name] = first_of(table)
        add_session(file, self._start, self._since)
        return first

    def _close(self) -> None:
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


def _size_of_axes(measurement: Measurement) -> int:
    return sum(axis.values.nbytes for axis in measurement.coords.values())


def _event(run: Run, message: str) -> Event:
    return Event("warning", "'hdf5'", message, run.step, time.time())
