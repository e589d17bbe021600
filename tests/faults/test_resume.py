"""A checkpoint whose run is not where it was: the training goes on, and the new file says what is missing."""

import shutil
import time

import pytest
import torch
from loops import Norm, run_steps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.sinks import tensorboard_file
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.tensorboard import TensorBoardSink


class Sum(Probe):
    name = "sum"
    total = 0

    def measure(self, run, step):
        self.total += 1
        yield Measurement("sum/total", self.total)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def first_session(model, optimizer, log_dir, probes=None, steps=5):
    manager = ProbeManager(model, probes or [Norm(every(1))], log_dir=log_dir, overhead=None).attach(optimizer)
    run_steps(model, optimizer, steps)
    state = manager.state_dict()
    manager.detach()
    return state


def second_session(model, optimizer, state, log_dir, probes=None, **settings):
    manager = ProbeManager(model, probes or [Norm(every(1))], log_dir=log_dir, overhead=None, **settings)
    manager.load_state_dict(state)
    with manager.attach(optimizer):
        run_steps(model, optimizer, 3)
    return manager


def messages(log_dir):
    return " | ".join(open_run(log_dir)["events"]["message"].values.tolist())


@pytest.mark.parametrize("given", [True, False])
def test_the_directory_of_a_resumed_run_is_gone(given, model, optimizer, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    log_dir = tmp_path / "run"
    state = first_session(model, optimizer, log_dir)
    shutil.rmtree(log_dir)
    manager = second_session(model, optimizer, state, log_dir if given else None)
    assert open_run(manager.run.log_dir)["norm/weight"]["step"].values.tolist() == [6, 7, 8]
    missing = "The records of this run up to step 5 are missing here"
    assert missing in messages(manager.run.log_dir) and caplog.text.count(missing) == 1


def test_the_directory_of_a_resumed_run_holds_another(model, optimizer, tmp_path, caplog):
    log_dir = tmp_path / "run"
    state = first_session(model, optimizer, log_dir)
    shutil.rmtree(log_dir)
    first_session(model, optimizer, log_dir)
    before = (log_dir / "run.h5").read_bytes()
    manager = second_session(model, optimizer, state, log_dir)
    assert manager.run.log_dir == tmp_path / "run_2" and (log_dir / "run.h5").read_bytes() == before
    assert "The checkpoint is of run" in messages(tmp_path / "run_2") and "are missing here" in messages(
        tmp_path / "run_2"
    )
    assert str(tmp_path / "run_2") in manager.report() and caplog.text.count("Results go to") == 1


def test_a_run_that_had_to_go_elsewhere_is_continued_there(model, optimizer, tmp_path):
    first_session(model, optimizer, tmp_path / "run")
    state = first_session(model, optimizer, tmp_path / "run")
    assert state["log_dir"] == str(tmp_path / "run_2")
    manager = second_session(model, optimizer, state, tmp_path / "run")
    assert manager.run.log_dir == tmp_path / "run_2"
    assert open_run(tmp_path / "run_2")["norm/weight"]["step"].values.tolist() == list(range(9))


def test_on_error_raise_wants_the_directory_that_was_asked_for(model, optimizer, tmp_path):
    state = first_session(model, optimizer, tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    first_session(model, optimizer, tmp_path / "run")
    with pytest.raises(FileExistsError, match="The checkpoint is of run"):
        second_session(model, optimizer, state, tmp_path / "run", on_error="raise")
    assert not optimizer._optimizer_step_post_hooks


def test_a_probe_whose_state_cannot_be_taken_back_measures_no_more(model, optimizer, tmp_path):
    class Refuses(Sum):
        def load_state_dict(self, state):
            raise OSError("another format")

    state = first_session(model, optimizer, tmp_path, [Sum(every(1)), Norm(every(1))])
    manager = second_session(model, optimizer, state, tmp_path, [Refuses(every(1)), Norm(every(1))])
    run = open_run(tmp_path)
    assert run["sum/total"]["step"].values.tolist() == list(range(6))  # not begun again from zero
    assert run["norm/weight"]["step"].values.tolist() == list(range(9))
    assert "its state is lost" in messages(tmp_path) and "its state is lost" in manager.report()


def test_a_probe_whose_state_could_not_be_saved_measures_no_more_after_a_resume(model, optimizer, tmp_path):
    class Forgets(Sum):
        def state_dict(self):
            raise OSError("cannot save")

    state = first_session(model, optimizer, tmp_path, [Forgets(every(1)), Norm(every(1))])
    second_session(model, optimizer, state, tmp_path, [Sum(every(1)), Norm(every(1))])
    assert open_run(tmp_path)["sum/total"]["step"].values.tolist() == list(range(6))
    assert "it failed when the checkpoint was made" in messages(tmp_path)


@pytest.mark.parametrize("key", ["batches", "governor", "due", "turns", "lost"])
def test_a_state_of_which_a_part_is_missing_or_wrong_does_not_stop_the_training(key, model, optimizer, tmp_path):
    for number, broken in enumerate(({}, {key: 7})):
        state = {**first_session(model, optimizer, tmp_path / f"{number}"), **broken}
        if not broken:
            del state[key]
        second_session(model, optimizer, state, tmp_path / f"{number}")
        steps = open_run(tmp_path / f"{number}")["norm/weight"]["step"].values.tolist()
        assert steps == list(range(9)) or "Not all of the checkpoint's state" in messages(tmp_path / f"{number}")


@pytest.mark.parametrize("broken", [{"step": "many"}, {"run_id": 7}, {"plugins": None}])
def test_what_is_no_state_is_refused(broken, model, optimizer, tmp_path):
    state = {**first_session(model, optimizer, tmp_path), **broken}
    with pytest.raises(ValueError, match=r"`state\['.*'\]` must be of type"):
        ProbeManager(model, []).load_state_dict(state)


def test_event_files_are_in_order_also_when_the_clock_was_set_back(model, optimizer, tmp_path, monkeypatch):
    state = first_session(model, optimizer, tmp_path)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    second_session(model, optimizer, state, tmp_path)
    first, second = sorted(tmp_path.glob("events*"), key=lambda path: path.stat().st_mtime)
    assert first.name < second.name
    loaded = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    loaded.Reload()
    assert [event.step for event in loaded.Scalars("norm/weight")] == list(range(9))


def test_the_clock_of_another_thread_is_left_alone():
    clock = tensorboard_file.TimeOfRow(10**10)
    assert clock.time() == 10**10 and clock.monotonic() < 10**10
    seen = []
    import threading

    thread = threading.Thread(target=lambda: seen.append(clock.time()))
    thread.start()
    thread.join()
    assert abs(seen[0] - time.time()) < 60


def test_a_directory_is_shared_by_no_two_managers(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / "run", overhead=None).attach(optimizer):
        other = torch.nn.Linear(2, 1)
        second = ProbeManager(other, [Norm(every(1))], log_dir=tmp_path / "run", sinks=[HDF5Sink(), TensorBoardSink()])
        second.attach()
        assert second.run.log_dir == tmp_path / "run_2"
        second.detach()
