"""Verdicts that stay: the results of runs, kept in a folder, and the page that shows them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .experiment import Experiment
from .thesis import ERRATA, ROWS

__all__ = ["gallery", "keep", "kept"]

MOST_BYTES = 200_000
"""Of a picture that is kept."""


def kept(results: Path, name: str, preset: str) -> Path:
    """Where the results of a preset are kept: those of ``quick`` under the experiment's own name."""
    return results / (name if preset == "quick" else f"{name}-{preset}")


def keep(run: Path, folder: Path) -> list[Path]:
    """Copy the numbers and the figures of a finished run, the first figure as ``figure.png``.

    Pictures of more than 200 kB are reduced to 256 colours.

    Args:
        run: The folder that a run wrote.
        folder: Where they are kept; what an earlier run left there goes.

    Returns:
        Pictures that are larger than 200 kB nevertheless.
    """
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(run / "results.json", folder)
    large: list[Path] = []
    for index, picture in enumerate(sorted(run.glob("*.png"))):
        kept = folder / ("figure.png" if index == 0 else picture.name)
        shutil.copy(picture, kept)
        if kept.stat().st_size > MOST_BYTES:
            with Image.open(picture) as image:
                image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(kept, optimize=True)
            large += [kept] if kept.stat().st_size > MOST_BYTES else []
    return large


def gallery(experiments: Mapping[str, Experiment[Any, Any]], results: Path) -> str:
    """A page in Markdown with every experiment: the published claim, our figure, our numbers, criterion and verdict.

    Args:
        experiments: By name, in the order of the page.
        results: What :func:`keep` has kept, a folder each; the page lies beside this folder.
    """
    held = {name: list(_results(results, name)) for name in experiments}
    lines = [
        "# The experiments of the thesis",
        "",
        "Baratin (2021), *Some Phenomenological Investigations in Deep Learning*. Each section has the claim that was "
        "published, our figure, and our numbers beside the criterion they had to meet. This page is made by "
        "`python -m examples gallery` from `examples/results/`; each result by the command that stands with it.",
        "",
        "| thesis | what | experiment | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for row, what in ROWS.items():
        for name in [name for name, chosen in experiments.items() if row in chosen.figures]:
            verdicts = ", ".join(f"{preset}: {report['verdict']}" for preset, report, _ in held[name])
            lines.append(f"| {row} | {what} | [{name}](#{name.lower()}) | {verdicts or 'not run'} |")
    for name, chosen in experiments.items():
        lines += ["", f"## {name}", "", f"{chosen.summary} Thesis: {', '.join(chosen.figures)}."]
        for preset, report, folder in held[name]:
            lines += ["", *_section(name, preset, report, folder, results.parent)]
        if not held[name]:
            lines += ["", "No results are kept: see below why." if chosen.departures else "No results are kept."]
        if chosen.departures:
            lines += ["", f"**Where this departs from the thesis.** {chosen.departures}"]
    lines += ["", "## What was found to be wrong in what was published", ""]
    lines += [f"- **{place}**: {finding}" for place, finding in ERRATA.items()]
    return "\n".join(lines) + "\n"


def _results(results: Path, name: str) -> Iterator[tuple[str, dict[str, Any], Path]]:
    for folder in sorted(results.glob(f"{name}*")):
        path = folder / "results.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if report.get("experiment") == name:
            yield report["preset"], report, folder


def _section(name: str, preset: str, report: Mapping[str, Any], folder: Path, page: Path) -> list[str]:
    pictures = sorted(folder.glob("*.png"), key=lambda path: (path.name != "figure.png", path.name))
    cpu = sum(report["cpu_seconds"]["training of each seed"]) + report["cpu_seconds"]["analysis"]
    seeds = ", ".join(map(str, report["seeds"]))
    lines = [f"### {preset}: {report['verdict']}", ""]
    lines += [f"![{name}, {preset}]({picture.relative_to(page).as_posix()})" for picture in pictures]
    lines += [
        "",
        f"`python -m examples run {name} --preset {preset} --seeds {seeds.replace(' ', '')}`: {_minutes(cpu)} of CPU "
        f"time; torch {report['versions']['torch']}, {report['hardware']}.",
        "",
        "| quantity | published | measured | criterion | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    words = {True: "PASS", False: "**FAIL**", None: "reported"}
    for finding in report["findings"]:
        passed = finding["passed"] if report["verdict"] != "not judged" else None
        cells = [finding[key] for key in ("quantity", "published", "measured", "criterion")]
        lines.append("| " + " | ".join([*map(_cell, cells), words[passed]]) + " |")
    if report["why not judged"]:
        lines += ["", report["why not judged"]]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
