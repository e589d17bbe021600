"""Heat maps and strips of images. Colours follow the values: whether axes are logarithmic is of no matter here."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scales import mesh, norm, ticks
from .words import label, text

__all__ = ["film", "gray", "heat_map", "heat_maps", "matrices", "names_map"]

MAX_PANELS = 16


def gray(figure: Any) -> str:
    """What the gray cells of a drawn picture are; nothing where it has none."""
    drawn = [cells.get_array() for axes in figure.axes for cells in (*axes.collections, *axes.images)]
    bad = [array.data[array.mask] for array in drawn if np.ma.is_masked(array)]
    kinds = (("not a number", np.isnan), ("infinite", np.isinf))
    words = [words for words, kind in kinds if any(kind(values).any() for values in bad)]
    return f"gray: {' or '.join(words)}" if words else ""


def heat_map(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """The coordinate to the right, the steps upwards."""
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim != "step")
    drawn = mesh(axes, value[dim], value["step"], value.values, norm(value.values))
    figure.colorbar(drawn, ax=axes, label=text(words), pad=0.02)


def names_map(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """Many names from the top down, the steps to the right."""
    (dim,) = (dim for dim in value.dims if dim != "step")
    figure.figure.set_size_inches(7.2, min(2.0 + 0.14 * value.sizes[dim], 11))
    axes = figure.add_subplot()
    drawn = mesh(axes, value["step"], value[dim], value.values.T, norm(value.values))
    axes.invert_yaxis()
    axes.set_ylabel("")
    figure.colorbar(drawn, ax=axes, label=text(words), pad=0.02)


def heat_maps(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """A heat map for each entry of the first dimension, or for some of many."""
    first, second = (dim for dim in value.dims if dim != "step")
    chosen = np.unique(np.linspace(0, value.sizes[first] - 1, MAX_PANELS).round().astype(int))
    columns = min(range(2, 6), key=lambda columns: (-len(chosen) % columns, -columns))
    panels = figure.subplots(-(-len(chosen) // columns), columns, squeeze=False, sharex=True, sharey=True)
    figure.figure.set_size_inches(2.3 * columns + 1.2, 2 * len(panels) + 1.2)
    scale, drawn = norm(value.values), None
    for place, axes in enumerate(panels.flat):
        if place >= len(chosen):
            axes.set_visible(False)
            continue
        one = value.isel({first: chosen[place]})
        drawn = mesh(axes, value[second], value["step"], one.values, scale)
        axes.set_title(text(f"{first} {value[first].values[chosen[place]]}"), fontsize=8)
        axes.tick_params(labelbottom=place + columns >= len(chosen), labelleft=not place % columns)
        axes.set(xlabel="", ylabel="")
    figure.supxlabel(label(value[second], second), fontsize=10)
    figure.supylabel("step", fontsize=10)
    if len(chosen) < value.sizes[first]:
        words = f"{words}; {len(chosen)} of {value.sizes[first]} {first} are shown"
    figure.colorbar(drawn, ax=panels, label=text(words), pad=0.02, aspect=40)


def matrices(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """Names against names: a matrix at each of a few steps."""
    first, second = (dim for dim in value.dims if dim != "step")
    chosen = np.unique(np.linspace(0, value.sizes["step"] - 1, 4).round().astype(int))
    side = min(1.6 + 0.12 * max(value.sizes[first], value.sizes[second]), 6)
    figure.figure.set_size_inches(side * len(chosen) + 1.8, side + 1.6)
    panels = figure.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
    scale, drawn = norm(value.values), None
    for axes, index in zip(panels, chosen, strict=True):
        frame = value.isel(step=index)
        drawn = axes.imshow(frame.values, norm=scale[0], cmap=scale[1])
        axes.set_title(f"step {int(frame['step'])}", fontsize=8)
        axes.set_xlabel(label(value[second], second))
        ticks(axes, value[second], "x")
    panels[0].set_ylabel(label(value[first], first))
    ticks(panels[0], value[first], "y")
    figure.colorbar(drawn, ax=panels, label=text(words), pad=0.02)


def film(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """Images at no more than eight steps."""
    chosen = np.unique(np.linspace(0, value.sizes["step"] - 1, 8).round().astype(int))
    rows = 1 if len(chosen) <= 4 else 2
    columns = -(-len(chosen) // rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    figure.figure.set_size_inches(max(2.2 * columns, 5), 2.2 * rows + 1)
    scale, drawn = norm(value.values[chosen]), None
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, index in zip(panels.flat, chosen, strict=False):
        frame = value.isel(step=index)
        drawn = axes.imshow(frame.values, norm=scale[0], cmap=scale[1], origin="lower")
        axes.set_title(f"step {int(frame['step'])}", fontsize=8)
    figure.colorbar(drawn, ax=panels, label=text(words), pad=0.02)
