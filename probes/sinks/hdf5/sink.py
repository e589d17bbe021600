"""HDF5Sink: every measurement of a run in one file, readable while training writes and after a kill.

.. code-block:: text

    run.h5                          HDF5 1.10 format, SWMR (single writer, multiple readers) while training runs
    /                               Conventions, title, schema_name="torch-probes", schema_version, run_id, created,
                                    git_commit, git_dirty, seed, rank, world_size, config_json, modules_json,
                                    versions_json
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

from contextlib import suppress
from pathlib import Path
from typing import Any

from ...hookspecs import hookimpl
from ...measurement import Measurement
from ...run import Event, Run
from ..log_dir import LogDirTaken
from .run_file import describe
from .writer import RunFileWriter

__all__ = ["HDF5Sink", "holds_run"]

MAX_ROWS, MAX_BYTES = 64, 4 * 2**20
"""How much waits in memory before it is written without being asked."""


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
    says in its events that rows are missing, and ``on_detach`` says how many. How the file is written:
    ``probes.sinks.hdf5.writer.RunFileWriter``.

    Args:
        path: The file; by default ``run.h5`` in the run's log directory.
    """

    name = "hdf5"

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._writer = RunFileWriter(self.path)
        self._failure = ""

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Take the directory for this process and check that the file is ours to write.

        Raises:
            RuntimeError: If another process is writing it.
            FileExistsError: If it is of another run, or of this one but not resumed.
        """
        self._failure = ""
        try:
            self._writer.attach(run)
        except RuntimeError as error:
            if self.path is None:
                raise Locked(str(error)) from None
            raise
        except FileExistsError as error:
            if self.path is None:
                raise OfAnotherRun(str(error)) from None
            raise

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take measurements; writes when many are waiting."""
        if self._failure:
            self._writer.lost += len(measurements)
            return
        most = max(map(self._writer.take, measurements), default=0)
        if most >= MAX_ROWS or self._writer.bytes >= MAX_BYTES:
            self.flush(run)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        """Take an event."""
        if not self._failure:
            self._writer.events.append(event)

    @hookimpl
    def flush(self, run: Run) -> None:
        """Write what waits, so that it survives a kill of the process.

        Raises:
            OSError: If it cannot be written; the sink then writes nothing more.
            ValueError: If measurements do not fit their stream, once for each stream; the others are written.
        """
        writer = self._writer
        if self._failure or not (writer.waiting or writer.events or writer.is_to_cut(run)):
            return
        told = set(writer.misfits)
        try:
            writer.write(run)
        except Exception as error:
            self._failure = " ".join(str(error).split())[:300]
            writer.give_up(run, error)
            writer.last_word(run, f"Nothing more is written here from step {run.step} on: {self._failure}")
            raise OSError(f"Nothing more is written to {writer.path(run)}: {self._failure}") from error
        except BaseException:  # an interrupt: the rows that were being written are not to be half there
            with suppress(Exception):
                writer.finish_append()
            raise
        if new := {name: why for name, why in writer.misfits.items() if name not in told}:
            raise ValueError(
                f"Measurements that do not fit their stream are not written to {writer.path(run)}: "
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
        lost, message, writer = 0, "", self._writer
        try:
            self.flush(run)
        finally:
            try:
                writer.close()
                lost, writer.lost = writer.lost, 0
                if lost:
                    misfits = [f"{name!r}: {why}" for name, why in writer.misfits.items()]
                    why = "; ".join(filter(None, [self._failure, *misfits]))
                    message = f"{lost} measurements are not in {writer.path(run)}, because: {why}."
                    writer.last_word(run, message)
            finally:
                writer.unlock()
        if lost:
            raise OSError(message)

    @hookimpl
    def on_fork(self) -> None:
        """In a forked child: write nothing, and leave the lock to the parent."""
        self._writer.forked()
