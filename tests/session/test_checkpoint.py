"""A resumed run continues where its checkpoint left it."""

import h5py
import numpy as np
import pytest
import torch
from loops import Norm, run_steps
from torch import nn

from probes import Measurement, Probe, ProbeManager, every, open_run


class Sum(Probe):
    """Adds up what it draws: a probe with a state."""

    total = 0.0

    def measure(self, run, step):
        self.total += float(torch.rand((), generator=run.generator)) + float(run.evaluate("train").sum())
        yield Measurement("sum/total", self.total)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def loop(model, optimizer, start, stop):
    for step in range(start, stop):
        optimizer.zero_grad()
        x = torch.full((4, 2), float(step % 7))
        model(x).square().mean().backward()
        optimizer.step()


def fresh():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, when, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, optimizer = fresh()
    with ProbeManager(model, [Sum(every(3))], log_dir=tmp_path / "whole", overhead=None).attach(optimizer):
        loop(model, optimizer, 0, 40)
    whole = open_run(tmp_path / "whole")["sum/total"]

    model, optimizer = fresh()
    manager = ProbeManager(model, [Sum(every(3))], log_dir=tmp_path / "cut", overhead=None).attach(optimizer)
    loop(model, optimizer, 0, 20)
    torch.save([model.state_dict(), optimizer.state_dict(), manager.state_dict()], tmp_path / "checkpoint")
    loop(model, optimizer, 20, 31)  # measured, and then lost in a crash
    manager.detach()

    states = torch.load(tmp_path / "checkpoint", weights_only=True)
    model, optimizer = fresh()
    model.load_state_dict(states[0]), optimizer.load_state_dict(states[1])
    if when == "before":
        manager = ProbeManager(model, [Sum(every(3))], log_dir=tmp_path / "cut", overhead=None)
        manager.load_state_dict(states[2])
        manager.attach(optimizer)
    else:
        manager = ProbeManager(model, [Sum(every(3))], overhead=None).attach(optimizer)
        manager.load_state_dict(states[2])
        assert manager.run.log_dir == tmp_path / "cut" and not list((tmp_path / "runs").iterdir())
    loop(model, optimizer, 20, 40)
    manager.detach()

    resumed = open_run(tmp_path / "cut")["sum/total"]
    assert resumed["step"].values.tolist() == whole["step"].values.tolist() == list(range(0, 40, 3))
    np.testing.assert_array_equal(resumed["value"].values, whole["value"].values)


def test_a_state_is_refused_when_it_is_none_of_ours_or_comes_late(model, optimizer):
    manager = ProbeManager(model, [Norm(every(1))], sinks=[])
    with pytest.raises(ValueError, match=r"must be what ProbeManager.state_dict\(\) returned, got keys \['model'\]"):
        manager.load_state_dict({"model": 1})
    with pytest.raises(RuntimeError, match="needs an attached ProbeManager"):
        manager.state_dict()
    with manager.attach(optimizer):
        state = manager.state_dict()
        run_steps(model, optimizer, 1)
        with pytest.raises(RuntimeError, match="before the first step"):
            manager.load_state_dict(state)


def test_a_checkpoint_made_after_detach_holds_what_was_then(tmp_path):
    model, optimizer = fresh()
    probe = Sum(every(1))
    manager = ProbeManager(model, [probe], log_dir=tmp_path / "run", overhead=None)
    with manager.attach(optimizer):
        loop(model, optimizer, 0, 3)
    state = manager.state_dict()
    assert state["step"] == 3 and state["plugins"]["Sum"] == {"total": probe.total}
    resumed = ProbeManager(model, [Sum(every(1))], log_dir=tmp_path / "run", overhead=None)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state  # loaded, and not attached yet
    with resumed.attach(optimizer):
        loop(model, optimizer, 3, 5)
    assert open_run(tmp_path / "run")["sum/total"]["step"].values.tolist() == list(range(6))


def test_a_state_that_cannot_be_had_does_not_keep_the_files_from_being_closed(tmp_path):
    class Interrupted(Sum):
        def state_dict(self):
            raise KeyboardInterrupt

    model, optimizer = fresh()
    manager = ProbeManager(model, [Interrupted(every(1))], log_dir=tmp_path / "run", overhead=None).attach(optimizer)
    loop(model, optimizer, 0, 3)
    with pytest.raises(KeyboardInterrupt):
        manager.detach()
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert file["sum/total/step"][:].tolist() == [0, 1, 2, 3]
    assert "Not attached" not in manager.report() and not optimizer._optimizer_step_post_hooks


