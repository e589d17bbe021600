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


def train(log_dir, sinks, between=lambda step: None, resumed=None):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Charts(every(1))], sinks=sinks, log_dir=log_dir, overhead=None, on_error="raise")
    if resumed is not None:
        manager.load_state_dict(resumed)
    with manager.attach(optimizer):
        for step in range(3):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
            between(step)
    return manager


def named(manager):
    return f"{manager.run.log_dir.name}-{manager.run.run_id[:8]}"


def numbers(project, manager):
    return [row["a/number"] for row in SQLiteStorage.get_logs(project, named(manager))]


def test_numbers_spectra_and_images_are_there_at_their_steps(tmp_path, capsys):
    manager = train(tmp_path / "one", [TrackioSink("numbers")])
    logs = SQLiteStorage.get_logs("numbers", named(manager))
    assert [row["step"] for row in logs] == [0, 1, 2, 3]
    assert [row["a/number"] for row in logs] == [0.5, 1.5, 2.5, 3.5]
    assert logs[2]["a/spectrum"]["values"] == [2.0, 3.0, 4.0]
    assert "a/complex" not in logs[0] and not any(name.startswith("probes/") for name in logs[0])
    assert capsys.readouterr().out == ""  # the script's output is the script's


def test_the_run_of_the_script_goes_on(tmp_path):
    own = trackio.init(project="mine", name="script", auto_log_cpu=False, embed=False)
    ours = train(tmp_path / "beside", [TrackioSink()], lambda step: trackio.log({"loss": float(step)}, step=step))
    assert context_vars.current_run.get() is own
    trackio.finish()
    assert [row["loss"] for row in SQLiteStorage.get_logs("mine", "script")] == [0.0, 1.0, 2.0]
    assert numbers("mine", ours) == [0.5, 1.5, 2.5, 3.5]


def test_runs_of_one_name_stay_apart_and_a_resumed_one_goes_on(tmp_path):
    runs = [train(tmp_path / above / "seed0", [TrackioSink("apart")]) for above in ("a", "b", "b")]
    assert [numbers("apart", each) for each in runs] == 3 * [[0.5, 1.5, 2.5, 3.5]]
    resumed = train(tmp_path / "b" / "seed0", [TrackioSink("apart")], resumed=runs[-1].state_dict())
    assert named(resumed) == named(runs[-1])
    assert numbers("apart", resumed) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert len(SQLiteStorage.get_run_records("apart")) == 3


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
