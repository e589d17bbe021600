"""What a signal handler of the script raises (a time limit, a preemption) reaches the loop, whatever it meets."""

import signal

import pytest
import torch
import torch.nn.functional as F
from loops import Memory
from torch import nn

from probes import Measurement, Probe, ProbeManager, every, hookimpl, open_run
from probes.guard.handlers import handlers_pass, raised_by_handler, suppressed
from probes.guard.undo import undo_all
from probes.session.discovery import load


class Preempted(Exception):
    pass


@pytest.fixture(autouse=True)
def handler():
    def preempted(number, frame):
        raise Preempted("save and leave")

    before = signal.signal(signal.SIGUSR1, preempted)
    yield preempted
    assert signal.getsignal(signal.SIGUSR1) is preempted  # ours is gone
    signal.signal(signal.SIGUSR1, before)


class Signalled(nn.ReLU):
    """Sends the signal in its ``at``-th call in eval mode, never the loop's, of those after so many of the loop's."""

    def __init__(self, at, after):
        super().__init__()
        self.left, LOOP[:] = at, [after]

    def forward(self, x):
        LOOP[0] -= self.training
        if not self.training and LOOP[0] <= 0:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGUSR1)
        return super().forward(x)


LOOP = [0]
"""Calls of the loop that are to come before."""


def train(probes, at, sinks=(), steps=4, after=0, **settings):
    torch.manual_seed(0)
    act = Signalled(at, after)
    model = nn.Sequential(nn.Linear(6, 16), act, nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 6), torch.arange(32) % 3
    with ProbeManager(model, probes, sinks=list(sinks), overhead=None, quiet=True, **settings).attach():
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return act.left


NAMES = ["layers", "fourier", "tangent_kernel", "curvature", "representation", "complexity", "mutual_information"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("after", [0, 3])  # at the first turn, and at a later one
def test_it_reaches_the_loop_from_a_forward_of_a_probe(name, at, after):
    probe = load(name)
    try:
        left = train([probe(every(1))], at, after=after)
    except Preempted:
        return
    assert left > 0 and at > 1  # so many calls were not made, or else it was lost


def test_it_reaches_the_loop_from_a_probe_that_catches_every_exception():
    class Tries(Probe):
        name = "tries"

        def measure(self, run, step):
            try:
                signal.raise_signal(signal.SIGUSR1)
            except Exception as error:
                raise RuntimeError("cannot be called") from error
            yield Measurement("tries/x", 1.0)

    with pytest.raises(Preempted):
        train([Tries(every(1))], 0)


def test_it_reaches_the_loop_from_a_sink_and_its_file_goes_on(tmp_path, monkeypatch):
    from probes.sinks.hdf5 import writer

    class One(Probe):
        name = "one"

        def measure(self, run, step):
            yield Measurement("one/x", float(step))

    append, calls = writer.RunFileWriter._append, []

    def interrupted(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGUSR1)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(writer.RunFileWriter, "_append", interrupted)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    heard = 0
    with ProbeManager(model, [One(every(1))], sinks=["hdf5"], log_dir=tmp_path, overhead=None, quiet=True).attach():
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(4, 2)).sum().backward()
            try:
                optimizer.step()
            except Preempted:
                heard += 1
    assert heard == 1
    steps = open_run(tmp_path)["one/x"].step.values.tolist()
    assert steps == list(range(6))  # the signal came before the first update, which was not made


def test_it_passes_what_is_undone_and_all_of_it_is():
    undone = []

    def signals():
        undone.append("signals")
        if len(undone) == 1:
            signal.raise_signal(signal.SIGUSR1)

    undo = [lambda: undone.append("first"), signals]
    with pytest.raises(Preempted), handlers_pass():
        try:
            undo_all(undo)
        finally:
            undo_all(undo)
    assert undone == ["signals", "signals", "first"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_drops_in_a_finalizer_comes_at_the_end():
    class Dropped:
        def __del__(self):
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(Preempted), handlers_pass():
        Dropped()


def test_nested_it_passes_both_and_handlers_are_as_before(handler):
    with pytest.raises(Preempted), handlers_pass():
        try:
            with handlers_pass():
                try:
                    signal.raise_signal(signal.SIGUSR1)
                except Exception:
                    pytest.fail("caught")
        except Exception:
            pass  # between two calls of ours it may be lost, and is not
    with handlers_pass(), suppressed():
        raise ValueError("none of a handler's")
    with pytest.raises(Preempted) as caught, suppressed():
        signal.raise_signal(signal.SIGUSR1)
    assert raised_by_handler(caught.value)


def test_a_handler_that_sets_another_is_obeyed(handler):
    def once(number, frame):
        signal.signal(number, signal.SIG_IGN)

    signal.signal(signal.SIGUSR1, once)
    with handlers_pass():
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, handler)


def test_in_a_sink_of_a_third_party_it_is_no_fault():
    class Noisy(Memory):
        @hookimpl
        def flush(self):
            try:
                signal.raise_signal(signal.SIGUSR1)
            except Exception:
                self.calls.append("caught")

    sink = Noisy()
    with pytest.raises(Preempted):
        train([load("layers")(every(1))], 0, sinks=[sink])
    assert "caught" not in sink.calls
