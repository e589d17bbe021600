"""Verdicts that stay: the results of runs, kept in a folder, and the page that shows them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from .captions import belongs, in_order, title
from .experiment import Experiment, Preset
from .thesis import ERRATA, PARTS, ROWS

__all__ = ["TITLE", "gallery", "keep", "kept"]

TITLE = "# The experiments of the thesis"
"""With which the page begins."""
MOST_BYTES = 200_000
"""Of a picture that is kept."""
MOST_VALUES = 6
"""Of a setting that are all on the page; of more the first two and the last."""


def kept(results: Path, name: str, preset: str) -> Path:
    """Where the results of a preset are kept: those of ``quick`` under the experiment's own name."""
    return results / (name if preset == "quick" else f"{name}-{preset}")


def keep(run: Path, folder: Path) -> list[Path]:
    """Copy the numbers and the figures of a finished run, the experiment's main figure as ``figure.png``.

    The main figure is that of the first entry of ``Experiment.figures`` that has one. Under ``pictures``,
    ``results.json`` has the names of all of them before they were copied, the main one first. Pictures of more than
    200 kB are reduced to 256 colours, or fewer.

    Args:
        run: The folder that a run wrote.
        folder: Where they are kept; what an earlier run left there goes.

    Returns:
        Pictures that are larger than 200 kB nevertheless.
    """
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = json.loads((run / "results.json").read_text(encoding="utf-8"))
    names = in_order([picture.name for picture in run.glob("*.png")], report.get("figures", ()))
    text = json.dumps({**report, "pictures": names}, indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    large: list[Path] = []
    for index, name in enumerate(names):
        picture, kept = run / name, folder / (name if index else "figure.png")
        shutil.copy(picture, kept)
        for colors in (256, 64, 32):
            if kept.stat().st_size > MOST_BYTES:
                with Image.open(picture) as image:
                    image.convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(kept, optimize=True)
        large += [kept] if kept.stat().st_size > MOST_BYTES else []
    return large


def gallery(experiments: Mapping[str, Experiment[Any, Any]], results: Path) -> str:
    """A page in Markdown with every experiment: what is asked, our figures, our numbers, criterion and verdict.

    Args:
        experiments: By name, in the order of the page.
        results: What :func:`keep` has kept, a folder each; the page lies beside this folder.
    """
    held = {name: list(_results(results, name)) for name in experiments}
    lines = [
        TITLE,
        "",
        "Baratin (2021), *Some Phenomenological Investigations in Deep Learning*. Each section says what is asked, and "
        "has our figures and our numbers, beside what was published where it was, and the criterion they had to meet. "
        "This page is made by `python -m examples gallery` from `examples/results/`; each result by the command that "
        "stands with it.",
        "",
        "- `quick` is a preset for one CPU core, mostly of seconds or minutes, with fewer steps, units or points than "
        "the thesis; `paper` has those of the thesis.",
        "- a ± b (c to d) is the mean, the standard deviation over seeds (with n - 1), the least and the most of the "
        "seeds; in a criterion ± is a tolerance.",
        '- "Four of five seeds": all seeds but one fifth of them, rounded down, so 4 of 5, 8 of 10, but 3 of 3.',
        "- Criteria were set on seeds below 10, or from 200 on, of `quick`. Where it passes it is judged on others, "
        "but where nothing is random and in what is not of the thesis.",
        '- "reported" is a number without a criterion, or one of a run that is not judged.',
        "",
        "| thesis | what | experiment | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for row, what in ROWS.items():
        for name in [name for name, chosen in experiments.items() if row in chosen.figures]:
            verdicts = ", ".join(f"{preset}: {report['verdict']}" for preset, report, _ in held[name])
            part = f" ({PARTS[row, name]})" if (row, name) in PARTS else ""
            lines.append(f"| {row}{part} | {what} | [{name}](#{name.lower()}) | {verdicts or 'not run'} |")
    for name, chosen in experiments.items():
        if not chosen.figures:
            verdicts = ", ".join(f"{preset}: {report['verdict']}" for preset, report, _ in held[name])
            lines.append(f"| not of it | {chosen.summary} | [{name}](#{name.lower()}) | {verdicts or 'not run'} |")
    for name, chosen in experiments.items():
        source = f"Thesis: {', '.join(map(title, chosen.figures))}." if chosen.figures else "Not of the thesis."
        lines += ["", f"## {name}", "", f"{chosen.summary} {source}"]
        for preset, report, folder in held[name]:
            lines += ["", *_section(name, preset, report, folder, results.parent)]
        if not held[name]:
            lines += ["", _not_run(chosen)]
        for preset in [preset for preset, _, _ in held[name]] or ["quick"]:
            if differ := _differences(chosen.presets, preset):
                lines += ["", f"Settings of `{preset}` that differ from `paper` [in brackets]: {differ}."]
        if chosen.departures:
            published = "the thesis" if chosen.figures else "what was published"
            lines += ["", f"**Where this departs from {published}.** {chosen.departures}"]
    lines += ["", "## What was found to be wrong in what was published", ""]
    lines += ["In brackets the experiment that is about it. Tested means in `tests/examples/frame/test_thesis.py`.", ""]
    lines += [f"- **{place}**: {finding}" for place, finding in ERRATA.items()]
    return "\n".join(lines) + "\n"


def _results(results: Path, name: str) -> Iterator[tuple[str, dict[str, Any], Path]]:
    for folder in sorted(results.glob(f"{name}*")):
        path = folder / "results.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if report.get("experiment") == name:
            yield report["preset"], report, folder


def _section(name: str, preset: str, report: Mapping[str, Any], folder: Path, page: Path) -> list[str]:
    cpu = sum(report["cpu_seconds"]["training of each seed"]) + report["cpu_seconds"]["analysis"]
    seeds = ", ".join(map(str, report["seeds"]))
    lines = [f"### {preset}: {report['verdict']}", ""]
    for picture, shown in _pictures(report, folder):
        caption = f"{shown} ({preset}, run of {len(report['seeds'])} seed{'s' * (len(report['seeds']) > 1)})"
        lines += [f"![{caption}]({picture.relative_to(page).as_posix()})", "", f"*{caption}*", ""]
    lines += [
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


def _pictures(report: Mapping[str, Any], folder: Path) -> Iterator[tuple[Path, str]]:
    """The pictures that are kept, the main one first, and what of the thesis each shows."""
    figures = report["figures"]
    others = in_order([picture.name for picture in folder.glob("*.png") if picture.name != "figure.png"], figures)
    for index, name in enumerate(report.get("pictures") or ["figure.png", *others]):
        words = title(Path(name).stem)
        shown = [ROWS[row] for row in figures if row in ROWS and belongs(words, row)]
        if figures and not shown and index == 0:
            shown = [", ".join(map(title, figures))]
        yield folder / (name if index else "figure.png"), ": ".join([words, *shown[:1]])


def _not_run(chosen: Experiment[Any, Any]) -> str:
    durations = "; ".join(f"{name}: {preset.duration}" for name, preset in chosen.presets.items() if name != "smoke")
    missing = [sentence for sentence in chosen.departures.split(". ") if "not downloaded" in sentence]
    return " ".join([f"Not run yet ({durations}).", *(f"{sentence.rstrip('.')}." for sentence in missing)])


def _differences(presets: Mapping[str, Preset[Any]], name: str) -> str:
    """The settings of a preset that are not those of ``paper``, and in brackets those."""
    if not {name, "paper"} <= set(presets):
        return ""
    here, there = ({**_flat(each.settings), "seeds": len(each.seeds)} for each in (presets[name], presets["paper"]))
    return "; ".join(
        f"`{key}` {_value(here[key]) if key in here else 'none'} [{_value(there[key]) if key in there else 'none'}]"
        for key in {**here, **there}
        if key not in here or key not in there or here[key] != there[key]
    )


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by name, those of nested dataclasses and mappings with a point between the names."""
    if is_dataclass(settings):
        settings = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in settings.items()]
    return {key: value for part in parts for key, value in part.items()}


def _value(value: Any) -> str:
    """In few words.

    Example:
        >>> _value((0.1 + 0.2, 1, 2000)), _value(tuple(range(101)))
        ('(0.3, 1, 2000)', '(0, 1, ..., 100: 101 values)')
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        words = [_value(each) for each in value]
        if len(words) > MOST_VALUES:
            return f"({words[0]}, {words[1]}, ..., {words[-1]}: {len(words)} values)"
        return f"({', '.join(words)})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
