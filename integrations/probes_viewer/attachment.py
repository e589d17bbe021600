"""The page of a run as a file for a while: what a sink attaches to a run elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probes import Run

from .page import report

__all__ = ["written_report"]


@contextmanager
def written_report(run: Run) -> Iterator[Path]:
    """The page of a run so far, in a file that is removed afterwards.

    Raises:
        FileNotFoundError: If the run has no ``run.h5`` and no event files: they are what the page is made from.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield report(run.log_dir, Path(folder) / f"{run.log_dir.name}.html")
