"""What the command line prints: tables and sparklines for people, plain values for machines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing.words import counted
from ..measurement import printable

if TYPE_CHECKING:
    import xarray
    from rich.console import Group
    from rich.table import Table as RichTable

    from ..checking.verify import Verdict
    from .comparison import Difference

__all__ = ["differences", "explained", "sparkline", "streams", "summary"]

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
NARROW = 110
"""In fewer columns than these, what does not fit into a line goes below it."""
BESIDE = 80
"""Columns that a table of differences needs beside the names of the streams."""


def sparkline(values: Sequence[float] | np.ndarray[Any, Any], width: int = WIDTH) -> str:
    """A row of bars, from the least value to the greatest; a gap where there is none, and "∞" for those that are.

    Of more values than ``width``, each bar is the mean of as many, in order.

    Example:
        >>> sparkline([0, 1, float("nan"), 2, 7])
        '▁▂ ▃█'
    """
    numbers = np.asarray(values, dtype=float)
    parts = np.array_split(numbers, min(width, len(numbers))) if len(numbers) else []
    finite = [part[np.isfinite(part)] for part in parts]
    means = np.array([_mean(part) for part in finite])
    gaps = ["∞" if np.isinf(part).any() else " " for part in parts]
    if not np.isfinite(means).any():
        return "".join(gaps)
    low, high = np.nanmin(means), np.nanmax(means)
    halves = means / 2 - low / 2  # differences of the largest numbers overflow
    scaled = np.zeros_like(means) if high == low else halves / (high / 2 - low / 2) * (len(BARS) - 1)
    return "".join(gap if np.isnan(place) else BARS[round(place)] for place, gap in zip(scaled, gaps, strict=True))


def _mean(numbers: np.ndarray[Any, Any]) -> float:
    """Their mean, NaN of none; a sum of the largest numbers overflows."""
    return float((numbers / len(numbers)).sum()) if len(numbers) else math.nan


def streams(run: xarray.DataTree) -> list[dict[str, Any]]:
    """Each stream of a run in plain values: its axes, its rows, and the least and the greatest entry of the last."""
    found = []
    for node in run.subtree:
        if "value" not in node.variables or node.path.startswith("/probes/"):
            continue
        value = node["value"]
        magnitude = np.abs(value.values) if value.dtype.kind == "c" else value.values.astype(float)
        rows = magnitude.reshape(len(magnitude), -1)
        last = rows[-1][np.isfinite(rows[-1])] if len(rows) else rows
        found.append(
            {
                "stream": node.path.strip("/"),
                "rows": len(rows),
                "axes": {str(dim): size for dim, size in value.sizes.items() if dim != "step"},
                "unit": str(value.attrs.get("units", "1")),
                "last_step": int(node["step"].values[-1]) if len(rows) else None,
                "last_least": float(last.min()) if last.size else None,
                "last_greatest": float(last.max()) if last.size else None,
                "last_undefined": int((~np.isfinite(rows[-1])).sum()) if len(rows) else 0,
                "means": [_mean(row[np.isfinite(row)]) if np.isfinite(row).any() else None for row in rows],
                "infinite": [int(np.isinf(row).sum()) for row in rows],
            }
        )
    return found


def summary(path: str | Path, width: int = NARROW) -> Group:
    """A table of what the probes of a run have measured; their own accounts are left out. And which of them failed.

    In fewer than :data:`NARROW` columns a stream takes two lines, so that nothing is cut.
    """
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Column, Table
    from rich.text import Text

    from ..drawing.events import failed
    from ..reading import open_run

    run = open_run(path)
    table = Table(
        Column("stream", no_wrap=True),
        Column("rows", justify="right"),
        "axes",
        Column("over training", no_wrap=True),
        "last value",
        box=None,
    )
    narrow = Table("stream (rows and axes), its course over training and its last value", box=None)
    for stream in streams(run):
        axes = " x ".join(f"{size} {dim}" for dim, size in stream["axes"].items())
        least, greatest = stream["last_least"], stream["last_greatest"]
        if least is None:
            shown = "-" if not stream["rows"] else "infinite" if stream["infinite"][-1] else "nan"
        else:
            shown = f"{least:.3g} to {greatest:.3g}" if axes else f"{least:.4g}"
            shown += f", {stream['last_undefined']} not finite" if stream["last_undefined"] else ""
        shown += f" {stream['unit']}" if stream["unit"] != "1" else ""
        gaps = [math.inf if count else math.nan for count in stream["infinite"]]
        means = [gap if mean is None else mean for mean, gap in zip(stream["means"], gaps, strict=True)]
        cells = (stream["stream"], str(stream["rows"]), axes, sparkline(means), shown)
        table.add_row(*(escape(printable(cell)) for cell in cells))
        size = counted(stream["rows"], "row") + (f" of {axes}" if axes else "")
        narrow.add_row(escape(printable(f"{stream['stream']}  ({size})")))
        narrow.add_row(escape(printable(f"    {sparkline(means):{WIDTH}}  {shown}")))
    if not table.rows:
        return Group(Text("Nothing has been measured. What happened: `probes summary`."))
    who = ", ".join(printable(plugin) for plugin in failed(run))
    told = [Text(f"Failed: {who}. Why: `probes summary`.")] if who else []
    return Group(narrow if width < NARROW else table, *told)


def differences(found: Sequence[Difference], width: int = NARROW) -> list[RichTable | str]:
    """A table of the streams in which two runs differ.

    In fewer than :data:`NARROW` columns, or if names are too long, what differs is below the name of each stream.
    """
    from rich.markup import escape
    from rich.table import Column, Table

    right = [Column(name, justify="right") for name in ("rows", "common", "differ", "first at", "largest", "relative")]
    table = Table(Column("stream", no_wrap=True), *right, "", box=None)
    lines: list[RichTable | str] = []
    for item in found:
        numbers = (
            (
                str(item.different),
                "" if item.first is None else str(item.first),
                f"{item.absolute:.3g}",
                f"{item.relative:.1e}",
            )
            if item.common and not item.problem
            else ("",) * 4
        )
        missing = "" if all(item.rows) else f"only in the {'second' if not item.rows[0] else 'first'}"
        cells = (item.stream, f"{item.rows[0]}, {item.rows[1]}", str(item.common), *numbers, item.problem or missing)
        table.add_row(*(escape(printable(cell)) for cell in cells))
        _, first, largest, relative = numbers
        shown = f"{item.different} of {item.common} differ" if item.common else "no step in common"
        shown += f", the first at step {first}: by at most {largest}, relative {relative}" if first else ""
        shown = item.problem or missing or shown
        size = f"({item.rows[0]} and {item.rows[1]} rows, {item.common} common)"
        filled = textwrap.TextWrapper(width, "", " " * 4, break_long_words=False, break_on_hyphens=False)
        lines.append(filled.fill(printable(f"{item.stream}  {size}")))
        filled.initial_indent = " " * 4
        lines.append(filled.fill(printable(shown)))
    longest = max((len(printable(item.stream)) for item in found), default=0)
    return lines if width < max(NARROW, longest + BESIDE) else [table]


def explained(verdict: Verdict, script: str) -> list[RichTable | str]:
    """A verdict in words, for the terminal."""
    from rich.markup import escape
    from rich.table import Column, Table

    parts: list[RichTable | str] = []
    if verdict.probes:
        table = Table("probe", Column("measured", justify="right"), Column("failed", justify="right"), "why", box=None)
        for probe in verdict.probes:
            table.add_row(*(escape(str(probe[key])) for key in ("name", "measured", "failed", "problem")))
        parts.append(table)
    if verdict.error:
        return [*parts, escape(verdict.error)]
    if verdict.difference is None:
        return [
            *parts,
            f"Equal to the last bit: {verdict.updates} updates of {escape(script)}, with probes and without.",
        ]
    names = verdict.difference.names
    which = f"{verdict.difference.place}, in {', '.join(names[:10])}" if names else verdict.difference.place
    which += f" and {len(names) - 10} more" if len(names) > 10 else ""
    if not verdict.reproducible:
        return [
            *parts,
            f"{escape(script)} is not reproducible without probes either, so nothing can be said about them. First "
            f"difference: {escape(which)}. Is it seeded from the clock? Otherwise call "
            f"torch.use_deterministic_algorithms(True).",
        ]
    parts.append(f"DIFFERENT with probes. First difference: {escape(which)}.")
    parts.append(
        f"Alone, too, it is changed by: {escape(', '.join(verdict.culprits))}."
        if verdict.culprits
        else "No probe alone changes it, nor the manager without any: it takes several of them."
    )
    return parts
