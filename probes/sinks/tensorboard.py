"""TensorBoardSink: the viewing copy of the results; HDF5 is the complete one.

=========================================  ==========================================================================
a measurement with                         is shown as
=========================================  ==========================================================================
no dimension                               a scalar
one numeric dimension                      a histogram whose bars are the values over their coordinates (a spectrum
                                           becomes a ridgeline over the steps), and as scalars if it has at most 12;
                                           and a picture of all steps so far, ``<name>/over_training``, after 32, 64,
                                           128, ... steps measured and at the end (with the extra ``analysis``)
one dimension of names (layers)            a scalar for each of the first 64 names
dimensions ``("y", "x")``                  an image, from its least value (black) to its greatest (white)
dimensions of names and ``"plane"``        the picture of all steps so far
anything else, and complex values          nothing here
=========================================  ==========================================================================

The tab CUSTOM SCALARS has one chart for each stream, with all its layers, by family; the first record of each tag says
what it is, in which unit and how it was obtained. What probes say of themselves (``probes/...``) is in ``run.h5`` only.
Pictures are drawn while flushing, as far as the budget of the run allows, those first that are most out of date.
"""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hookspecs import hookimpl
from ..measurement import Measurement
from ..run import Event, Run
from .tensorboard_file import FILES, close, inode, named_after
from .tensorboard_layout import Charts, describe, escaped
from .views import bars, gray, scalars

__all__ = ["TensorBoardSink"]

MAX_HISTORY = 512
FIRST_PICTURE, PICTURE = 1.0, 0.2
"""What the first picture costs, with the libraries that are loaded for it, and the next; seconds, until it is known."""


