"""Curves and points."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scales import colors, positions, steps_axis, ticks
from .words import entries, label, text, with_unit

__all__ = ["blank", "curve", "curves", "dots", "plane", "profiles"]

MANY = 20
"""More names than these do not fit into a legend."""


def blank(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """Of values that are all NaN: that they are."""
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], ylabel=text(words))
    axes.text(0.5, 0.5, "no number to draw: all NaN", ha="center", va="center", color="0.4", transform=axes.transAxes)


def curve(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """A number over the steps, with a band of two standard errors."""
    axes = figure.add_subplot()
    steps, values = value["step"].values, value.values
    axes.plot(steps, values, marker="o" if len(steps) < 10 else "." if len(steps) < 40 else "", color="C0")
    if error is not None:
        axes.fill_between(steps, values - 2 * error.values, values + 2 * error.values, alpha=0.25, linewidth=0)
    if len(steps) == 1 and np.isfinite(values[0]):
        axes.annotate(f"{values[0]:.4g}", (steps[0], values[0]), (8, 0), textcoords="offset points", va="center")
    if (infinite := np.isposinf(values)).any():  # known, and off every axis
        edge = axes.get_xaxis_transform()
        axes.plot(steps[infinite], np.ones(infinite.sum()), "^", color="C0", transform=edge, clip_on=False)
        axes.annotate("▲ infinite", (1, 1.03), xycoords="axes fraction", ha="right", size="small")
    _values_axis(axes, words, log)
    steps_axis(axes, steps, "x")


def curves(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """A curve over the steps for each entry of the other dimension."""
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim != "step")
    steps, coordinate = value["step"].values, value[dim]
    shades = colors(len(coordinate))
    for index, entry in enumerate(entries(coordinate.values)):
        marker = "o" if len(steps) < 10 else ""
        axes.plot(
            steps,
            value.isel({dim: index}).values,
            label=text(entry),
            color=shades[index],
            linewidth=1.4,
            marker=marker,
            ms=3,
        )
    _values_axis(axes, words, log)
    _legend(axes, label(coordinate, dim))
    steps_axis(axes, steps, "x")


def dots(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """One row over names: a point for each."""
    (dim,) = (dim for dim in value.dims if dim != "step")
    count = value.sizes[dim]
    figure.figure.set_size_inches(6.4, max(2.4, min(1.6 + 0.19 * count, 14)))
    axes = figure.add_subplot()
    row, places = value.isel(step=0).values, np.arange(count)
    if error is not None:
        axes.errorbar(row, places, xerr=2 * error.isel(step=0).values, fmt="none", alpha=0.5)
    axes.plot(row, places, "o", color="C0")
    axes.set(ylim=(count - 0.5, -0.5))
    ticks(axes, value[dim], "y")
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel(text(words))
    if log:
        axes.set_xscale("log")


def profiles(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """A few rows over numbers: a curve for each step."""
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim != "step")
    shades = colors(value.sizes["step"])
    places = positions(value[dim])
    marker = "o" if len(places) <= 64 else ""
    for index, step in enumerate(value["step"].values):
        row = value.isel(step=index).values
        axes.plot(places, row, marker=marker, ms=4, linewidth=1, color=shades[index], label=f"{step}")
        if error is not None:
            spread = 2 * error.isel(step=index).values
            axes.fill_between(places, row - spread, row + spread, alpha=0.2, linewidth=0, color=shades[index])
    axes.set_xlabel(label(value[dim], dim))
    ticks(axes, value[dim], "x")
    _values_axis(axes, words, log)
    if value.sizes["step"] > 1:
        _legend(axes, "step")


def plane(figure: Any, value: Any, error: Any, words: str, log: bool) -> None:
    """The way of each name through a plane of two quantities."""
    axes = figure.add_subplot()
    (dim,) = (dim for dim in value.dims if dim not in ("step", "plane"))
    names = value[dim].values
    shades = colors(len(names))
    sizes = np.linspace(3, 40, value.sizes["step"])  # from the first step to the last
    for index, name in enumerate(names):
        x, y = value.isel({dim: index}).transpose("plane", "step").values
        axes.plot(x, y, color=shades[index], linewidth=1, alpha=0.6)
        axes.scatter(x, y, s=sizes, color=[shades[index]], label=text(name), edgecolors="none")
    x_label, y_label = (text(with_unit(str(name), value)) for name in value["plane"].values)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(f"steps {int(value['step'][0])} (small) to {int(value['step'][-1])} (large)", fontsize=8)
    if len(names) <= MANY:
        _legend(axes, label(value[dim], dim), markerscale=1.5, scatteryoffsets=[0.5])
    else:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap

        bar = axes.figure.colorbar(ScalarMappable(cmap=ListedColormap(shades)), ax=axes, pad=0.02)
        bar.set_ticks([0, 1], labels=[text(names[0]), text(names[-1])], fontsize=7)
        bar.set_label(f"{len(names)} of {dim}, in order")


def _values_axis(axes: Any, words: str, log: bool) -> None:
    axes.set_ylabel(text(words))
    axes.grid(alpha=0.2)
    if log:
        axes.set_yscale("log")


def _legend(axes: Any, title: str, **how: Any) -> None:
    look = {"fontsize": 7, "title_fontsize": 8, "loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    axes.legend(title=title, **look, **how)
