"""The command ``probes``: what is installed, what a run holds, its pictures, whether probes change a training; and a
probe of one's own: begun by ``new``, looked at by ``check``.

Needs the extra ``analysis``.
"""

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        import typer
        from rich.console import Console
    except ImportError:
        sys.exit("The command `probes` needs typer and rich: pip install 'torch-probes[analysis]'")

    from ..session.discovery import COMMANDS, installed

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show, it is shown without
            stream.reconfigure(errors="replace")
    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Analysis probes for PyTorch training loops.")
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    elif not console.width:  # COLUMNS=0
        console.width = 80

    as_json_ = typer.Option("--json", help="Print it for machines.")

    def told(as_json: bool, values: Any, *parts: Any) -> None:
        """Print what a command found: ``values`` for machines, or ``parts`` for people."""
        if as_json:
            print(json.dumps(values))
        else:
            for part in parts:
                console.print(part, soft_wrap=True, highlight=False, markup=not isinstance(part, str))

    @app.command("list")
    def list_(as_json: Annotated[bool, as_json_] = False) -> None:
        """The installed probes, sinks and executors, found through entry points."""
        from .listing import listing, table

        rows = listing()
        note = "\nRead from the plugins' source; `probes check NAME` loads a probe and tries it."
        told(as_json, rows, *([] if as_json else [*table(rows, console.width), note]))

    @app.command()
    def show(path: Path, as_json: Annotated[bool, as_json_] = False) -> None:
        """The streams of a run: axes, rows, the mean of each row over training, and the last value.

        Of a directory with several runs: the runs, newest first.
        """
        from ..reading import open_run
        from .runs import runs
        from .runs import table as table_of_runs
        from .terminal import streams, summary

        if path.is_dir() and not (path / "run.h5").exists() and (found := runs(path)):
            told(as_json, found, table_of_runs(found))
        else:
            told(
                as_json,
                streams(open_run(path)) if as_json else None,
                *([] if as_json else [summary(path, console.width)]),
            )

    @app.command("summary")
    def summary_(path: Path, as_json: Annotated[bool, as_json_] = False) -> None:
        """What a run has found, in words: each finding with its evidence, and what to look at next."""
        from ..reading import open_run
        from ..summary import findings

        found = findings(open_run(path))
        told(as_json, [asdict(item) for item in found], *(map(str, found) if found else ["Nothing stands out."]))

    @app.command()
    def plot(
        path: Path,
        out: Annotated[Path | None, typer.Option(help="The folder; by default <run>/plots.")] = None,
        format_: Annotated[str, typer.Option("--format", help="png, svg or pdf")] = "png",
        stream: Annotated[
            list[str] | None, typer.Option(help="A name or a pattern such as 'layers/*'; may be given several times.")
        ] = None,
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Draw the streams of a run into files; what probes say of themselves only with --stream 'probes/*'."""
        from ..plots import save_plots
        from ..reading import open_run

        directory = out or (path if path.is_dir() else path.parent) / "plots"
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory} is a file, where a folder was expected: name one by --out.")
        run = open_run(path)
        files = [str(file) for file in save_plots(run, directory, stream or (), format_)]  # type: ignore[arg-type]
        nothing = f"{path} holds no rows yet: there is nothing to draw."
        if any("value" in node.variables and node.sizes.get("step") for node in run.subtree):
            shown = f"probes serve {shlex.quote(str(path))}"
            nothing = f"No stream that is chosen has rows of at most two dims: {shown} shows all of them."
        told(as_json, files, *(files or [nothing]))

    @app.command()
    def compare(
        first: Path,
        second: Path,
        tolerance: Annotated[
            float, typer.Option(help="Of the largest magnitude in a stream: what differs by less is equal.")
        ] = 0.0,
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Where values of two runs differ, stream by stream; exits with 1 if they do, or steps are in one run alone."""
        from ..reading import open_run
        from .comparison import compare as compared
        from .terminal import differences

        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"--tolerance must be a number from 0 on, such as 1e-6, got {tolerance}.")
        found = compared(open_run(first), open_run(second))
        off = [item for item in found if not item.within(tolerance)]
        rest = f"{len(found) - len(off)} of {len(found)} streams are equal" + (
            f" to {tolerance:g} of their largest value." if tolerance else ", to the last bit."
        )
        told(
            as_json,
            [{"equal": item not in off, **asdict(item)} for item in found],
            *(differences(off, console.width) if off and not as_json else []),
            rest,
        )
        raise typer.Exit(1 if off else 0)

    @app.command()
    def export(
        path: Path,
        format_: Annotated[str, typer.Option("--format", help="netcdf, csv or parquet")] = "netcdf",
        out: Annotated[Path | None, typer.Option(help="The file or, for csv and parquet, the folder.")] = None,
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Write a run as NetCDF, CSV or Parquet, by default beside it."""
        from ..reading import open_run
        from .export import export as exported

        run = path if path.is_dir() else path.parent
        files = exported(open_run(path), out or run / ("run.nc" if format_ == "netcdf" else format_), format_)  # type: ignore[arg-type]
        told(as_json, [str(file) for file in files], *map(str, files))

    @app.command("repair")
    def repair_(path: Path, as_json: Annotated[bool, as_json_] = False) -> None:
        """Make the file of a killed run open to every program, in place; salvage what is left of a cut one."""
        from ..sinks.hdf5.repair import repair

        message = repair(path / "run.h5" if path.is_dir() else path)
        told(as_json, {"message": message}, message)

    @app.command("replay")
    def replay_(
        checkpoints: list[Path],
        model: Annotated[
            str, typer.Option(help="The function that makes the model: file.py:function or module:function.")
        ],
        probes: Annotated[str | None, typer.Option(help="Names, separated by commas; by default all.")] = None,
        batches: Annotated[
            str | None, typer.Option(help="A function that returns the batches: file.py:function or module:function.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="The log directory.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of the probes.")] = None,
        processes: Annotated[int, typer.Option(min=1, help="That measure at the same time.")] = 1,
        ray: Annotated[bool, typer.Option("--ray", help="Measure on a Ray cluster: RAY_ADDRESS, or one here.")] = False,
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Measure saved checkpoints after the fact, into the same kind of run as a live one."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        from ..replaying.replay import replay
        from ..replaying.workers import Located, workers

        make, given = Located(model), Located(batches)() if batches else None
        columns, err = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()), Console(stderr=True)
        try:
            with (
                Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress,
                workers(processes, "ray" if ray else None) as executor,
            ):
                task = progress.add_task("")
                result = replay(
                    checkpoints,
                    make,
                    probes.split(",") if probes else None,
                    given,
                    out,
                    seed=seed,
                    executor=executor,
                    done=lambda count, total: progress.update(task, completed=count, total=total),
                )
        except ValueError as error:  # it names the parameter of the function
            wanted = "Pass --batches, a function that returns some,"
            raise ValueError(str(error).replace("Pass batches=,", wanted)) from error
        told(
            as_json,
            {**result._asdict(), "log_dir": str(result.log_dir)},
            *result.problems,
            f"{result.measurements} measurements: {result.log_dir}",
        )
        raise typer.Exit(1 if result.problems else 0)

    # What comes after the script is the script's own.
    @app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
    def verify(
        script: Path,
        arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENTS]...")] = None,
        steps: Annotated[int | None, typer.Option(help="Stop each run after so many optimizer updates.")] = None,
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Whether the probes change the training of SCRIPT: it is run with its arguments, with probes and without."""
        from ..checking.verify import verify as compared
        from .terminal import explained

        given = list(arguments or [])
        if given[:1] == ["--"]:  # the usual way to say that what follows is the script's
            del given[0]
        verdict = compared(
            script, given, steps, lambda message: None if as_json else console.print(message, style="dim")
        )
        told(as_json, {"equal": verdict.equal, **asdict(verdict)}, *explained(verdict, str(script)))
        raise typer.Exit(0 if verdict.equal else 1)

    @app.command()
    def new(name: str, as_json: Annotated[bool, as_json_] = False) -> None:
        """Begin a distribution of your own with a probe called NAME, in the directory probes-NAME."""
        from .scaffold import scaffold

        path = scaffold(name, Path.cwd())
        probe = path.name.removeprefix("probes-").replace("-", "_")
        following = [f"cd {path.name}", "pip install -e '.[dev]'", "pytest", f"probes check {probe}"]
        words = f"{path.name} holds a probe that works, its tests, and all that publishing needs. Next:\n"
        told(as_json, {"path": str(path), "probe": probe, "next": following}, words, *following)

    @app.command("check")
    def check_(
        probe: Annotated[
            str, typer.Argument(help="The name of an installed probe, or package.module:Class, or file.py:Class.")
        ],
        as_json: Annotated[bool, as_json_] = False,
    ) -> None:
        """Whether PROBE meets the contract: point by point, what was found and what to do."""
        from ..testing import Contract, find, report, table

        contract = Contract(find(probe))
        found = report(probe, contract)
        told(as_json, found, table(contract))
        raise typer.Exit(0 if found["ok"] else 1)

    for name, entry in installed(COMMANDS).items():
        try:
            app.command(name)(entry.load())
        except Exception as error:  # of a plugin: the other commands work
            sys.stderr.write(f"The command {name!r} could not be loaded: {error!r}\n")
    try:
        app()
    except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
        file = getattr(error, "filename", None)
        sys.exit(str(error) if file is None else f"{file}: {getattr(error, 'strerror', None) or error}.")
