"""The commands ``probes report`` and ``probes serve``."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report_", "serve_"]


def report_(
    runs: list[Path],
    out: Annotated[Path, typer.Option(help="The file.")] = Path("report.html"),
    max_megabytes: Annotated[
        float, typer.Option("--max-mb", help="Its greatest size; streams are thinned for it, and the page says so.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for machines.")] = False,
) -> None:
    """Write runs into one HTML file that opens without network: pictures, findings, settings, costs, events."""
    from probes import open_run

    from .contents import shown
    from .event_files import has_event_files
    from .page import report

    def tell(words: str) -> None:
        print(f"{words[0].upper()}{words[1:]}.", file=sys.stderr)

    if not max_megabytes > 0:
        raise ValueError(f"--max-mb must be a positive number, got {max_megabytes:g}.")
    for path in map(Path.expanduser, runs):
        if any(path.glob("*/run.h5")) and not ((path / "run.h5").exists() or has_event_files(path)):
            open_run(path)  # which says how many runs are there, and to name one
    file = report(runs, out, max_megabytes, told=tell)
    size = file.stat().st_size
    print(json.dumps({"file": str(file), "bytes": size}) if as_json else f"{shown(str(file))} ({size / 1e6:.1f} MB)")


def serve_(
    log_dir: Annotated[Path, typer.Argument(help="A directory of runs, or the log directory of one.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Who can reach it; by default this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The first one that is free from here on.")] = 6007,
    token: Annotated[
        str | None, typer.Option(help="What the address must carry; by default a new one, '' for none.")
    ] = None,
) -> None:
    """Show the runs below LOG_DIR in the browser, live while training writes; until Ctrl-C."""
    from .server import serve

    if not log_dir.expanduser().exists():
        print(f"{log_dir} is not there yet: its runs are shown as soon as it is.", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        serve(log_dir, host=host, port=port, token=token, started=lambda url: print(url, flush=True))
    print(flush=True)
    os._exit(0)  # at once, whatever a thread still reads
