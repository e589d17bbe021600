"""What MLflow has stored, asked of MLflow."""

import subprocess
import sys
import time

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from probes import Axis, Measurement, Probe, ProbeManager, at, every
from probes_mlflow import MLflowSink

# MLflow's own, with the latest SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


class Numbers(Probe):
    def measure(self, run, step):
        yield Measurement("a/number", step + 0.5)
        yield Measurement("a/spectrum", np.arange(2.0), ("frequency",), {"frequency": Axis([1, 2], "cycles")})
        yield Measurement("a/layers", [1.0, np.nan], ("layer",), {"layer": ["conv[1]", "fc@2"]})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        yield MlflowClient(uri)
        mlflow.set_tracking_uri(before)


def train(log_dir, sink, steps=2, state=None):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Numbers(every(1))], sinks=[sink], log_dir=log_dir, overhead=None, on_error="raise")
    with manager.attach(optimizer):
        for _ in range(steps):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
    return manager


def points(client, run_id, name):
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, name))


def test_a_run_of_its_own_holds_every_number(store, tmp_path):
    manager = train(tmp_path / "vgg", "mlflow")
    (run,) = store.search_runs([store.get_experiment_by_name("probes").experiment_id])
    assert points(store, run.info.run_id, "a/number") == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert points(store, run.info.run_id, "a/spectrum/frequency:2") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert points(store, run.info.run_id, "a/layers/conv_1_") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    (first, *_) = store.get_metric_history(run.info.run_id, "a/number")
    assert 0 <= time.time() - first.timestamp / 1e3 < 600
    assert np.isnan(run.data.metrics["a/layers/fc_2"])
    assert all(name.startswith("a/") for name in run.data.metrics)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "vgg")
    assert run.data.tags["probes.run_id"] == manager.run.run_id
    assert run.data.tags["probes.log_dir"] == str(tmp_path / "vgg")


def test_the_scripts_active_run_is_used_and_left_open(store, tmp_path):
    with mlflow.start_run() as mine:
        train(tmp_path / "run", "mlflow")
        mlflow.log_metric("loss", 1.0, step=7)
        assert mlflow.active_run().info.run_id == mine.info.run_id
        assert store.get_run(mine.info.run_id).info.status == "RUNNING"
    assert points(store, mine.info.run_id, "a/number") == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert points(store, mine.info.run_id, "loss") == [(7, 1.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError(), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(2), "FAILED"), (SystemExit(), "FINISHED")],
)
def test_a_run_that_was_broken_off_says_so(store, tmp_path, error, status):
    sink = MLflowSink(experiment="broken off")
    manager = ProbeManager(torch.nn.Linear(1, 1), [], sinks=[sink], log_dir=tmp_path, on_error="raise")
    with pytest.raises(type(error)), manager.attach():
        raise error
    assert store.get_run(sink._run_id).info.status == status
    manager.attach()
    manager.detach()
    assert store.get_run(sink._run_id).info.status == "FINISHED"


def test_an_exception_that_ends_the_script_ends_its_run(store, tmp_path):
    script = f"""
import mlflow, torch
from probes import ProbeManager
mlflow.set_tracking_uri({mlflow.get_tracking_uri()!r})
model = torch.nn.Linear(1, 1)
manager = ProbeManager(model, [], sinks=["mlflow"], log_dir={str(tmp_path / "script")!r}).attach()
raise KeyboardInterrupt
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "KeyboardInterrupt" in run.stderr
    (found,) = (
        each
        for each in store.search_runs([store.get_experiment_by_name("probes").experiment_id])
        if each.info.run_name == "script"
    )
    assert found.info.status == "KILLED"


def test_more_metrics_than_one_call_may_have(store, tmp_path):
    class Many(Probe):
        def measure(self, run, step):
            yield from (Measurement(f"m/{index}", index) for index in range(1500))

    model = torch.nn.Linear(1, 1)
    sink = MLflowSink(mlflow.get_tracking_uri(), "many")
    manager = ProbeManager(model, [Many(at([0]))], sinks=[sink], log_dir=tmp_path, overhead=None, on_error="raise")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with manager.attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    (run,) = store.search_runs([store.get_experiment_by_name("many").experiment_id])
    assert sum(name.startswith("m/") for name in run.data.metrics) == 1500


def test_long_names_stay_apart(store, tmp_path):
    class Long(Probe):
        def measure(self, run, step):
            yield Measurement("a/number", 1.0)
            for end in "bc":
                yield Measurement("a/" + 300 * "x" + end, float(step))

    model = torch.nn.Linear(1, 1)
    with ProbeManager(model, [Long(every(1))], sinks=[sink := MLflowSink()], log_dir=tmp_path).attach() as manager:
        manager.step()
    metrics = store.get_run(sink._run_id).data.metrics
    long = [name for name in metrics if len(name) == 250]
    assert len(long) == 2 and len(metrics) == 3


def test_names_that_mlflow_makes_the_same_stay_apart(store, tmp_path):
    class Alike(Probe):
        def measure(self, run, step):
            names = ["b=c", "b:c", "b@c", "b[c", "", "..", "d//e", "d/_/e"]
            yield Measurement("alike/a", 0.0)
            yield Measurement("alike/m", np.arange(8.0), ("layer",), {"layer": names})

    sinks = [MLflowSink(experiment="alike")]
    with ProbeManager(
        torch.nn.Linear(1, 1), [Alike(at([0]))], sinks=sinks, log_dir=tmp_path, on_error="raise"
    ).attach() as manager:
        manager.step()
    (run,) = store.search_runs([store.get_experiment_by_name("alike").experiment_id])
    assert run.data.metrics == {
        "alike/a": 0, "alike/m/b:c": 0, "alike/m/b:c_2": 1, "alike/m/b_c": 2, "alike/m/b_c_2": 3,
        "alike/m/_": 4, "alike/m/.._2": 5, "alike/m/d/_/e": 6, "alike/m/d/_/e_2": 7,
    }  # fmt: skip


def test_the_report_is_an_artifact_when_asked_for(store, tmp_path):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store.create_experiment("reports", artifact_location=str(tmp_path / "artifacts"))
    sinks = ["hdf5", MLflowSink(experiment="reports", report=True)]
    with ProbeManager(model, [Numbers(every(1))], sinks=sinks, log_dir=tmp_path / "vgg", on_error="raise").attach(
        optimizer
    ):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    (run,) = store.search_runs([store.get_experiment_by_name("reports").experiment_id])
    assert [item.path for item in store.list_artifacts(run.info.run_id, "probes")] == ["probes/vgg.html"]
