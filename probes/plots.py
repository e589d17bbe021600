"""A picture of any measurement, from its dims alone.

===============================  =====================================================================================
dims besides ``step``            picture
===============================  =====================================================================================
none                             a curve over the steps, with a band of two standard errors
one of numbers                   a heat map: the coordinate to the right, the steps upwards
one of names (layers)            a curve for each name, the first 20
``("y", "x")``                   a film strip of at most eight steps
``(names, "plane")``             the way of each name through a plane of two quantities, the first 20 names
two                              a heat map for each entry of the first, the first nine
===============================  =====================================================================================

Needs the extra ``analysis``. Pictures are drawn on figures of their own: the state of pyplot is not touched.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .measurement import printable

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["pixels", "plot", "save_plots"]

COLORS = "viridis"


def plot(stream: xarray.Dataset | xarray.DataTree, title: str = "") -> Figure:
    """A figure of one stream of a run, as :func:`probes.open_run` gives it; a notebook shows it.

    Args:
        stream: With a ``value`` whose first dimension is ``step``.
        title: By default the stream's path.

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
    title = title or str(getattr(stream, "path", "")).strip("/") or str(value.attrs.get("long_name", ""))
    value = abs(value).assign_attrs(value.attrs) if value.dtype.kind == "c" else value
    value = value.sortby("step")
    dims = [dim for dim in value.dims if dim != "step"]
    if len(dims) > 2:
        raise ValueError(f"{title!r} has dims {dims}; at most two besides the steps can be drawn. Select some first.")
    draw = _choose(value, dims)
    error = stream["standard_error"].sortby("step") if "standard_error" in stream.variables else None

    class Shown(Figure):
        def _repr_png_(self) -> bytes:  # pyplot knows nothing of this figure, so nobody else shows it
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    figure = Shown(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    draw(figure, value, error)
    figure.suptitle(_text(title), fontsize=11)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The picture of a figure. Shape ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    picture: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def save_plots(run: xarray.DataTree, directory: str | Path) -> list[Path]:
    """Draw every stream of a run into PNG files; those that cannot be drawn (more than two dims) are left out.

    Returns:
        The files, in the order of the streams; ``a/b/c`` is drawn to ``a.b.c.png``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for node in run.subtree:
        value = node.variables.get("value")
        if value is None or "step" not in value.dims or value.ndim > 3 or 0 in value.shape:
            continue
        files.append(directory / (node.path.strip("/").replace("/", ".") + ".png"))
        plot(node).savefig(files[-1])
    return files


def _choose(value: Any, dims: list[Any]) -> Any:
    if not dims:
        return _curve
    if dims == ["y", "x"]:
        return _film
    if len(dims) == 2 and dims[1] == "plane" and value.sizes["plane"] == 2:
        return _plane
    if len(dims) == 1:
        coordinate = value.coords[dims[0]]
        return _curves if coordinate.dtype.kind in "OUS" or value.sizes[dims[0]] == 1 else _heat_map
    return _heat_maps


def _curve(figure: Figure, value: Any, error: Any) -> None:
    axes = figure.add_subplot()
    steps, values = value["step"].values, value.values
    axes.plot(steps, values, marker="." if len(steps) < 40 else "", color="C0")
    if error is not None:
        axes.fill_between(steps, values - 2 * error.values, values + 2 * error.values, alpha=0.25, linewidth=0)
    axes.set_ylabel(_label(value))
    _steps(axes, steps, "x")


def _curves(figure: Figure, value: Any, error: Any) -> None:
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim != "step")
    steps, names = value["step"].values, value[dim].values[:20]
    colors = _colormap()(np.linspace(0, 0.93, len(names)))
    for index, name in enumerate(names):
        axes.plot(steps, value.isel({dim: index}).values, label=_text(name), color=colors[index], linewidth=1.4)
    axes.set_ylabel(_label(value))
    axes.legend(
        title=_text(dim), fontsize=7, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
    )
    _steps(axes, steps, "x")


def _heat_map(figure: Figure, value: Any, error: Any) -> None:
    axes = figure.add_subplot()
    figure.colorbar(_mesh(axes, value), ax=axes, label=_label(value), pad=0.02)


def _heat_maps(figure: Figure, value: Any, error: Any) -> None:
    first = next(dim for dim in value.dims if dim != "step")
    count = min(value.sizes[first], 9)
    columns = int(np.ceil(np.sqrt(count)))
    panels = figure.subplots(int(np.ceil(count / columns)), columns, squeeze=False, sharex=True, sharey=True)
    figure.set_size_inches(3.2 * columns, 2.6 * len(panels) + 0.6)
    finite = value.values[np.isfinite(value.values)]
    limits = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    mesh: Any = None
    for index, axes in enumerate(panels.flat):
        if index >= count:
            axes.set_visible(False)
            continue
        mesh = _mesh(axes, value.isel({first: index}), limits)
        axes.set_title(_text(f"{first} {value[first].values[index]}"), fontsize=8)
        axes.label_outer()
    figure.colorbar(mesh, ax=panels, label=_label(value), pad=0.02, aspect=40)


def _mesh(axes: Any, value: Any, limits: tuple[float, float] | None = None) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    (dim,) = (dim for dim in value.dims if dim != "step")
    steps, places = value["step"].values, value[dim].values
    values = value.values
    finite = values[np.isfinite(values)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    typical = np.percentile(finite, 10) if finite.size else 0.0
    norm, colors = Normalize(low, high), COLORS
    if low < 0 < high:  # signs matter: white is zero
        norm, colors = Normalize(-max(-low, high), max(-low, high)), "RdBu_r"
    elif high > 1e3 * typical > 0:  # a spectrum that spans decades is unreadable on a linear scale
        norm = LogNorm(max(typical, high * 1e-6), high)
    mesh = axes.pcolormesh(_edges(places), _edges(steps), values, cmap=colors, norm=norm, rasterized=True)
    axes.set_xlabel(_label(value[dim], dim))
    _steps(axes, steps, "y")
    if len(steps) == 1:
        axes.set_yticks(steps)
    return mesh


def _plane(figure: Figure, value: Any, error: Any) -> None:
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim not in ("step", "plane"))
    names = value[dim].values[:20]
    colors = _colormap()(np.linspace(0, 0.93, len(names)))
    sizes = np.linspace(3, 40, value.sizes["step"])  # from the first step to the last
    for index, name in enumerate(names):
        x, y = value.isel({dim: index}).transpose("plane", "step").values
        axes.plot(x, y, color=colors[index], linewidth=1, alpha=0.6)
        axes.scatter(x, y, s=sizes, color=[colors[index]], label=_text(name), edgecolors="none")
    units = str(value.attrs.get("units", "1"))
    x_label, y_label = (_text(f"{words} ({units})" if units != "1" else words) for words in value["plane"].values)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(f"steps {int(value['step'][0])} (small) to {int(value['step'][-1])} (large)", fontsize=9)
    axes.legend(
        title=_text(dim),
        fontsize=7,
        title_fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        markerscale=1.5,
        scatteryoffsets=[0.5],
    )


def _film(figure: Figure, value: Any, error: Any) -> None:
    chosen = np.unique(np.linspace(0, value.sizes["step"] - 1, 8).round().astype(int))
    panels = figure.subplots(2, 4)
    figure.set_size_inches(8, 4.6)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, index in zip(panels.flat, chosen, strict=False):
        frame = value.isel(step=index)
        axes.imshow(frame.values, cmap="RdBu_r" if frame.min() < 0 else COLORS, origin="lower")
        axes.set_title(f"step {int(frame['step'])}", fontsize=8)


def _steps(axes: Any, steps: Any, which: str) -> None:
    """Label the axis of the steps, logarithmic when the steps are."""
    getattr(axes, f"set_{which}label")("step")
    positive = steps[steps > 0]
    if len(positive) > 6 and positive[-1] > 30 * positive[0] and np.median(positive) < positive[-1] / 3:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=float(positive[0]), linscale=0.4)
        decades = 10.0 ** np.arange(np.ceil(np.log10(positive[0])), np.floor(np.log10(positive[-1])) + 1)
        getattr(axes, f"{which}axis").set_ticks(decades, [f"{decade:g}" for decade in decades])


def _edges(centres: Any) -> Any:
    """The borders of cells around increasing centres."""
    centres = np.asarray(centres, dtype=float)
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[centres[0] - (middles[0] - centres[0])], middles, [2 * centres[-1] - middles[-1]]])


def _label(variable: Any, name: str = "") -> str:
    words = name or str(variable.attrs.get("long_name") or variable.name)
    units = str(variable.attrs.get("units", "1"))
    return _text(textwrap.fill(words if units in ("1", "") else f"{words} ({units})", 42))


def _text(words: object) -> str:
    """Words as they are: a name with dollar signs is no formula."""
    return "\n".join(map(printable, str(words).split("\n"))).replace("$", r"\$")


def _colormap() -> Any:
    from matplotlib import colormaps

    return colormaps[COLORS]