class TensorBoardSink:
    """Writes TensorBoard event files into the run's ``log_dir``.

    The writer flushes whenever the run does. A resumed run hides what the files hold past the checkpoint's step, in
    both of TensorBoard's loaders. After a failure, or when its file was deleted, the sink goes on in a new file; what
    the old one lacks is in ``run.h5``.
    """

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._file: Path | None = None
        self._inode = 0
        self._last_step: int | None = None
        self._over = False
        self._in_doubt = False
        """Whether the last file could not be written."""
        self._reset()

    def _reset(self) -> None:
        self._history: dict[str, list[Measurement]] = {}
        self._drawn: dict[str, int] = {}
        """The last step in each picture."""
        self._to_draw: set[str] = set()
        self._picture_seconds = 0.0
        self._earlier: Any = None
        self._charts = Charts()
        self._described: set[tuple[str, str]] = set()
        """Tags of the present file whose first record says what they are, and for which dashboard."""

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Begin a new session."""
        self._last_step, self._over = None, False

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Add measurements to the event file.

        Raises:
            OSError: If that, or one of those before, cannot be written.
        """
        try:
            self._look_after_file()
            self._add(self._open(run), measurements)
            if self._in_doubt:  # else the thread's next failure would not be in a row with the last
                self._writer.flush()
                self._in_doubt = False
        except Exception:
            # Its thread has ended, most likely: the next write begins a new file.
            writer, self._writer, self._in_doubt = self._writer, None, True
            if writer is not None:
                with suppress(Exception):
                    close(writer)
            raise

    def _look_after_file(self) -> None:
        if self._file is not None and self._writer is not None and inode(self._file) != self._inode:
            name, self._file = self._file, None
            raise OSError(f"{name} was deleted while the run wrote it: what it held is in the other sinks only")

    def _add(self, writer: Any, measurements: list[Measurement]) -> None:
        from torch.utils import tensorboard

        kinds: Any = tensorboard.summary
        for item in measurements:
            if item.name.startswith("probes/"):
                continue  # what probes say of themselves: for analysis, not for looking at
            numbers = scalars(item)
            for tag, value in numbers:
                self._add_summary(kinds.scalar(tag, value), item, tag, "scalars")
            self._charts.add(item, [tag for tag, _ in numbers])
            if (histogram := bars(item)) is not None:
                raw = kinds.histogram_raw(item.name, **_summary(*histogram))
                self._add_summary(raw, item, item.name, "histograms")
            elif item.dims == ("y", "x") and item.value.dtype.kind in "fiu":
                writer.add_image(item.name, gray(item.value), item.step, walltime=item.wall_time, dataformats="HW")
            self._remember(item)
            self._last_step = item.step

    def _add_summary(self, summary: Any, item: Measurement, tag: str, plugin: str) -> None:
        if (tag, plugin) not in self._described:  # once in each file, with what it is
            self._described.add((tag, plugin))
            summary = describe(summary, item, plugin)
        self._writer.file_writer.add_summary(summary, item.step, walltime=item.wall_time)

    def _lay_out(self, end: bool = False) -> None:
        if self._writer is not None and (layout := self._charts.due(end)) is not None:
            self._writer.add_custom_scalars(layout)

    def _remember(self, item: Measurement) -> None:
        spectrum = len(item.dims) == 1 and item.coords[item.dims[0]].values.dtype.kind != "U"
        if not (spectrum or item.dims[1:] == ("plane",)) or not 2 < item.value.size <= 1024:
            return
        rows = self._history.setdefault(item.name, [])
        rows.append(item)
        if len(rows) >= 32 and len(rows) & (len(rows) - 1) == 0:
            self._to_draw.add(item.name)
        if len(rows) >= MAX_HISTORY:
            del rows[1::2]

    def _draw_affordable(self, run: Run) -> None:
        for name in sorted(self._to_draw, key=lambda name: (self._drawn.get(name, -1), name)):
            if not run.affords(self._picture_seconds or (PICTURE if "matplotlib" in sys.modules else FIRST_PICTURE)):
                return
            begun = time.perf_counter()
            self._to_draw.remove(name)
            rows = self._history[name]
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # matplotlib, of huge values
                    self._draw(run, rows)
            except ImportError:  # without the extra `analysis`
                self._to_draw.clear()
                return
            self._drawn[name] = rows[-1].step
            took = time.perf_counter() - begun
            self._picture_seconds = took if self._picture_seconds else min(took, PICTURE)

    def _draw(self, run: Run, rows: list[Measurement]) -> None:
        _load_matplotlib()
        import xarray

        from ..plots import pixels, plot

        last = rows[-1]
        about = {"long_name": last.description or last.name, "units": last.unit}
        values, steps = np.stack([row.value for row in rows]), np.array([row.step for row in rows])
        before = self._before_resume(run, last.name)
        if before is not None and before.shape[1:] == values.shape[1:]:
            values, steps = np.concatenate([before, values]), np.concatenate([before["step"], steps])
        stream = xarray.Dataset(
            {"value": (("step", *last.dims), values, about)},
            {
                "step": steps,
                **{dim: (dim, axis.values, {"units": axis.unit}) for dim, axis in last.coords.items()},
            },
        )
        picture = pixels(plot(stream, title=last.name))
        self._writer.add_image(f"{last.name}/over_training", picture, last.step, last.wall_time, dataformats="HWC")

    def _before_resume(self, run: Run, name: str) -> Any:
        """What the sessions before this one have measured, from the complete file beside ours, if there is one."""
        if run.resumed_from is None:
            return None
        if self._earlier is None:
            self._earlier = run.earlier()
        try:
            value = self._earlier[name]["value"]
        except KeyError:
            return None
        value = value[value["step"].values <= run.resumed_from]
        return value[:: 1 + len(value) // MAX_HISTORY]

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        """Add an event as text; none begins a file after the end, such as that another sink's end took long."""
        if self._writer is not None or not (self._over or event.kind in ("attach", "detach")):
            self._open(run).add_text(f"events/{event.kind}", escaped(event.message), event.step, event.wall_time)

    @hookimpl
    def flush(self, run: Run) -> None:
        """Draw what is due, and hand the event file to the operating system."""
        if self._writer is not None:
            self._draw_affordable(run)
            self._lay_out()
            self._writer.flush()

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Draw what was measured over the whole training, and close the event file."""
        try:
            self._to_draw |= {
                name
                for name, rows in self._history.items()
                if len(rows) > 1 and rows[-1].step > self._drawn.get(name, -1)
            }
            self._lay_out(end=True)
            if self._writer is not None:
                self._draw_affordable(run)
            if self._to_draw:
                run.left_out(
                    f"{len(self._to_draw)} of TensorBoard's pictures over training were not drawn, or lack the last "
                    f"steps, to stay within the budget. `probes plot {run.log_dir}` draws all."
                )
        finally:
            self._over = True
            self._reset()
            writer, self._writer = self._writer, None
            if writer is not None:
                close(writer)

    def _open(self, run: Run) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step on the first start too: one of the two loaders ignores the first start's, and would draw a
            # zigzag after a resume.
            purge = 0 if run.resumed_from is None else run.resumed_from + 1
            if self._last_step is not None:
                purge = self._last_step + 1  # a further file of this session
            folder = Path(run.log_dir)
            before = set(folder.glob(FILES))
            self._charts, self._described = Charts(), set()
            with named_after(before):
                self._writer = SummaryWriter(str(folder), purge_step=purge)
            self._writer.flush()
            self._file = next(iter(set(folder.glob(FILES)) - before), None)
            self._inode = inode(self._file) if self._file is not None else 0
            if purge == 0:
                settings = json.dumps(run.config, indent=2, default=str)
                self._writer.add_text("run/config", f"    {settings}".replace("\n", "\n    "), 0)
        return self._writer


def _load_matplotlib() -> None:
    """Import it in a thread: an exception that its import keeps holds all frames below it, else those of the loop."""

    def load() -> None:
        with suppress(Exception):  # raised again by whoever imports it
            import_module("matplotlib.backends.backend_agg")

    if "matplotlib.backends.backend_agg" not in sys.modules:
        loading = Thread(target=load, name="probes-import")
        with suppress(RuntimeError):  # at the end of the interpreter none can be started
            loading.start()
            loading.join()


def _summary(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[str, Any]:
    """A histogram as an event holds it."""
    centres = edges[:-1] / 2 + edges[1:] / 2
    with np.errstate(over="ignore", invalid="ignore"):  # sums of huge values: the largest number instead
        sums = np.nan_to_num([counts.sum(), counts @ centres, counts @ centres**2])
    return {
        # One bucket more, empty, so that the first bar has a left edge.
        "min": float(edges[0]),
        "max": float(edges[-1]),
        "num": max(float(sums[0]), math.ulp(1.0)),
        "sum": float(sums[1]),
        "sum_squares": float(sums[2]),
        "bucket_limits": edges.tolist(),
        "bucket_counts": [0.0, *counts.tolist()],
    }
