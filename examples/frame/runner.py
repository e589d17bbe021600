"""Runs the seeds of an experiment, judges them against what was published, draws and writes the results."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from probes.replaying.workers import workers

from .. import EXPERIMENTS
from .criteria import Finding
from .task import Interruption, Task

__all__ = ["Experiment", "Preset", "experiment", "run"]

S = TypeVar("S")
"""Settings of an experiment, a frozen dataclass."""
R = TypeVar("R")
"""What an experiment reads back from the files of one seed."""


@dataclass(frozen=True)
class Preset(Generic[S]):
    """Settings, how many seeds, and what to expect of them."""

    settings: S
    seeds: tuple[int, ...]
    duration: str
    """Of all seeds, on one CPU thread."""
    judged: bool = True
    """Whether the criteria mean something at these settings."""
    least_seeds: int = 1
    """The fewest seeds that the criteria mean something for: of fewer all is reported, and nothing judged."""


@dataclass(frozen=True)
class Experiment(Generic[S, R]):
    """One experiment: four functions, each given the settings."""

    figures: tuple[str, ...]
    """What of the thesis it reproduces, as in "3.4", "A.13", "T5.2" (a table), "Thm 3.3", "eq. 15"."""
    summary: str
    presets: Mapping[str, Preset[S]]
    train: Callable[[S, Task], None]
    """Trains the networks of one seed with probes attached."""
    read: Callable[[S, Path, int], R]
    """Reads what the probes wrote into the folder of one seed."""
    judge: Callable[[S, Sequence[R]], list[Finding]]
    draw: Callable[[S, Sequence[R], Path], None]
    """Draws the figures into a folder."""
    departures: str = ""
    """Where it departs from the thesis and why, and what was found to be wrong in what was published."""
    threads: int | None = 1
    """CPU threads: the matrices of most experiments are so small that a second thread only costs. None for all."""


def experiment(name: str) -> Experiment[Any, Any]:
    """The experiment of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"No experiment is named {name!r}. Experiments: {', '.join(EXPERIMENTS)}.")
    found: Experiment[Any, Any] = importlib.import_module(f"..{EXPERIMENTS[name]}", __package__).EXPERIMENT
    return found


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
    console = console or Console()
    if not console.is_terminal:
        console.width = 140
    chosen = experiment(name)
    if preset not in chosen.presets:
        raise ValueError(f"{name} has no preset {preset!r}. Presets: {', '.join(chosen.presets)}.")
    settings = chosen.presets[preset].settings
    seeds = list(seeds if seeds is not None else chosen.presets[preset].seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"`--seeds` must be different integers, at least one, got {seeds}.")
    out = out or Path("runs") / f"{name}-{preset}"
    hardware = _device(device)
    _claim(out, {"experiment": name, "preset": preset, "settings": asdict(settings)})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress,
        workers(processes, elsewhere) as executor,
    ):
        if executor is None:
            with Interruption() as interruption:
                for seed in seeds:
                    _train(name, preset, out, seed, hardware, interruption, progress)
        else:
            bar = progress.add_task(f"{len(seeds)} seeds", total=len(seeds))
            for future in as_completed(
                [executor.submit(_train, name, preset, out.absolute(), seed, hardware) for seed in seeds]
            ):
                future.result()
                progress.advance(bar)
    times = [json.loads((out / f"seed-{seed}" / "done.json").read_text()) for seed in seeds]

    start = time.process_time()
    results = [chosen.read(settings, out / f"seed-{seed}", seed) for seed in seeds]
    findings = chosen.judge(settings, results)
    chosen.draw(settings, results, out)
    unjudged = _why_not_judged(chosen.presets[preset], preset, len(seeds))
    judged = not unjudged
    verdict = all(finding.passed is None or bool(finding.passed) for finding in findings) if judged else None
    report = {
        "experiment": name,
        "figures": list(chosen.figures),
        "preset": preset,
        "settings": asdict(settings),
        "seeds": seeds,
        "device": device,
        "hardware": _hardware(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "cpu_seconds": {
            "training of each seed": [done["cpu_seconds"] for done in times],
            "analysis": round(time.process_time() - start, 1),
        },
        "findings": [asdict(finding) for finding in findings],
        "verdict": {True: "PASS", False: "FAIL", None: "not judged"}[verdict],
        "why not judged": unjudged,
    }
    (out / "results.json").write_text(json.dumps(_plain(report), indent=1, allow_nan=False) + "\n")
    console.print(_table(f"{name}, preset {preset}, seeds {', '.join(map(str, seeds))}", findings, judged))
    if unjudged:
        console.print(unjudged)
    console.print(
        f"{sum(done['seconds'] for done in times):.0f} s of training. Figures, numbers and measurements: {out}",
        soft_wrap=True,
    )
    return verdict is not False


def _train(
    name: str,
    preset: str,
    out: Path,
    seed: int,
    device: torch.device,
    interruption: Interruption | None = None,
    progress: Progress | None = None,
) -> None:
    """Train one seed, unless that is done, in whichever process."""
    chosen = experiment(name)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    folder = out / f"seed-{seed}"
    if (folder / "done.json").exists():
        return
    with Interruption() if interruption is None else nullcontext(interruption) as wish:
        task = Task(folder, seed, device, wish, progress)
        chosen.train(chosen.presets[preset].settings, task)
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
    text = json.dumps(_plain(claim), indent=1) + "\n"
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


def _hardware() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "torch-probes"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _plain(item: Any) -> Any:
    """JSON: tuples are lists, a value that was never reached or does not exist is null."""
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    if hasattr(item, "tolist"):  # numpy and torch
        return _plain(item.tolist())
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item


def _table(title: str, findings: Sequence[Finding], judged: bool) -> Table:
    table = Table(title=title, show_lines=True)
    for heading in ("quantity", "published", "measured", "criterion"):
        table.add_column(heading, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    words = {True: "[green]PASS[/green]", False: "[bold red]FAIL[/bold red]", None: "reported"}
    for finding in findings:
        word = words[finding.passed] if judged or finding.passed is None else "not judged"
        table.add_row(finding.quantity, finding.published, finding.measured, finding.criterion, word)
    return table