def test_a_state_that_comes_when_another_run_is_in_the_directory_leaves_no_directory_behind(tmp_path):
    model, optimizer = fresh()
    manager = ProbeManager(model, [Sum(every(1))], log_dir=tmp_path / "run", overhead=None)
    with manager.attach(optimizer):
        loop(model, optimizer, 0, 3)
    late = ProbeManager(model, [Sum(every(1))], log_dir=tmp_path / "run", overhead=None).attach(optimizer)
    assert late.run.log_dir == tmp_path / "run_2"
    late.load_state_dict(manager.state_dict())
    assert late.run.log_dir == tmp_path / "run" and not (tmp_path / "run_2").exists()
    late.detach()


def resumed(tmp_path, probes=None, **settings):
    """The manager of a run that was made with a probe and a batch, and goes on with these."""
    model, optimizer = fresh()
    batches = {"train": (torch.ones(4, 2), None)}
    with ProbeManager(model, [Norm(every(1))], batches, log_dir=tmp_path, overhead=None).attach(optimizer) as manager:
        loop(model, optimizer, 0, 3)
        state = manager.state_dict()
    manager = ProbeManager(model, probes or [Norm(every(1))], log_dir=tmp_path, overhead=None, **settings)
    manager.load_state_dict(state)
    with manager.attach(optimizer):
        loop(model, optimizer, 3, 6)
    return open_run(tmp_path)


def warnings_of(run):
    events = run["events"].to_dataset()
    return [
        str(text) for kind, text in zip(events.kind.values, events.message.values, strict=True) if kind == "warning"
    ]


def test_another_batch_than_the_checkpoints_is_told(tmp_path):
    assert not warnings_of(resumed(tmp_path / "none"))
    assert not warnings_of(resumed(tmp_path / "same", batches={"train": (torch.ones(4, 2), None)}))
    (text,) = warnings_of(resumed(tmp_path / "other", batches={"train": (torch.zeros(4, 2), None)}))
    assert "'train' is not that of the checkpoint (4 samples, now 4)" in text


def test_a_run_that_goes_on_with_other_probes_keeps_its_bookkeeping(tmp_path):
    run = resumed(tmp_path, [Norm(every(1)), Sum(every(1))], on_error="raise")
    (text,) = warnings_of(run)
    assert "not those of the checkpoint" in text
    assert run["probes/share"]["step"].values[-1] == 6 and run["sum/total"]["step"].values.tolist() == [4, 5, 6]
    assert "fault" not in run["events"].to_dataset().kind.values


class Steps(Probe):
    """Counts its turns, for a name."""

    name = "steps"

    def __init__(self, of):
        super().__init__(every(1))
        self.of, self._turns = of, 0

    def measure(self, run, step):
        self._turns += 1
        yield Measurement(f"steps/{self.of}", float(self._turns))

    def state_dict(self):
        return {"of": self.of, "turns": self._turns}

    def load_state_dict(self, state):
        assert state["of"] == self.of
        self._turns = state["turns"]


@pytest.mark.parametrize(
    ("before", "after", "anew"),
    [
        ("ab", "ba", ""), ("abc", "cab", ""), ("a", "ba", "b"), ("ab", "b", ""), ("ab", "ac", "c"), ("aa", "a", ""),
        ("a", "aa", "a"), ("", "ab", ""),
    ],
)  # fmt: skip
def test_of_several_of_a_name_each_goes_on_with_the_state_of_one_made_alike(tmp_path, before, after, anew, caplog):
    model, optimizer = fresh()
    probes = [Norm(every(1)), *map(Steps, before)]
    with ProbeManager(model, probes, log_dir=tmp_path / "a", overhead=None).attach(optimizer) as manager:
        loop(model, optimizer, 0, 4)
        state = manager.state_dict()
    probes = list(map(Steps, after))
    manager = ProbeManager(model, [*probes, Norm(every(1))], log_dir=tmp_path / "b", overhead=None)
    manager.load_state_dict(state)
    with manager.attach(optimizer):
        loop(model, optimizer, 4, 6)
    assert caplog.text.count("begins anew") == len(anew)
    new = list(anew)
    for probe in reversed(probes):
        begins = not before or (probe.of in new and not new.remove(probe.of))
        assert probe._turns == (2 if begins else 7)
