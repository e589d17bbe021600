"""TensorBoardSink: the viewing copy of the results; HDF5 is the complete one.

=========================================  ==========================================================================
a measurement with                         is shown as
=========================================  ==========================================================================
no dimension                               a scalar
one numeric dimension                      a histogram whose bars are the values over their coordinates (a spectrum
                                           becomes a ridgeline over the steps), and as scalars if it has at most 12;
                                           and a picture of all steps so far, ``<name>/over_training``, at 32, 64,
                                           128, ... steps measured and at the end (with the extra ``analysis``)
one dimension of names (layers)            a scalar for each of the first 64 names
dimensions ``("y", "x")``                  an image, from its least value (black) to its greatest (white)
dimensions of names and ``"plane"``        the picture of all steps so far
anything else, and complex values          nothing here
=========================================  ==========================================================================
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hookspecs import hookimpl
from ..measurement import Measurement
from ..run import Event, Run

__all__ = ["TensorBoardSink"]

MAX_LINES, MAX_NAMES, MAX_HISTORY = 12, 64, 512


class TensorBoardSink:
    """Writes TensorBoard event files into the run's ``log_dir``.

    The writer flushes whenever the run does. A resumed run hides what the files hold past the checkpoint's step, in
    both of TensorBoard's loaders.
    """

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._history: dict[str, list[Measurement]] = {}

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Add measurements to the event file."""
        writer = self._open(run)
        for item in measurements:
            for tag, value in _scalars(item):
                writer.add_scalar(tag, value, item.step, walltime=item.wall_time)
            if len(item.dims) == 1 and (bars := _bars(item)) is not None:
                writer.add_histogram_raw(item.name, **bars, global_step=item.step, walltime=item.wall_time)
            elif item.dims == ("y", "x") and item.value.dtype.kind in "fiu":
                writer.add_image(item.name, _gray(item.value), item.step, walltime=item.wall_time, dataformats="HW")
            self._remember(item)

    def _remember(self, item: Measurement) -> None:
        spectrum = len(item.dims) == 1 and item.coords[item.dims[0]].values.dtype.kind != "U"
        if not (spectrum or item.dims[1:] == ("plane",)) or not 2 < item.value.size <= 1024:
            return
        rows = self._history.setdefault(item.name, [])
        rows.append(item)
        if len(rows) >= 32 and len(rows) & (len(rows) - 1) == 0:
            self._draw(rows)
        if len(rows) >= MAX_HISTORY:
            del rows[1::2]

    def _draw(self, rows: list[Measurement]) -> None:
        try:
            import matplotlib  # noqa: F401
            import xarray
        except ImportError:
            return
        from ..plots import pixels, plot

        last = rows[-1]
        about = {"long_name": last.description or last.name, "units": last.unit}
        stream = xarray.Dataset(
            {"value": (("step", *last.dims), np.stack([row.value for row in rows]), about)},
            {
                "step": [row.step for row in rows],
                **{dim: (dim, axis.values, {"units": axis.unit}) for dim, axis in last.coords.items()},
            },
        )
        picture = pixels(plot(stream, title=last.name))
        self._writer.add_image(f"{last.name}/over_training", picture, last.step, last.wall_time, dataformats="HWC")

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        """Add an event as text."""
        if self._writer is not None or event.kind not in ("attach", "detach"):
            self._open(run).add_text(f"events/{event.kind}", event.message, event.step, walltime=event.wall_time)

    @hookimpl
    def flush(self, run: Run) -> None:
        """Hand the event file to the operating system."""
        if self._writer is not None:
            self._writer.flush()

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Draw what was measured over the whole training, and close the event file."""
        try:
            for rows in self._history.values():
                if len(rows) > 1:
                    self._draw(rows)
        finally:
            self._history = {}
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def _open(self, run: Run) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step on the first start too: one of the two loaders ignores the first start's, and would draw a
            # zigzag after a resume.
            purge = 0 if run.resumed_from is None else run.resumed_from + 1
            _wait_for_the_next_second(Path(run.log_dir))
            self._writer = SummaryWriter(str(Path(run.log_dir)), purge_step=purge)
            if run.resumed_from is None:
                settings = json.dumps(run.config, indent=2, default=str)
                self._writer.add_text("run/config", f"    {settings}".replace("\n", "\n    "), 0)
        return self._writer


def _wait_for_the_next_second(folder: Path) -> None:
    # Files are read in the order of their names: a second, then, not in order, what tells apart those of one second.
    parts = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    wait = max((int(part) for part in parts if part.isdigit()), default=0) + 1 - time.time()
    if 0 < wait <= 1:
        time.sleep(wait)


def _scalars(item: Measurement) -> list[tuple[str, float]]:
    if item.value.dtype.kind == "c" or len(item.dims) > 1:
        return []
    if not item.dims:
        return [(item.name, float(item.value))]
    (dim,), axis = item.dims, item.coords[item.dims[0]]
    if axis.values.dtype.kind == "U":
        return [(f"{item.name}/{label}", float(value)) for label, value in zip(axis.values, item.value, strict=True)][
            :MAX_NAMES
        ]
    if item.value.size > MAX_LINES:
        return []
    return [
        (f"{item.name}/{dim}={label:g}", float(value)) for label, value in zip(axis.values, item.value, strict=True)
    ]


def _bars(item: Measurement) -> dict[str, Any] | None:
    """A histogram whose buckets lie around the coordinates and whose counts are the values."""
    places = item.coords[item.dims[0]].values
    heights = np.where(np.isfinite(item.value), item.value, 0).astype(float) if item.value.dtype.kind in "fiu" else None
    if heights is None or places.dtype.kind not in "fiu" or len(places) < 2 or (heights < 0).any():
        return None
    centres = places.astype(float)
    widths = np.diff(centres)
    if not (widths > 0).all():
        return None
    limits: NDArray[np.float64] = np.append(centres[:-1] + widths / 2, centres[-1] + widths[-1] / 2)
    total = float(heights.sum())
    return {
        # One bucket more, empty, so that the first bar has a left edge.
        "min": float(centres[0] - widths[0] / 2),
        "max": float(limits[-1]),
        "num": max(total, math.ulp(1.0)),
        "sum": float(heights @ centres),
        "sum_squares": float(heights @ centres**2),
        "bucket_limits": [float(centres[0] - widths[0] / 2), *limits.tolist()],
        "bucket_counts": [0.0, *heights.tolist()],
    }


def _gray(value: NDArray[Any]) -> NDArray[np.uint8]:
    finite = value[np.isfinite(value)].astype(float)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(value.astype(float), nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    pixels: NDArray[np.uint8] = np.round(255 * scaled).astype(np.uint8)
    return pixels
