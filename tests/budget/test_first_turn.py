"""What a first turn costs is known before: of a slow model fewer samples are measured on, once, for good, and told."""

import pytest
import torch
from loops import Memory
from torch import nn

from probes import Measurement, Probe, ProbeManager, every
from probes.batches import Batch
from probes_fourier import FourierSpectrum


class Clock:
    """Of the budget, and of what is looked at before a first turn: no test depends on how busy the machine is."""

    now = 0.0

    def __call__(self):
        return self.now


clock = Clock()


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr("probes.budget.spending.OwnTime", lambda: clock)


class Slow(nn.Module):
    """Takes so many seconds of that clock for each row."""

    def __init__(self, seconds):
        super().__init__()
        self.layer, self.seconds = nn.Linear(2, 1), seconds

    def forward(self, x):
        clock.now += self.seconds * len(x)
        return self.layer(x)


class Rows(Probe):
    name = "rows"

    def measure(self, run, step):
        yield Measurement("rows/n", run.batch("train").n)


def trained(model, steps=2, samples=10, **arguments):
    sink = Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, sinks=[sink], **arguments).attach(optimizer) as manager:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(samples, 2)).sum().backward()
            optimizer.step()
        state = manager.state_dict()
    return sink, state


def batch_sizes(sink):
    return [int(row.value) for row in sink.rows if row.name == "rows/n"]


def test_a_batch_of_a_slow_model_is_cut_once_and_told():
    sink, _ = trained(Slow(0.01), probes=[Rows(every(1))], batches={"train": torch.randn(100, 2)})
    sizes = batch_sizes(sink)
    assert set(sizes) == {31}  # 2.5 s are eight passes of 31 rows
    (told,) = [event.message for event in sink.events if "samples of 100 are measured on" in event.message]
    assert told.startswith(f"Batch 'train': {sizes[0]} samples of 100") and "overhead=None" in told


@pytest.mark.parametrize(
    "arguments",
    [
        {"overhead": None, "batches": {"train": torch.randn(100, 2)}},
        {"batches": {"train": Batch((torch.randn(100, 2),))}},
    ],
    ids=["exact", "given whole"],
)
def test_a_batch_is_whole_where_that_is_asked_for(arguments):
    sink, _ = trained(Slow(0.004), steps=1, probes=[Rows(every(1))], **arguments)
    assert set(batch_sizes(sink)) == {100}


ROWS = []
"""A global: a list of the model's own, or of a hook's, would be as before, after a probe has looked."""


def test_a_quick_model_is_tried_on_a_few_samples_and_no_more():
    model = Slow(0.0)
    ROWS.clear()
    model.register_forward_hook(lambda module, args, output: ROWS.append(len(output)))
    sink, _ = trained(model, steps=1, probes=[Rows(every(1))], batches={"train": torch.randn(100, 2)})
    assert set(batch_sizes(sink)) == {100} and ROWS == [10, 2]


def test_a_model_too_quick_for_the_clock_is_measured_whole(monkeypatch):
    monkeypatch.setattr("probes.run.Run.sample_seconds", lambda self, name: 0.0)
    sink, _ = trained(Slow(0.0), steps=1, probes=[Rows(every(1))], batches={"train": torch.randn(100, 2)})
    assert set(batch_sizes(sink)) == {100} and "fault" not in {event.kind for event in sink.events}


def test_a_resumed_run_measures_on_as_many_as_before():
    batches = {"train": torch.randn(100, 2)}
    sink, state = trained(Slow(0.01), probes=[Rows(every(1))], batches=batches)
    model, again = Slow(0.0), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Rows(every(1))], batches, [again])
    manager.load_state_dict(state)
    with manager.attach(optimizer):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    assert set(batch_sizes(again)) == set(batch_sizes(sink))


def test_the_spectrum_of_a_slow_model_is_of_fewer_segments_and_points_for_good():
    model = Slow(0.02)
    sink, state = trained(model, probes=[FourierSpectrum(every(1))], batches={"train": Batch((torch.randn(8, 2),))})
    rows = [row for row in sink.rows if row.name == "fourier/amplitude/train"]
    segments, points = state["plugins"]["fourier"]["size"]
    assert points in (16, 32) and segments * points * 0.02 <= 2.5
    assert all(f"{points} points of {segments} segments" in row.estimator for row in rows) and len(rows) >= 1
    assert any(
        f"Measured on {segments} segments of {points} points instead of 16 of 64" in e.message for e in sink.events
    )
    probe = FourierSpectrum(every(1))
    probe.load_state_dict(state["plugins"]["fourier"])
    assert (probe.num_segments, probe.num_points, len(probe.frequencies)) == (segments, points, points // 2)


def test_a_turn_that_fits_at_no_size_is_refused_and_comes_later():
    sink, _ = trained(
        Slow(0.2), 1, 2, probes=[FourierSpectrum(every(1))], batches={"train": Batch((torch.randn(2, 2),))}
    )
    (refused,) = [event.message for event in sink.events if event.kind == "refused"]
    assert "16 points alone would take 3" in refused and "overhead=None measures at any cost" in refused


@pytest.mark.parametrize(("inputs", "outputs", "most"), [(2**20, 2, 64), (2**22, 1, 16)])
def test_what_would_fill_the_memory_is_measured_on_fewer_points(inputs, outputs, most):
    model, probe, sink = nn.Linear(inputs, outputs, bias=False), FourierSpectrum(every(5)), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [probe], {"train": Batch((torch.randn(2, inputs),))}, [sink]).attach(optimizer):
        model.weight.sum().backward()
        optimizer.step()
    assert probe.num_segments * probe.num_points <= most and probe.num_points >= 16
    assert sink.steps("fourier/amplitude/train") and any("numbers of inputs" in e.message for e in sink.events)


def test_settings_that_were_given_are_obeyed():
    model = Slow(0.01)
    probe = FourierSpectrum(every(1), num_points=64, num_segments=5)
    sink, _ = trained(model, 1, probes=[probe], batches={"train": Batch((torch.randn(4, 2),))})
    assert (
        "64 points of 5 segments" in next(row for row in sink.rows if row.name == "fourier/amplitude/train").estimator
    )
