"""A picture of any measurement, from its dims alone.

===============================  =====================================================================================
dims besides ``step``            picture
===============================  =====================================================================================
none                             a curve over the steps, with a band of two standard errors
one of numbers                   a heat map: the coordinate to the right, the steps upwards; of at most eight entries a
                                 curve for each; of at most three rows, or the same in all, a curve over the coordinate
one of names (layers)            a curve for each name; of more than 20 a heat map; of one row a point for each
``("y", "x")``                   a film strip of at most eight steps
``(names, "plane")``             the way of each name through a plane of two quantities
two of names                     a matrix at each of at most four steps
two others                       a heat map for each entry of the first, at most 16
===============================  =====================================================================================

Axes and colours are logarithmic where positive values span two decades. A share that is nearly 1 throughout is drawn as
``1 - share``. The title says what it is, the line below it names the stream, the model and the run. In a heat map gray
is no finite number; the same line says so.

Needs the extra ``analysis``. Pictures are drawn on figures of their own: the state of pyplot is not touched.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .drawing import curves, maps
from .drawing.scales import HIGHEST, near_one, plain_powers, spans_decades
from .drawing.words import caption, heading, named, quantity, text, with_unit
from .names import as_file

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["Format", "pixels", "plot", "save_plots"]

Format = Literal["png", "svg", "pdf"]
FEW_ROWS, FEW_ENTRIES = 3, 8


def plot(stream: xarray.Dataset | xarray.DataTree, title: str = "") -> Figure:
    """A figure of one stream of a run, as :func:`probes.open_run` gives it; a notebook shows it.

    Args:
        stream: With a ``value`` whose first dimension is ``step``.
        title: By default what the stream is, in words.

    Raises:
        ValueError: If it is not a stream, holds no row, or has more than two dimensions besides the steps.
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise ImportError("plots need matplotlib: pip install 'torch-probes[analysis]'") from missing

    if "value" not in getattr(stream, "variables", ()) or "step" not in stream["value"].dims:
        raise ValueError("`stream` must be one group of a run, with a value over steps, e.g. open_run(path)['a/b'].")
    value: Any = stream["value"]
    if value.sizes["step"] == 0:
        raise ValueError("`stream` holds no row yet.")
    path, root = str(getattr(stream, "path", "")).strip("/"), getattr(stream, "root", None)
    title = title or heading(value, path)
    value = abs(value).assign_attrs(value.attrs) if value.dtype.kind == "c" else value
    value = named(value.sortby("step"), root)
    if value.dtype == np.float64:
        value = value.where(np.isinf(value) | ~(abs(value) > HIGHEST), HIGHEST * np.sign(value))
    dims = [dim for dim in value.dims if dim != "step"]
    if len(dims) > 2:
        raise ValueError(f"{title!r} has dims {dims}; at most two besides the steps can be drawn. Select some first.")
    error = stream["standard_error"].sortby("step") if "standard_error" in stream.variables else None
    words, note = with_unit(quantity(value, path), value), ""
    if len(dims) == 1 and value.sizes[dims[0]] == 1:  # as one group of parameters
        value, error, dims = value.squeeze(dims[0]), None if error is None else error.squeeze(dims[0]), []
    if remainder := near_one(value):
        value, words = (1 - value).where(value < 1).assign_attrs(value.attrs), f"1 - {words}"
    if len(dims) == 1 and len(value) > 1 and _constant(value):
        note = f"the same at all {len(value)} steps"
        value, error = value.isel(step=slice(1)), None if error is None else error.isel(step=slice(1))
    log = value.dtype.kind == "f" and (remainder or spans_decades(value.values))
    draw = curves.blank if _is_nan(value.values) else _choose(value, dims)

    class Shown(Figure):
        def _repr_png_(self) -> bytes:  # pyplot knows nothing of this figure, so nobody else shows it
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    figure = Shown(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    inner: Any = figure.subfigures()  # with a title of its own, the line below that of the whole
    draw(inner, value, error, textwrap.fill(words, 42), log)
    plain_powers(inner)
    width = int(13 * figure.get_size_inches()[0])
    figure.suptitle(text(textwrap.fill(title, width)), fontsize=11)
    below = "  ·  ".join(filter(None, (caption(root, path, title), note, maps.gray(inner))))
    if below:
        inner.suptitle(text(textwrap.fill(below, int(1.5 * width))), fontsize=8, color="0.4")
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The picture of a figure. Shape ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    picture: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def save_plots(
    run: xarray.DataTree, directory: str | Path, streams: Sequence[str] = (), format: Format = "png"
) -> list[Path]:
    """Draw the streams of a run into files; those that cannot be drawn (more than two dims) are left out.

    Args:
        run: What :func:`probes.open_run` returned.
        directory: Where to; made if it is not there.
        streams: Names or patterns such as ``"layers/*"``. By default all but ``probes/*``, what probes say of
            themselves.
        format: ``"png"``, ``"svg"`` or ``"pdf"``.

    Returns:
        The files, in the order of the streams; ``a/b/c`` is drawn to ``a.b.c.png``.

    Raises:
        ValueError: If there is no such format, or a pattern fits no stream.
    """
    if format not in get_args(Format):
        raise ValueError(f"`format` must be one of {', '.join(get_args(Format))}, got {format!r}.")
    nodes = {node.path.strip("/"): node for node in run.subtree if "value" in node.variables}
    for pattern in streams:
        if not any(fnmatchcase(name, pattern) for name in nodes):
            raise ValueError(f"No stream fits {pattern!r}. The run has: {', '.join(nodes) or 'none'}.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, node in nodes.items():
        wanted = any(fnmatchcase(name, pattern) for pattern in streams) if streams else not name.startswith("probes/")
        value = node.variables["value"]
        if not wanted or "step" not in value.dims or value.ndim > 3 or 0 in value.shape:
            continue
        taken, path = {file.name.casefold() for file in files}, name.replace("/", ".")
        while as_file(path, f".{format}").casefold() in taken:  # a/b.c and a.b/c
            path += "-2"
        files.append(directory / as_file(path, f".{format}"))
        with np.errstate(over="ignore", invalid="ignore"):  # matplotlib, of huge values
            plot(node).savefig(files[-1])
    return files


def _is_nan(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


def _constant(value: Any) -> bool:
    rows = value.values
    return bool(np.isfinite(rows).any()) and np.array_equal(
        rows, np.broadcast_to(rows[:1], rows.shape), equal_nan=rows.dtype.kind == "f"
    )


def _choose(value: Any, dims: list[Any]) -> Any:
    if not dims:
        return curves.curve
    if dims == ["y", "x"]:
        return maps.film
    names = [value[dim].dtype.kind in "OUS" for dim in dims]
    if len(dims) == 2 and dims[1] == "plane" and value.sizes["plane"] == 2:
        return curves.plane
    if len(dims) == 2:
        return maps.matrices if all(names) else maps.heat_maps
    if value.sizes["step"] == 1 and names[0]:
        return curves.dots
    if names[0]:
        return curves.curves if value.sizes[dims[0]] <= curves.MANY else maps.names_map
    if value.sizes["step"] <= FEW_ROWS:
        return curves.profiles
    return curves.curves if value.sizes[dims[0]] <= FEW_ENTRIES else maps.heat_map
