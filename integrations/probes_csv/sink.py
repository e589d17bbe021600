"""CSVSink: a table of each stream, in rows that any program can read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes import Measurement, Run, hookimpl
from probes.names import as_file

__all__ = ["CSVSink"]


class CSVSink:
    """Writes each stream to a file ``csv/<name>.csv`` in the run's ``log_dir``, one row for each entry of its value.

    The columns are ``step``, ``wall_time`` (seconds since 1970), the coordinates by dimension, ``value`` and
    ``standard_error``; of a complex one ``value_real`` and ``value_imag``, and so its error. Numbers are written so
    that reading them gives the same ones. Units and descriptions are in ``run.h5`` only. A name that is too long for
    a file ends in a mark. A resumed run cuts what comes after its checkpoint.

    Raises:
        OSError: From its hooks, when a file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from probes import Measurement, Probe, ProbeManager, every
        >>> class Norm(Probe):
        ...     def measure(self, run, step):
        ...         yield Measurement("norm", run.model.weight.norm(), unit="1")
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> folder = tempfile.TemporaryDirectory()
        >>> with ProbeManager(model, [Norm(every(1))], sinks=["csv"], log_dir=folder.name).attach(optimizer):
        ...     model(torch.ones(3, 2)).sum().backward()
        ...     optimizer.step()
        >>> (Path(folder.name) / "csv" / "norm.csv").read_text().splitlines()[0]
        'step,wall_time,value'
        >>> folder.cleanup()
    """

    name = "csv"

    def __init__(self) -> None:
        self._cut: set[Path] = set()
        self._waiting: dict[str, list[Measurement]] = {}

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Keep of the files there are what the run goes on from.

        Raises:
            FileExistsError: If they are of another run.
        """
        folder = run.log_dir / "csv"
        owner = folder / "run_id"
        held = owner.read_text().strip() if owner.exists() else run.run_id
        if held != run.run_id:
            raise FileExistsError(f"{folder} holds the files of another run, {held}. Pass another log_dir.")
        folder.mkdir(parents=True, exist_ok=True)
        owner.write_text(run.run_id + "\n")
        for path in folder.rglob("*.csv"):
            _cut(path, -1 if run.resumed_from is None else run.resumed_from)

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take measurements; they are written when the run flushes."""
        for item in measurements:
            self._waiting.setdefault(item.name, []).append(item)

    @hookimpl
    def flush(self, run: Run) -> None:
        """Append what waits, a whole stream at a time."""
        for name in list(self._waiting):
            items = self._waiting.pop(name)
            path = run.log_dir / "csv" / as_file(name, ".csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                if not file.tell():
                    rows.writerow(_header(items[0]))
                for item in items:
                    rows.writerows(_rows(item))

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Append what waits."""
        self.flush(run)


def _header(item: Measurement) -> list[str]:
    numbers = {"value": item.value, "standard_error": item.standard_error}
    columns = (_parts(name, array) for name, array in numbers.items() if array is not None)
    return ["step", "wall_time", *item.dims, *chain.from_iterable(columns)]


def _parts(name: str, array: NDArray[Any]) -> list[str]:
    return [f"{name}_real", f"{name}_imag"] if array.dtype.kind == "c" else [name]


def _rows(item: Measurement) -> Iterator[list[object]]:
    for index in np.ndindex(item.value.shape):
        numbers = [array[index].item() for array in (item.value, item.standard_error) if array is not None]
        parts = ([number.real, number.imag] if isinstance(number, complex) else [number] for number in numbers)
        places = (item.coords[dim].values[at].item() for dim, at in zip(item.dims, index, strict=True))
        yield [item.step, item.wall_time, *places, *chain.from_iterable(parts)]


def _cut(path: Path, step: int) -> None:
    """Keep the rows up to a step; also the rest of a row, which a killed process left, goes."""
    with path.open(newline="", encoding="utf-8") as file:
        whole = (line for line in file if line.endswith("\n"))
        rows = csv.reader(whole)
        header = next(rows, None)
        kept = [row for row in rows if len(row) == len(header or ()) and int(row[0]) <= step]
    _replace(path, [header, *kept] if header and kept else [])


def _replace(path: Path, rows: Iterable[list[str]]) -> None:
    other = path.with_suffix(".tmp")
    with other.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    os.replace(other, path)
