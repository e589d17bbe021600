"""Sweeps: an experiment with every combination of some settings, each with every seed."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .criteria import Finding
from .experiment import experiment
from .report import Cell, conclude, plain
from .runner import train

__all__ = ["sweep", "values_of"]

UNJUDGED = "The criteria were chosen for the settings of the presets; of others it is reported whether they are met."


def values_of(settings: Any, text: str) -> tuple[str, tuple[Any, ...]]:
    """Name and values of a setting, from ``NAME=VALUE,VALUE,...``.

    Args:
        settings: Those of a preset, a dataclass: a value must be of the type that it has there.
        text: Values are written as in Python, words without quotation marks too.

    Raises:
        ValueError: If there is no such setting, a value is of another type or sign, or one comes twice.

    Example:
        >>> from examples.spectral_bias.learning_order import Settings
        >>> values_of(Settings(), "width=64,128")
        ('width', (64, 128))
    """
    name, _, written = text.partition("=")
    known = [field.name for field in fields(settings)]
    if not written:
        raise ValueError(f"`--set` must be NAME=VALUE,VALUE,..., got {text!r}. Settings: {', '.join(known)}.")
    if name not in known:
        raise ValueError(f"`--set` must name a setting, got {name!r}. Settings: {', '.join(known)}.")
    try:
        values = ast.literal_eval(f"[{written}]")
    except (ValueError, SyntaxError):
        values = [value.strip() for value in written.split(",")]
    present = getattr(settings, name)
    if isinstance(present, float):
        values = [float(value) if type(value) is int else value for value in values]
    for value in values:
        if present is not None and type(value) is not type(present):
            raise ValueError(f"`--set {name}` must have values of type {type(present).__name__}, got {value!r}.")
        if type(value) in (int, float) and value < 0 <= present:
            raise ValueError(f"`--set {name}` must have values that are not negative, got {value!r}.")
    if any(value in values[:index] for index, value in enumerate(values)):
        raise ValueError(f"`--set {name}` must have different values, got {written}.")
    return name, tuple(values)


def sweep(
    name: str,
    preset: str,
    grid: Sequence[str],
    seeds: Sequence[int] | None = None,
    device: str = "cpu",
    out: Path | None = None,
    console: Console | None = None,
    processes: int = 1,
    elsewhere: str | None = None,
) -> list[Path]:
    """Run, or continue, an experiment with each combination of settings, each in its own folder.

    Every folder has the figures, the measurements and a ``results.json`` of its settings; a table of all is printed
    and written to ``sweep.json``.

    Args:
        grid: Settings that are varied, each as ``NAME=VALUE,VALUE,...``; the others are the preset's.
        processes: Trainings at the same time, of whatever seeds and settings.
        elsewhere: Name of an installed executor that trains them, such as ``"ray"``.

    Returns:
        The folders.

    Raises:
        ValueError: If there is no such experiment, preset, setting or device, or a folder holds another run.
        KeyboardInterrupt: After Ctrl-C; the same call goes on from there.
    """
    chosen = experiment(name)
    held = chosen.preset(preset)
    if not grid:
        raise ValueError("A sweep needs at least one `--set NAME=VALUE,VALUE,...`.")
    varied = dict(values_of(held.settings, text) for text in grid)
    if len(varied) < len(grid):
        raise ValueError(f"Each setting may be given to `--set` once, got {', '.join(grid)}.")
    console = console or Console()
    if not console.is_terminal:
        console.width = 140
    seeds = list(held.seeds if seeds is None else seeds)
    out = out or Path("runs") / f"{name}-{preset}-sweep"
    points = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    cells = [Cell(replace(held.settings, **point), out / _folder(point)) for point in points]
    train(name, preset, cells, seeds, device, console, processes, elsewhere)
    described = {"experiment": name, "figures": list(chosen.figures), "preset": preset, "device": device}
    found = [conclude(chosen, {**described, "varied": point}, cell, seeds, UNJUDGED)
             for point, cell in zip(points, cells, strict=True)]  # fmt: skip
    rows = [
        {"settings": point, "folder": cell.out.name, "findings": [vars(finding) for finding in findings]}
        for point, cell, findings in zip(points, cells, found, strict=True)
    ]
    (out / "sweep.json").write_text(json.dumps(plain(rows), indent=1, allow_nan=False) + "\n")
    console.print(_table(f"{name}, preset {preset}, seeds {', '.join(map(str, seeds))}", points, found))
    console.print(f"{UNJUDGED}\nFigures, numbers and measurements: {out}", soft_wrap=True)
    return [cell.out for cell in cells]


def _folder(point: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in point.items()).replace(" ", "").replace("/", "-")


def _table(title: str, points: Sequence[Mapping[str, Any]], found: Sequence[Sequence[Finding]]) -> Table:
    table = Table(title=title, show_lines=True)
    for heading in ("quantity", *points[0], "measured", "criterion met"):
        table.add_column(heading, overflow="fold")
    # One quantity under the other, so that what the settings do to it can be read downwards.
    for rows in zip(*found, strict=True):
        for point, finding in zip(points, rows, strict=True):
            met = "" if finding.passed is None else "yes" if finding.passed else "no"
            table.add_row(finding.quantity, *map(str, point.values()), finding.measured, met)
    return table
