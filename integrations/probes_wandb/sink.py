"""WandbSink: what a run measures, as charts of Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import wandb
except ImportError as error:
    raise ImportError("probes_wandb needs Weights & Biases: pip install 'torch-probes[wandb]'") from error

from probes import Measurement, Run, hookimpl
from probes.sinks.views import charts
from probes_viewer import written_report

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run as WandbRun

__all__ = ["WandbSink"]

STEP = "probes/step"
"""The metric that all charts of ours have as their x-axis."""


class WandbSink:
    """Logs numbers, spectra (as histograms) and images to a Weights & Biases run of its own, beside the script's.

    Of its own, since Weights & Biases drops rows whose step is less than one that it has: rows of ours between those of
    the script could cost it its own. When the script has an active run, ours is in the same project and, by default, of
    a group that is named after it. The x-axis of every chart is the step of the run. After a resume a further run of
    the same name goes on. Whether it is sent or kept for later is decided by ``WANDB_MODE``, as always: ``offline``
    writes into ``log_dir``, for ``wandb sync``.

    Args:
        run: Log to this run instead; its loop must then not pass ``step=`` to ``log``.
        report: Whether to add the page of the whole run, as ``probes report`` writes it, as an artifact at the end.
        settings: Of ``wandb.init``: ``project=``, ``entity=``, ``group=``, ``mode=``, ...

    Raises:
        wandb.Error: From its hooks, when it cannot be reached.
    """

    name = "wandb"

    def __init__(self, run: WandbRun | None = None, report: bool = False, **settings: Any) -> None:
        if run is not None and settings:
            raise ValueError(f"`run` is there already, so that {', '.join(settings)} of wandb.init cannot be chosen.")
        self._given, self._report, self._settings = run, report, settings
        self._run: WandbRun | None = None
        self._waiting: dict[int, dict[str, Any]] = {}
        self._defined: set[str] = set()

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Begin a run, without what belongs to the script's: console, machine, code."""
        self._run = self._given
        if self._run is None:
            script = wandb.run
            beside = {"project": script.project, "entity": script.entity, "group": script.name} if script else {}
            quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_code=True)
            chosen = {
                "dir": str(run.log_dir), "name": run.log_dir.name, "job_type": "probes", "config": run.config,
                **{key: value for key, value in beside.items() if value}, **self._settings,
            }  # fmt: skip
            self._run = wandb.init(**chosen, reinit="create_new", settings=quiet)
        self._run.define_metric(STEP, hidden=True)
        self._defined.clear()

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take measurements; they are sent when the run flushes, a row for each step."""
        for item in measurements:
            if not item.name.startswith("probes/"):  # what probes say of themselves: for analysis, not for looking at
                self._waiting.setdefault(item.step, {}).update(charts(item, wandb))

    @hookimpl
    def flush(self, run: Run) -> None:
        """Send what waits."""
        assert self._run is not None
        while self._waiting:
            step = next(iter(self._waiting))
            row = self._waiting[step]
            for name in row.keys() - self._defined:
                self._run.define_metric(name, step_metric=STEP)
            self._defined |= row.keys()
            self._run.log({STEP: step, **row})
            del self._waiting[step]

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Send what waits and, if asked for, the report; end the run if it is the sink's own."""
        self.flush(run)
        if self._report and self._run is not None:
            artifact = wandb.Artifact(f"probes-report-{run.run_id}", type="report")
            with written_report(run) as file:
                artifact.add_file(str(file))  # copies it
            self._run.log_artifact(artifact)
        if self._given is None and self._run is not None:
            self._run.finish({"": 0, "KeyboardInterrupt": 255}.get(run.ended_by, 1))  # as wandb.init's own
        self._run = None
