"""``python -m examples list`` and ``python -m examples run NAME``."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

_missing = [
    name for name in ("matplotlib", "rich", "scipy", "typer", "xarray") if importlib.util.find_spec(name) is None
]
if _missing:
    sys.exit(f"The examples need {', '.join(_missing)}: pip install 'torch-probes[examples]'")

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from . import EXPERIMENTS  # noqa: E402
from .frame import gallery as pages  # noqa: E402
from .frame import runner  # noqa: E402
from .frame import sweep as sweeps  # noqa: E402
from .frame.experiment import experiment  # noqa: E402
from .frame.figures import formats  # noqa: E402

NARROW = 110
"""In fewer columns than these, what an experiment shows is written below its name."""

app = typer.Typer(help="The experiments of the thesis.", add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_experiments(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Every experiment, its figures, and how long its presets take."""
    experiments = {name: experiment(name) for name in EXPERIMENTS}
    if as_json:
        listed = [
            {
                "name": name,
                "figures": list(chosen.figures),
                "summary": chosen.summary,
                "presets": {
                    preset: {"cost": held.duration, "seeds": len(held.seeds), "least_seeds": held.least_seeds}
                    for preset, held in chosen.presets.items()
                },
            }
            for name, chosen in experiments.items()
        ]
        print(json.dumps(listed, indent=1))
        return
    console = Console()
    wrapper = textwrap.TextWrapper(console.width, initial_indent="    ", subsequent_indent="    ")
    table = Table()
    for heading in ("name", "figures", "presets", "what"):
        table.add_column(heading, no_wrap=heading == "name")
    for name, chosen in experiments.items():
        presets = [f"{preset}: {held.duration}" for preset, held in chosen.presets.items()]
        figures = ", ".join(chosen.figures) or "none of the thesis"
        table.add_row(name, figures, "\n".join(presets), chosen.summary)
        if console.width < NARROW:
            lines = (chosen.summary, f"Figures {figures}. Presets: {', '.join(presets)}")
            print(name, *map(wrapper.fill, lines), sep="\n")
    if console.width >= NARROW:
        console.print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    preset: Annotated[str, typer.Option(help="smoke, quick, paper; large, where there is one.")] = "quick",
    seeds: Annotated[str, typer.Option(help="For instance 0,1,2; the preset's own when left out.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of results; runs/NAME-PRESET when left out.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Seeds to train at the same time.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Train the seeds on a Ray cluster: RAY_ADDRESS, or here.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Figures as SVG too.")] = False,
) -> None:
    """Run an experiment, or go on with it: finished seeds are kept, the interrupted one continues."""
    formats[1:] = [".svg"] if svg else []
    how: dict[str, Any] = {"processes": processes, "elsewhere": "ray" if ray else None}
    with _explained():
        passed = runner.run(name, preset, _numbers(seeds), device, out, **how)
    raise typer.Exit(0 if passed else 1)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    grid: Annotated[list[str], typer.Option("--set", help="NAME=VALUE,VALUE,...: a setting to vary. Repeatable.")],
    preset: Annotated[
        str, typer.Option(help="smoke, quick, paper or large: the settings that are not varied.")
    ] = "quick",
    seeds: Annotated[str, typer.Option(help="For instance 0,1,2; the preset's own when left out.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of results; runs/NAME-PRESET-sweep when left out.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Train on a Ray cluster: RAY_ADDRESS, or here.")] = False,
) -> None:
    """Run an experiment with every combination of some settings and every seed, or go on with it."""
    how: dict[str, Any] = {"processes": processes, "elsewhere": "ray" if ray else None}
    with _explained():
        sweeps.sweep(name, preset, grid, _numbers(seeds), device, out, **how)


def _numbers(seeds: str) -> list[int] | None:
    try:
        numbers = [int(seed) for seed in seeds.split(",")] if seeds else None
    except ValueError:
        sys.exit(f"`--seeds` must be integers with commas between them, such as 0,1,2, got {seeds!r}.")
    if wrong := [number for number in numbers or () if not 0 <= number < 2**63]:
        sys.exit(f"`--seeds` must be from 0 to 2^63 - 1, got {wrong[0]}.")
    return numbers


@contextmanager
def _explained() -> Iterator[None]:
    """What was asked wrongly ends the program with one line; so does Ctrl-C."""
    try:
        yield
    except FileExistsError as error:
        sys.exit(f"{error.filename} is a file, and a folder is needed.")
    except (ValueError, OSError, ImportError) as error:  # of a data set that is not there, of a full disk
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)


RESULTS = Path(__file__).with_name("results")
"""Results that are kept."""


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments of `list`; all when left out.")] = None,
    preset: Annotated[str, typer.Option(help="smoke, quick, paper; large, where there is one.")] = "quick",
    processes: Annotated[int, typer.Option(min=1, help="Seeds to train at the same time.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Train the seeds on a Ray cluster: RAY_ADDRESS, or here.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of results that are kept.")] = RESULTS,
) -> None:
    """Run experiments, or go on with them, and keep their verdicts, numbers and figures."""
    failed = []
    how: dict[str, Any] = {"processes": processes, "elsewhere": "ray" if ray else None}
    for name in names or EXPERIMENTS:
        out = Path("runs") / f"{name}-{preset}"
        with _explained():
            try:
                passed = runner.run(name, preset, out=out, **how)
            except FileNotFoundError as error:  # a data set that is not there: the others can be run
                print(f"{name} was not run: {error}", file=sys.stderr)
                failed.append(name)
                continue
        for picture in pages.keep(out, pages.kept(results, name, preset)):
            print(f"{picture} is larger than {pages.MOST_BYTES // 1000} kB.", file=sys.stderr)
        failed += [] if passed else [name]
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    raise typer.Exit(1 if failed else 0)


@app.command()
def gallery(
    results: Annotated[Path, typer.Option(help="Folder of results that are kept.")] = RESULTS,
) -> None:
    """Write the page of all results, README.md beside their folder."""
    page = results.parent / "README.md"
    if not any(results.glob("*/results.json")):
        sys.exit(f"{results} holds no results. `python -m examples verify --results {results}` writes them.")
    if page.exists() and not page.read_text(encoding="utf-8").startswith(pages.TITLE):
        sys.exit(f"{page} is another page than that of the results, and is not overwritten. Move the results.")
    page.write_text(pages.gallery({name: experiment(name) for name in EXPERIMENTS}, results), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    app()
