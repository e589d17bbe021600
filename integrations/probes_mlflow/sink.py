"""MLflowSink: the numbers of a run as metrics of MLflow."""

from __future__ import annotations

import hashlib
import re
from typing import Any

try:
    from mlflow import MlflowClient, active_run
    from mlflow.entities import Metric
except ImportError as error:
    raise ImportError("probes_mlflow needs MLflow: pip install 'torch-probes[mlflow]'") from error

from probes import Measurement, Run, hookimpl
from probes.sinks.views import distinct, scalars
from probes_viewer import written_report

__all__ = ["MLflowSink"]

MAX_METRICS = 1000
"""In one call, by the limits of MLflow's API."""
MAX_LENGTH = 250
"""Of a name; of a longer one the end becomes a mark that tells it from others."""
EXPERIMENT = "probes"


class MLflowSink:
    """Logs what can be shown as a number to the MLflow run that is active at attach, or else to one of its own.

    Sent are numbers, the entries of spectra of at most 12, and those of at most 64 layers, with the steps of the run;
    in names ``=`` becomes ``:``, what MLflow does not allow ``_``, and the end of one longer than 250 letters a mark;
    names that this makes the same end in ``_2``, ``_3``, ...
    Infinite values are the largest numbers, as MLflow stores them. Everything else is in ``run.h5``, whose folder is
    the tag ``probes.log_dir``. MLflow cannot take back what it has: after a resume, steps past the checkpoint are there
    twice, unless each session has an MLflow run of its own, as without an active one; the tag ``probes.run_id`` holds
    them together.

    Args:
        tracking_uri: Where a run of its own goes; by default where ``mlflow.set_tracking_uri`` or
            ``MLFLOW_TRACKING_URI`` say, as for a script that calls MLflow itself.
        experiment: The experiment of a run of its own; made when it is not there.
        report: Whether to add the page of the whole run, as ``probes report`` writes it, as an artifact at the end.

    Raises:
        mlflow.exceptions.MlflowException: From its hooks, when the store cannot be reached or does not accept.
    """

    name = "mlflow"

    def __init__(self, tracking_uri: str | None = None, experiment: str = EXPERIMENT, report: bool = False) -> None:
        self.tracking_uri, self.experiment, self._report = tracking_uri, experiment, report
        self._client: Any = None
        self._run_id = ""
        self._own = False
        self._waiting: list[Any] = []
        self._names: dict[str, str] = {}
        """Of each tag, as MLflow allows them."""

    @hookimpl
    def on_attach(self, run: Run) -> None:
        """Find the active run, or begin one."""
        self._client = MlflowClient(tracking_uri=self.tracking_uri)
        active = active_run() if self.tracking_uri is None else None
        self._own = active is None
        if active is None:
            found = self._client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(self.experiment)
            active = self._client.create_run(experiment, run_name=run.log_dir.name)
        self._run_id = active.info.run_id
        self._client.set_tag(self._run_id, "probes.run_id", run.run_id)
        self._client.set_tag(self._run_id, "probes.log_dir", str(run.log_dir))

    @hookimpl
    def write(self, run: Run, measurements: list[Measurement]) -> None:
        """Take the numbers among the measurements; they are sent when the run flushes."""
        for item in measurements:
            if not item.name.startswith("probes/"):  # what probes say of themselves: for analysis, not for looking at
                milliseconds = round(1e3 * item.wall_time)
                numbers = scalars(item)
                if new := [tag for tag, _ in numbers if tag not in self._names]:
                    self._names |= zip(new, distinct(new, self._names.values(), _allowed), strict=True)
                self._waiting += [Metric(self._names[tag], value, milliseconds, item.step) for tag, value in numbers]

    @hookimpl
    def flush(self, run: Run) -> None:
        """Send what waits."""
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:MAX_METRICS])
            del self._waiting[:MAX_METRICS]

    @hookimpl
    def on_detach(self, run: Run) -> None:
        """Send what waits and, if asked for, the report; end the run if it is the sink's own."""
        self.flush(run)
        if self._report:
            with written_report(run) as file:
                self._client.log_artifact(self._run_id, str(file), "probes")
        if self._own:
            ended = {"": "FINISHED", "KeyboardInterrupt": "KILLED"}.get(run.ended_by, "FAILED")
            self._client.set_terminated(self._run_id, ended)


def _allowed(tag: str) -> str:
    name = re.sub(r"[^\w./: -]", "_", tag.replace("=", ":"))
    name = re.sub(r"(?<=/)\.*(?=/|$)", "_", name)  # a metric's name is a path, each part of which says something
    if len(name) <= MAX_LENGTH:
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name[: MAX_LENGTH - len(mark) - 1]}_{mark}"
