"""TrackioSink: what a run measures, as charts of trackio."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from typing import Any

try:
    import trackio
    from trackio import context_vars
except ImportError as error:
    raise ImportError("probes_trackio needs trackio: pip install 'torch-probes[trackio]'") from error

from probes import Measurement, Run, hookimpl
from probes.sinks.views import charts
from probes_viewer import written_report

__all__ = ["TrackioSink"]


class TrackioSink:
    """Logs numbers, spectra (as histograms) and images to a trackio run of its own, beside the script's.

    Of its own, since trackio ends a run when another begins: ours begins in a context of its own, so that the script's
    goes on, and ``trackio.log`` of the script reaches the script's. When the script has a run, ours is in the same
    project. Its name is that of ``log_dir`` with the first letters of the run's id, so that every run has its own, and
    one that is resumed in a directory of that name goes on in it: steps past the checkpoint are there twice. What
    trackio says goes to the standard error stream.

    Args:
        project: By default that of the script's run, or ``"probes"``.
        report: Whether to add the page of the whole run, as ``probes report`` writes it, as an artifact at the end.
        settings: Of ``trackio.init``: ``group=``, ``space_id=``, ``server_url=``, ...

    Raises:
        ValueError: If the project's name is not one that trackio takes.
    """

    name = "trackio"

    def __init__(self, project: str = "", report: bool = False, **settings: Any) -> None:
        self._project, self._report, self._settings = project, report, settings
        self._run: Any = None
        self._waiting: dict[int, dict[str, Any]] = {}

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Begin a run, without what belongs to the script's: the machine's load, a dashboard."""
        project = self._project or context_vars.current_project.get() or "probes"
        chosen = {
            "name": f"{run.log_dir.name}-{run.run_id[:8]}", "config": {"run_id": run.run_id, **run.config},
            "resume": "never" if run.resumed_from is None else "allow",
            "embed": False, "auto_log_gpu": False, "auto_log_cpu": False, **self._settings,
        }  # fmt: skip

        def begin() -> Any:
            context_vars.current_run.set(None)  # trackio would end it
            return trackio.init(project=project, **chosen)

        with contextlib.redirect_stdout(sys.stderr):
            self._run = contextvars.copy_context().run(begin)

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take measurements; they are sent when the run flushes, a row for each step."""
        for item in measurements:
            if not item.name.startswith("probes/"):  # what probes say of themselves is for analysis
                self._waiting.setdefault(item.step, {}).update(charts(item, trackio))

    @hookimpl
    def flush(self, run: Run) -> None:
        """Send what waits."""
        while self._waiting:
            step = next(iter(self._waiting))
            self._run.log(self._waiting[step], step=step)
            del self._waiting[step]

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Send what waits and, if asked for, the report; end the run."""
        self.flush(run)
        with contextlib.redirect_stdout(sys.stderr):
            if self._report:
                with written_report(run) as file:
                    self._run.log_artifact(file, name="probes-report", type="report")
            self._run.finish()
