"""``python -m examples list`` and ``python -m examples run NAME``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

_missing = [name for name in ("matplotlib", "rich", "typer", "xarray") if importlib.util.find_spec(name) is None]
if _missing:
    sys.exit(f"The examples need {', '.join(_missing)}: pip install 'torch-probes[examples]'")

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from . import EXPERIMENTS  # noqa: E402
from .frame import runner  # noqa: E402

app = typer.Typer(help="The experiments of the thesis.", add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_experiments() -> None:
    """Every experiment, its figure, and how long its presets take."""
    table = Table()
    for heading in ("name", "figure", "presets", "what"):
        table.add_column(heading, no_wrap=heading == "name")
    for name in EXPERIMENTS:
        chosen = runner.experiment(name)
        presets = "\n".join(f"{preset}: {held.duration}" for preset, held in chosen.presets.items())
        table.add_row(name, chosen.figure, presets, chosen.summary)
    Console().print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    preset: Annotated[str, typer.Option(help="smoke, quick or paper.")] = "quick",
    seeds: Annotated[str, typer.Option(help="For instance 0,1,2; the preset's own when left out.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of results; runs/NAME-PRESET when left out.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Seeds to train at the same time.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Train the seeds on a Ray cluster: RAY_ADDRESS, or here.")] = False,
) -> None:
    """Run an experiment, or go on with it: finished seeds are kept, the interrupted one continues."""
    try:
        numbers = [int(seed) for seed in seeds.split(",")] if seeds else None
    except ValueError:
        sys.exit(f"`--seeds` must be integers with commas between them, such as 0,1,2, got {seeds!r}.")
    try:
        passed = runner.run(name, preset, numbers, device, out, processes=processes, elsewhere="ray" if ray else None)
    except (ValueError, FileNotFoundError, ImportError) as error:  # the latter: a data set that is not there
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    raise typer.Exit(0 if passed else 1)


if __name__ == "__main__":
    app()
