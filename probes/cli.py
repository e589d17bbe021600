"""The command ``probes``: what is installed, what a run holds, its pictures, whether probes change a training; and a
probe of one's own: begun by ``new``, looked at by ``check``.

Needs the extra ``analysis``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from .verify import Verdict

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        import typer
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Column, Table
    except ImportError:
        sys.exit("The command `probes` needs typer and rich: pip install 'torch-probes[analysis]'")

    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Analysis probes for PyTorch training loops.")
    console = Console()

    @app.command("list")
    def list_() -> None:
        """The installed probes, found through entry points."""
        from .discovery import installed, load

        table = Table(Column("name", no_wrap=True), "distribution", "by default", "what it measures", box=None)
        for name, entry in installed().items():
            dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
            try:
                probe = load(name)
            except ImportError as error:
                table.add_row(name, dist, "", f"[red]{escape(str(error))}[/red]")
                continue
            words = (probe.__doc__ or "").strip().partition("\n")[0]
            table.add_row(name, dist, "runs" if probe.by_default else "when named", escape(words))
        console.print(table)

    @app.command()
    def show(path: Path) -> None:
        """The streams of a run: their axes, how many rows they have, and the last value."""
        console.print(summary(path))

    @app.command()
    def plot(path: Path, out: Path | None = None) -> None:
        """Draw every stream of a run into PNG files, by default in <run>/plots."""
        from .plots import save_plots
        from .reading import open_run

        directory = out or (path if path.is_dir() else path.parent) / "plots"
        for file in save_plots(open_run(path), directory):
            console.print(str(file), soft_wrap=True, highlight=False)

    @app.command("repair")
    def repair_(path: Path) -> None:
        """Make the file of a killed run open to every program, in place; salvage what is left of a cut one."""
        from .sinks.repair import repair

        console.print(repair(path / "run.h5" if path.is_dir() else path), soft_wrap=True, highlight=False, markup=False)

    # What comes after the script is the script's own.
    @app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
    def verify(
        script: Path,
        arguments: list[str] = typer.Argument(None, metavar="[ARGUMENTS]..."),  # noqa: B008 - how typer is used
        steps: int | None = typer.Option(None, help="Stop each run after so many optimizer updates."),
        as_json: bool = typer.Option(False, "--json", help="Print the verdict for machines."),
    ) -> None:
        """Whether the probes change the training of SCRIPT: it is run with its arguments, with probes and without."""
        from .verify import verify as compared

        verdict = compared(
            script, arguments or [], steps, lambda message: None if as_json else console.print(message, style="dim")
        )
        if as_json:
            print(json.dumps({"equal": verdict.equal, **asdict(verdict)}))
        else:
            for part in explained(verdict, str(script)):
                console.print(part, soft_wrap=True, highlight=False)
        raise typer.Exit(0 if verdict.equal else 1)

    @app.command()
    def new(name: str) -> None:
        """Begin a distribution of your own with a probe called NAME, in the directory probes-NAME."""
        from .scaffold import scaffold

        path = scaffold(name, Path.cwd())
        probe = path.name.removeprefix("probes-").replace("-", "_")
        console.print(
            f"{path.name} holds a probe that works, its tests, and all that publishing needs. Next:\n\n"
            f"cd {path.name}\npip install -e '.[dev]'\npytest\nprobes check {probe}",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip

    @app.command("check")
    def check_(
        probe: str = typer.Argument(help="The name of an installed probe, or package.module:Class."),
        as_json: bool = typer.Option(False, "--json", help="Print what was found for machines."),
    ) -> None:
        """Whether PROBE meets the contract: point by point, what was found and what to do."""
        from .testing import Contract, find, report, table

        sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
        contract = Contract(find(probe))
        found = report(probe, contract)
        if as_json:
            print(json.dumps(found))
        else:
            console.print(table(contract))
        raise typer.Exit(0 if found["ok"] else 1)

    try:
        app()
    except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
        sys.exit(str(error))


def summary(path: str | Path) -> RichTable:
    """A table of what the probes of a run have measured, for the terminal; their own accounts are left out."""
    from rich.markup import escape
    from rich.table import Column, Table

    from .measurement import printable
    from .reading import open_run

    streams = Column("stream", no_wrap=True)
    table = Table(streams, Column("rows", justify="right"), "axes", "last value", box=None)
    for node in open_run(path).subtree:
        if "value" not in node.variables or node.path.startswith("/probes/"):
            continue
        value = node["value"]
        axes = " x ".join(f"{size} {dim}" for dim, size in value.sizes.items() if dim != "step")
        shown = "-"
        if value.sizes["step"]:
            last = abs(value.isel(step=-1)).values
            shown = f"{last:.4g}" if last.ndim == 0 else f"{np.nanmin(last):.3g} to {np.nanmax(last):.3g}"
        unit = str(value.attrs.get("units", "1"))
        shown += f" {unit}" if unit != "1" else ""
        cells = (node.path.strip("/"), str(value.sizes["step"]), axes, shown)
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


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
            *parts, f"Equal to the last bit: {verdict.updates} updates of {escape(script)}, with probes and without."
        ]  # fmt: skip
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
