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
time. After a kill, :func:`probes.sinks.repair.repair` makes it open to plain readers.

What is flushed survives the death of the process, not a power failure: there is no fsync.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock

from ..hookspecs import hookimpl
from ..measurement import Measurement
from ..run import Event, Run
from .repair import exclusive, mend
from .run_file import (
    FORMAT,
    NoRoomError,
    abandon,
    add_session,
    changing,
    check_owner,
    create_head,
    describe,
    event_rows,
    release,
    reserve,
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

    A failure to write ends the sink, never the training: it is raised once, what was flushed before stays readable, and
    :meth:`on_detach` says how much was not written.

    Args:
        path: The file; by default ``run.h5`` in the run's log directory.
    """

    name = "hdf5"

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock: FileLock | None = None
        self._file: Any = None
        self._written: tuple[Path, str] | None = None
        self._reset(0)

    def _reset(self, start: int) -> None:
        self._start, self._begun = start, False
        self._tables: dict[str, Table] = {}
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
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = exclusive(path)
        try:
            self._check_owner(run)
        except BaseException:
            self._lock.release()
            self._lock = None
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
        to_cut = run.resumed_from is not None and not self._begun and self._path(run).exists()
        if self._failure or not (self._waiting or self._events or to_cut):
            return
        told = set(self._misfits)
        try:
            self._write_waiting(run)
        except Exception as error:
            # Never tried again: HDF5 would report success and leave rows of zeros.
            self._failure = " ".join(str(error).split())[:300]
            self._lost += sum(map(len, self._waiting.values()))
            self._waiting, self._events = {}, []
            if self._file is not None and not isinstance(error, NoRoomError):
                abandon(self._file)
                self._file = None
            with suppress(Exception):
                self._close()
            if self._lock is not None:  # otherwise it may be the copy of another process
                self._path(run).with_suffix(".new").unlink(missing_ok=True)
            raise OSError(f"Nothing more is written to {self._path(run)}: {self._failure}") from error
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
        try:
            self.flush(run)
        finally:
            self._close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None
            lost, self._lost = self._lost, 0
        if lost:
            misfits = [f"{name!r}: {why}" for name, why in self._misfits.items()]
            why = "; ".join(filter(None, [self._failure, *misfits]))
            raise OSError(f"{lost} measurements are not in {self._path(run)}, because: {why}.")

    def _path(self, run: Run) -> Path:
        return self.path if self.path is not None else Path(run.log_dir) / "run.h5"

    def _check_owner(self, run: Run) -> None:
        path = self._path(run)
        # One sink may be attached again to the run it has written so far.
        if path.exists() and self._written != (path, run.run_id):
            check_owner(path, run)

    def _write_waiting(self, run: Run) -> None:
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = exclusive(path)
        new = [
            items[0] for name, items in self._waiting.items() if name not in self._tables and name not in self._misfits
        ]
        if self._file is None or new:
            self._open(run, path, new)
        reserve(path, self._file, self._bytes + 1200 * len(self._events) + CHUNKS * (1 + len(self._waiting)))
        if self._events:
            self._tables["events"].append(event_rows(self._events))
            self._events = []
        for name in list(self._waiting):
            rows = [measurement for measurement in self._waiting[name] if self._fits(measurement)]
            if rows:
                self._tables[name].append(rows_of(rows))
            self._lost += len(self._waiting.pop(name)) - len(rows)
        self._bytes = 0
        release(self._file)

    def _fits(self, measurement: Measurement) -> bool:
        name = measurement.name
        if name not in self._tables:
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
        if size and target != path:
            shutil.copyfile(path, target)
        if size and not self._begun:
            self._check_owner(run)
            mend(target)
        with changing(target, "r+" if size else "w") as file:
            if not size:
                create_head(file, run)
            if not self._begun:
                self._begin(file, run)
            for measurement in new:
                if why := misfit(file, measurement, self._first.get(measurement.name)):
                    self._misfits[measurement.name] = why
                elif measurement.name not in self._first:
                    create_stream(file, measurement)
                    self._first[measurement.name] = measurement
        if target != path:
            os.replace(target, path)
        self._begun, self._written = True, (path, run.run_id)
        self._file = h5py.File(path, "r+", **FORMAT)
        self._file.swmr_mode = True
        self._tables = {name: Table(self._file[name]) for name in ("events", *self._first)}

    def _begin(self, file: Any, run: Run) -> None:
        """Take over what an earlier session has written, cut to where this one starts."""
        start = max(self._start, run.resumed_from or 0)
        for table in tables(file):
            name = table.name.strip("/")
            if name != "sessions" and run.resumed_from is not None:
                cut_after(table, start)
            if name not in ("sessions", "events"):
                self._first[name] = first_of(table)
        add_session(file, start)

    def _close(self) -> None:
        if self._file is None:
            return
        file, self._file, self._tables = self._file, None, {}
        try:
            file.flush()
        except Exception:
            abandon(file)
            raise
        file.close()
