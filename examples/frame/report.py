"""What a run leaves: findings, versions, hardware and time in ``results.json``, and a table on the screen."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .criteria import Finding
from .experiment import Experiment

__all__ = ["Cell", "all_pass", "conclude", "plain", "print_findings"]


@dataclass(frozen=True)
class Cell:
    """Settings, and the folder of what is trained with them."""

    settings: Any
    out: Path


def all_pass(findings: Sequence[Finding]) -> bool:
    """Whether no criterion fails; what has none does not count."""
    return all(finding.passed is None or bool(finding.passed) for finding in findings)


def conclude(
    chosen: Experiment[Any, Any], described: Mapping[str, Any], cell: Cell, seeds: Sequence[int], unjudged: str
) -> list[Finding]:
    """Read what the probes wrote, judge it, draw the figures and write ``results.json``.

    Args:
        described: What is being run: the first entries of ``results.json``.
        cell: Settings and folder.
        seeds: All of them trained.
        unjudged: Why nothing is judged; empty where it is.
    """
    times = [json.loads((cell.out / f"seed-{seed}" / "done.json").read_text()) for seed in seeds]
    start = time.process_time()
    results = [chosen.read(cell.settings, cell.out / f"seed-{seed}", seed) for seed in seeds]
    findings = chosen.judge(cell.settings, results)
    chosen.draw(cell.settings, results, cell.out)
    report = {
        **described,
        "settings": asdict(cell.settings),
        "seeds": list(seeds),
        "hardware": _hardware(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "cpu_seconds": {
            "training of each seed": [done["cpu_seconds"] for done in times],
            "analysis": round(time.process_time() - start, 1),
        },
        "findings": [asdict(finding) for finding in findings],
        "verdict": "not judged" if unjudged else "PASS" if all_pass(findings) else "FAIL",
        "why not judged": unjudged,
    }
    (cell.out / "results.json").write_text(json.dumps(plain(report), indent=1, allow_nan=False) + "\n")
    return findings


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


def plain(item: Any) -> Any:
    """JSON: tuples are lists, a value that was never reached or does not exist is null."""
    if isinstance(item, Mapping):
        return {str(key): plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [plain(value) for value in item]
    if hasattr(item, "tolist"):  # numpy and torch
        return plain(item.tolist())
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item


def print_findings(console: Console, title: str, findings: Sequence[Finding], unjudged: str) -> None:
    """A table of what was published, what was measured and the verdict."""
    table = Table(title=title, show_lines=True)
    for heading in ("quantity", "published", "measured", "criterion"):
        table.add_column(heading, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    words = {True: "[green]PASS[/green]", False: "[bold red]FAIL[/bold red]", None: "reported"}
    for finding in findings:
        word = "not judged" if unjudged and finding.passed is not None else words[finding.passed]
        table.add_row(finding.quantity, finding.published, finding.measured, finding.criterion, word)
    console.print(table)
    if unjudged:
        console.print(unjudged)
