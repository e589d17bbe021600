"""What trackio has stored, read through its own API; conftest.py says where."""

import numpy as np
import pytest
import torch

trackio = pytest.importorskip("trackio")

from trackio import context_vars  # noqa: E402
from trackio.sqlite_storage import SQLiteStorage  # noqa: E402

from probes import Axis, Measurement, Probe, ProbeManager, every  # noqa: E402
from probes_trackio import TrackioSink  # noqa: E402


class Charts(Probe):
    def measure(self, run, step):
        yield Measurement("a/number", step + 0.5)
        yield Measurement("a/spectrum", np.arange(3.0) + step, ("frequency",), {"frequency": Axis([1, 2, 4], "cycles")})
        yield Measurement("a/image", np.arange(6.0).reshape(2, 3), ("y", "x"))
        yield Measurement("a/complex", [1j, 2j], ("k",))


@pytest.fixture(autouse=True)
def outside_of_any_run():
    yield
    for variable in (context_vars.current_run, context_vars.current_project):
        variable.set(None)


def train(log_dir, sinks, between=lambda step: None):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Charts(every(1))], sinks=sinks, log_dir=log_dir, overhead=None, on_error="raise")
    with manager.attach(optimizer):
        for step in range(3):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
            between(step)


def test_numbers_spectra_and_images_are_there_at_their_steps(tmp_path, capsys):
    train(tmp_path / "one", [TrackioSink("numbers")])
    logs = SQLiteStorage.get_logs("numbers", "one")
    assert [row["step"] for row in logs] == [0, 1, 2, 3]
    assert [row["a/number"] for row in logs] == [0.5, 1.5, 2.5, 3.5]
    assert logs[2]["a/spectrum"]["values"] == [2.0, 3.0, 4.0]
    assert "a/complex" not in logs[0] and not any(name.startswith("probes/") for name in logs[0])
    assert capsys.readouterr().out == ""  # the script's output is the script's


def test_the_run_of_the_script_goes_on(tmp_path):
    own = trackio.init(project="mine", name="script", auto_log_cpu=False, embed=False)
    train(tmp_path / "beside", [TrackioSink()], lambda step: trackio.log({"loss": float(step)}, step=step))
    assert context_vars.current_run.get() is own
    trackio.finish()
    assert [row["loss"] for row in SQLiteStorage.get_logs("mine", "script")] == [0.0, 1.0, 2.0]
    assert [row["a/number"] for row in SQLiteStorage.get_logs("mine", "beside")] == [0.5, 1.5, 2.5, 3.5]


def test_the_report_is_an_artifact_when_asked_for(tmp_path, monkeypatch):
    seen = []
    from trackio.run import Run

    log = Run.log_artifact
    monkeypatch.setattr(
        Run, "log_artifact", lambda self, file, **more: seen.append(file.read_text()) or log(self, file, **more)
    )
    train(tmp_path / "one", ["hdf5", TrackioSink("reports", report=True)])
    (page,) = seen
    assert "a/number" in page and "probes-data" in page


def test_a_report_of_nothing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        train(tmp_path / "one", [TrackioSink(report=True)])
