"""The command ``probes``: what is installed, what a run holds, its pictures. Needs the extra ``analysis``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        import rich.table
        import typer
    except ImportError:
        sys.exit("The command `probes` needs typer and rich: pip install 'torch-probes[analysis]'")
    from pathlib import Path

    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Analysis probes for PyTorch training loops.")
    console = rich.console.Console()

    @app.command("list")
    def list_() -> None:
        """The installed probes, found through entry points."""
        from .discovery import installed, load

        table = rich.table.Table("name", "class", "distribution", "runs by default", "what it measures", box=None)
        for name, entry in installed().items():
            dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
            try:
                probe = load(name)
            except ImportError as error:
                table.add_row(name, entry.value, dist, "", f"[red]{error}[/red]")
                continue
            words = (probe.__doc__ or "").strip().partition("\n")[0]
            table.add_row(name, probe.__name__, dist, "yes" if probe.by_default else "no", words)
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

    try:
        app()
    except (OSError, ValueError, ImportError) as error:
        sys.exit(str(error))


def summary(path: object) -> object:
    """A table of the streams of a run, for the terminal."""
    from rich.markup import escape
    from rich.table import Column, Table

    from .reading import open_run

    table = Table(Column("stream", no_wrap=True), "axes", "rows", "steps", "last value", "unit", box=None)
    nodes = open_run(path).subtree  # type: ignore[arg-type]
    for node in sorted(nodes, key=lambda node: node.path.startswith("/probes/")):  # our own accounts last
        if "value" not in node.variables:
            continue
        value = node["value"]
        axes = " x ".join(f"{dim} {size}" for dim, size in value.sizes.items() if dim != "step") or "-"
        steps = node["step"].values
        span = f"{steps[0]} to {steps[-1]}" if len(steps) else "-"
        last = value.isel(step=-1).values if len(steps) else None
        shown = (
            "-"
            if last is None
            else f"{last:.4g}"
            if last.ndim == 0
            else f"{abs(last).min():.3g} .. {abs(last).max():.3g}"
        )
        table.add_row(
            escape(node.path.strip("/")), axes, str(len(steps)), span, shown, escape(str(value.attrs.get("units", "")))
        )
    return table
