"""Trains the seeds of an experiment, here or elsewhere, and goes on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from probes.replaying.workers import workers

from .experiment import Preset, experiment
from .report import Cell, all_pass, conclude, plain, print_findings
from .task import Interruption, Task

__all__ = ["run", "train"]


def run(
    name: str,
    preset: str,
    seeds: Sequence[int] | None = None,
    device: str = "cpu",
    out: Path | None = None,
    console: Console | None = None,
    processes: int = 1,
    elsewhere: str | None = None,
) -> bool:
    """Run, or continue, one preset of an experiment.

    Args:
        processes: Seeds that are trained at the same time.
        elsewhere: Name of an installed executor that trains the seeds, such as ``"ray"``.

    Returns:
        Whether no criterion fails.

    Raises:
        ValueError: If there is no such experiment, preset or device, or ``out`` holds another run.
        KeyboardInterrupt: After Ctrl-C; the same call goes on from there.
    """
    chosen = experiment(name)
    held = chosen.preset(preset)
    console = console or Console()
    if not console.is_terminal:
        console.width = 140
    cell = Cell(held.settings, out or Path("runs") / f"{name}-{preset}")
    seeds = list(held.seeds if seeds is None else seeds)
    train(name, preset, [cell], seeds, device, console, processes, elsewhere)
    described = {"experiment": name, "figures": list(chosen.figures), "preset": preset, "device": device}
    unjudged = _why_not_judged(held, preset, len(seeds))
    findings = conclude(chosen, described, cell, seeds, unjudged)
    print_findings(console, f"{name}, preset {preset}, seeds {', '.join(map(str, seeds))}", findings, unjudged)
    console.print(f"Figures, numbers and measurements: {cell.out}", soft_wrap=True)
    return bool(unjudged) or all_pass(findings)


def train(
    name: str,
    preset: str,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    device: str,
    console: Console,
    processes: int = 1,
    elsewhere: str | None = None,
) -> None:
    """Train each seed with the settings of each cell, but for those that are done; shows what is left.

    Raises:
        ValueError: If a seed comes twice, the device is unknown, or a folder holds another run.
        KeyboardInterrupt: After Ctrl-C; the same call goes on from there.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"`--seeds` must be different integers, at least one, got {list(seeds)}.")
    hardware = _device(device)
    for cell in cells:
        _claim(cell.out, {"experiment": name, "preset": preset, "settings": asdict(cell.settings)})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    todo = [(cell.settings, cell.out.absolute(), seed, hardware) for cell in cells for seed in seeds]
    with (
        Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress,
        workers(processes, elsewhere) as executor,
    ):
        bar = progress.add_task("all trainings", total=len(todo))
        if executor is None:
            with Interruption() as interruption:
                for settings, out, seed, place in todo:
                    label = f"seed {seed}" if len(cells) == 1 else f"{out.name}, seed {seed}"
                    _train(name, settings, out, seed, place, interruption, progress, label)
                    progress.advance(bar)
        else:
            for future in as_completed([executor.submit(_train, name, *one) for one in todo]):
                future.result()
                progress.advance(bar)


def _train(
    name: str,
    settings: Any,
    out: Path,
    seed: int,
    device: torch.device,
    interruption: Interruption | None = None,
    progress: Progress | None = None,
    label: str = "",
) -> None:
    """Train one seed, unless that is done, in whichever process."""
    chosen = experiment(name)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    folder = out / f"seed-{seed}"
    if (folder / "done.json").exists():
        return
    with Interruption() if interruption is None else nullcontext(interruption) as wish:
        task = Task(folder, seed, device, wish, progress, label)
        chosen.train(settings, task)
    done = {"seconds": round(task.seconds, 1), "cpu_seconds": round(task.cpu_seconds, 1)}
    (folder / "done.json").write_text(json.dumps(done))


def _why_not_judged(preset: Preset[Any], name: str, seeds: int) -> str:
    if not preset.judged:
        return f"The preset {name!r} only shows that everything runs: it is too short to judge the criteria."
    if seeds < preset.least_seeds:
        return f"The criteria of the preset {name!r} need {preset.least_seeds} seeds; of {seeds} all is only reported."
    return ""


def _claim(out: Path, claim: dict[str, Any]) -> None:
    path = out / "settings.json"
    text = json.dumps(plain(claim), indent=1) + "\n"
    if path.exists() and path.read_text() != text:
        held = json.loads(path.read_text())
        raise ValueError(
            f"`--out` {out} holds another run: {held['experiment']}, preset {held['preset']}, perhaps with other "
            f"settings. Pass another folder, or remove it."
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown word, or torch was built without it
        raise ValueError(
            f"`--device` must be one that torch can use here, such as cpu, got {name!r}: {error}"
        ) from None
    return device
