"""What Weights & Biases has kept for later, read from its file."""

import json
import struct
import time

import numpy as np
import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

from probes import Axis, Measurement, Probe, ProbeManager, every
from probes_wandb import WandbSink

PLACES = np.array([1, 2, 4])


class Charts(Probe):
    def measure(self, run, step):
        yield Measurement("a/number", step + 0.5)
        yield Measurement("a/spectrum", np.arange(3.0) + step, ("frequency",), {"frequency": Axis(PLACES, "cycles")})
        yield Measurement("a/image", np.arange(6.0).reshape(2, 3), ("y", "x"))
        yield Measurement("a/complex", [1j, 2j], ("k",))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)


def train(log_dir, sink, steps=3, between=lambda: None):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(
        model, [Charts(every(1))], sinks=[sink], log_dir=log_dir, overhead=None, on_error="raise"
    ).attach(optimizer)
    with manager:
        for _ in range(steps):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
            between()


def records(folder):
    """The records of the run that was kept in a folder and is over; a process of its own writes them, in time."""
    for _ in range(1200):
        found = list(written(folder))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"the end of the run is not written; there is: {found}")


def written(folder):
    """What is in its file, a log of blocks of 32 KiB, as of LevelDB."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        size, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        if position + 7 + size > len(data):  # the process is writing it
            return
        part += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            yield record
            part = b""


def history(folder):
    rows = [record.history for record in records(folder) if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def test_each_step_is_a_row_with_numbers_histograms_and_images(tmp_path):
    train(tmp_path / "run", "wandb")
    rows = history(tmp_path / "run")
    assert [row["probes/step"] for row in rows] == [0, 1, 2, 3]
    assert [row["a/number"] for row in rows] == [0.5, 1.5, 2.5, 3.5]
    assert rows[2]["a/spectrum/values"] == [2, 3, 4] and rows[2]["a/spectrum/bins"] == [0.5, 1.5, 3, 5]
    assert rows[2]["a/spectrum/frequency=4"] == 4
    assert (tmp_path / "run/wandb/latest-run/files" / rows[2]["a/image/path"]).exists()
    assert not any("complex" in key for row in rows for key in row)
    assert {key for row in rows for key in row if key.startswith("probes/")} == {"probes/step"}


def test_entries_of_one_name_stay_apart(tmp_path):
    class Alike(Probe):
        def measure(self, run, step):
            yield Measurement("a", [1.0, 2.0], ("layer",), {"layer": ["b", "b"]})
            yield Measurement("c", np.arange(3.0), ("frequency",), {"frequency": [1e6, 1e6 + 1, 1e6 + 2]})

    with ProbeManager(
        torch.nn.Linear(1, 1), [Alike(every(1))], sinks=["wandb"], log_dir=tmp_path / "run", on_error="raise"
    ).attach() as manager:
        manager.step()
    row = history(tmp_path / "run")[0]
    assert (row["a/b"], row["a/b_2"]) == (1, 2)
    assert [row[f"c/frequency={place}"] for place in (1000000, 1000001, 1000002)] == [0, 1, 2]


@pytest.mark.parametrize(("error", "code"), [(ValueError(), 1), (KeyboardInterrupt(), 255)])
def test_a_run_that_was_broken_off_says_so(tmp_path, error, code):
    def fail():
        raise error

    with pytest.raises(type(error)):
        train(tmp_path / "run", "wandb", between=fail)
    assert [each.exit.exit_code for each in records(tmp_path / "run") if each.HasField("exit")] == [code]


def test_the_axis_of_every_chart_is_the_step(tmp_path):
    train(tmp_path / "run", "wandb")
    metrics = [record.metric for record in records(tmp_path / "run") if record.WhichOneof("record_type") == "metric"]
    axes = {metric.name: metric.step_metric for metric in metrics}
    assert axes["a/number"] == axes["a/spectrum"] == "probes/step"


def test_the_scripts_own_run_loses_no_row_and_is_still_active(tmp_path):
    (tmp_path / "script").mkdir()  # wandb looks for it in init, and would take another
    mine = wandb.init(project="mine", dir=str(tmp_path / "script"), reinit="create_new")
    step = iter(range(100))
    try:
        train(tmp_path / "run", "wandb", between=lambda: mine.log({"loss": 1.0}, step=next(step)))
        mine.log({"loss": 2.0}, step=50)
    finally:
        mine.finish()
    assert [row["_step"] for row in history(tmp_path / "script")] == [0, 1, 2, 50]
    assert len(history(tmp_path / "run")) == 4


def test_a_run_of_ours_is_of_the_active_runs_project(tmp_path):
    with wandb.init(project="mine", name="experiment", dir=str(tmp_path)) as mine:
        train(tmp_path / "run", "wandb")
        assert wandb.run is mine
    (ours,) = [record.run for record in records(tmp_path / "run") if record.WhichOneof("record_type") == "run"][:1]
    assert (ours.project, ours.run_group, ours.display_name) == ("mine", "experiment", "run")


def test_a_given_run_is_used_and_left_open(tmp_path):
    mine = wandb.init(project="mine", dir=str(tmp_path), reinit="create_new")
    train(tmp_path / "run", WandbSink(mine))
    mine.log({"loss": 1.0})
    mine.finish()
    rows = history(tmp_path)
    assert [row.get("a/number") for row in rows] == [0.5, 1.5, 2.5, 3.5, None]
    with pytest.raises(ValueError, match=r"project of wandb\.init cannot be chosen"):
        WandbSink(mine, project="other")


def test_the_report_is_an_artifact_when_asked_for(tmp_path):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sinks = ["hdf5", WandbSink(report=True)]
    with ProbeManager(model, [Charts(every(1))], sinks=sinks, log_dir=tmp_path / "run", on_error="raise").attach(
        optimizer
    ):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    artifacts = [record.request.log_artifact.artifact for record in records(tmp_path / "run")] + [
        record.artifact for record in records(tmp_path / "run") if record.WhichOneof("record_type") == "artifact"
    ]
    (artifact,) = [item for item in artifacts if item.type == "report"]
    assert [entry.path for entry in artifact.manifest.contents] == ["run.html"]
