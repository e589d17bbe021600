"""What cannot be measured is refused in one line, and asked for again; it is no fault, and nobody is quarantined."""

import logging
import re

import pytest
import torch
from loops import Memory, Norm, run_steps
from torch import nn

from probes import CannotMeasure, Measurement, Probe, ProbeManager, every


class Sometimes(Probe):
    """Cannot measure at some steps; yields something before it says so."""

    name = "sometimes"

    def __init__(self, bad):
        super().__init__(every(1))
        self.bad = bad

    def measure(self, run, step):
        yield Measurement("sometimes/first", step)
        if step in self.bad:
            raise CannotMeasure("One sample is no batch. Pass batches={'train': (inputs, targets)} with several.")
        yield Measurement("sometimes/second", step)


def test_what_cannot_be_measured_is_told_once_in_one_line_and_asked_for_again(model, optimizer, caplog):
    caplog.set_level(logging.INFO, "probes")
    sink = Memory()
    with ProbeManager(model, [Sometimes({1, 2, 3, 4, 6})], sinks=[sink], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 5)
        assert "Not measured" not in manager.report()
        run_steps(model, optimizer, 1)
        assert "Not measured\n  sometimes: One sample is no batch." in manager.report()
        run_steps(model, optimizer, 2)
    assert sink.steps("sometimes/first") == list(range(9)) and sink.steps("sometimes/second") == [0, 5, 7, 8]
    told = [record for record in caplog.records if "cannot measure" in record.message]
    assert len(told) == 1 and "\n" not in told[0].getMessage() and told[0].exc_info is None
    assert [event.kind for event in sink.events if "cannot measure" in event.message] == ["refused", "refused"]
    (plugin,) = [row for row in sink.rows if row.name == "probes/failed"][-1:]
    assert plugin.value.tolist() == [5] and "quarantine" not in {event.kind for event in sink.events}


def test_a_reason_that_several_probes_share_is_told_once(model, optimizer, caplog):
    caplog.set_level(logging.INFO, "probes")
    sink, probes = Memory(), [Sometimes({1, 2, 3}), Sometimes({1, 2})]
    with ProbeManager(model, probes, sinks=[sink], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 3)
        manager.report()
    told = [record.getMessage() for record in caplog.records if "cannot" in record.message]
    assert len(told) == 2 and "One sample" in told[0] and told[1].endswith("cannot either, for the same reason.")
    reasons = [event.message for event in sink.events if event.kind == "refused"]
    assert len(reasons) == 2 and all("One sample is no batch" in reason for reason in reasons)  # the file has both


def test_in_development_it_is_raised(model, optimizer):
    with (
        pytest.raises(CannotMeasure, match="One sample is no batch"),
        ProbeManager(model, [Sometimes({1})], sinks=[], overhead=None, on_error="raise").attach(optimizer),
    ):
        run_steps(model, optimizer, 2)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), 1)


class Coupled(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y - y.mean(0)


class Evaluates(Probe):
    name = "evaluates"

    def measure(self, run, step):
        run.check_examples("train")
        yield Measurement("evaluates/mean", run.evaluate("train").mean())


@pytest.mark.parametrize(
    ("model", "batch", "reason"),
    [
        (Noisy(2, 1), torch.randn(6, 2), "The output is random: the same examples evaluated twice give two outputs"),
        (Coupled(2, 1), torch.randn(6, 2), "Examples interact: the output for an example is another among other"),
        (nn.Linear(2, 1), torch.randn(6, 3), r"The model cannot be called with batch 'train', of shape \(6, 3\)"),
        (nn.Flatten(0), torch.randn(6, 2), "The model's output must have one row for each of the 6 samples"),
    ],
)
def test_models_that_are_no_function_of_one_example_are_refused_with_the_reason(model, batch, reason, caplog):
    holder = nn.Sequential(model, nn.Identity())
    holder.register_parameter("other", nn.Parameter(torch.ones(1)))
    optimizer = torch.optim.SGD(holder.parameters(), lr=0.1)
    sink = Memory()
    with ProbeManager(holder, [Evaluates(every(1))], {"train": batch}, [sink], overhead=None).attach(optimizer):
        for _ in range(5):
            holder.other.square().sum().backward()
            optimizer.step()
    (record,) = [record for record in caplog.records if "cannot measure" in record.message]
    assert re.search(reason, record.getMessage()) and "\n" not in record.getMessage()
    assert not sink.steps("evaluates/mean")


CALLS = []
"""A global: what a hook closes over is put back after a measurement."""


def test_the_check_costs_one_pass_more_however_many_probes_ask():
    model = nn.Linear(2, 1)
    CALLS.clear()
    model.register_forward_hook(lambda module, args, output: CALLS.append(len(output)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [Evaluates(every(10)), Evaluates(every(10))]
    with ProbeManager(model, probes, {"train": torch.randn(6, 2)}, [], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
    assert sum(CALLS) == 4 + 6 + 6 + 1  # the loop; all together; all apart; one twice


def test_a_batch_follows_the_model_to_another_dtype():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Memory()
    probes = [Evaluates(every(1))]
    with ProbeManager(model, probes, sinks=[sink], overhead=None, on_error="raise").attach(optimizer):
        run_steps(model, optimizer, 2)
        for dtype in (torch.float64, torch.bfloat16, torch.float32):
            model.to(dtype)
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.ones(4, 2, dtype=dtype)).square().mean().backward()
                optimizer.step()
    assert sink.steps("evaluates/mean") == list(range(9))


# ---------------------------------------------------------------------------------------------- steps that never come


def test_a_step_that_never_comes_is_missed_once(model, caplog):
    with ProbeManager(model, [Norm(every(1))], sinks=[]).attach() as manager:
        for _ in range(30):
            model.zero_grad()
            model(torch.ones(4, 2)).sum().backward()
            with torch.no_grad():
                model.weight.sub_(0.1)
        assert "although the model was called 30 times in training" in manager.report()
    missed = [record.getMessage() for record in caplog.records if "No optimizer step was seen" in record.message]
    assert len(missed) == 2  # after some calls, and at the end
    assert "although the model was called 20 times" in missed[0] and "call manager.step() after each" in missed[0]
    assert missed[1].startswith("Nothing was measured. ")


def test_gradients_that_are_added_up_over_many_calls_are_waited_for(model, optimizer, caplog):
    with ProbeManager(model, [Norm(every(1))], sinks=[]).attach():
        for _ in range(2):
            for _ in range(64):
                model(torch.ones(4, 2)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "No optimizer step" not in caplog.text


def test_steps_by_hand_are_measured(model):
    sink = Memory()
    with ProbeManager(model, [Norm(every(2))], sinks=[sink], overhead=None).attach() as manager:
        for _ in range(5):
            model(torch.ones(4, 2)).sum().backward()
            with torch.no_grad():
                model.weight.mul_(0.9)
            manager.step()
    assert manager.run.step == 5 and sink.steps("norm/weight") == [1, 2, 4]


def test_steps_by_hand_are_refused_where_an_optimizer_makes_them(model, optimizer, caplog):
    with ProbeManager(model, [Norm(every(1))], sinks=[]).attach() as manager:
        for _ in range(3):
            run_steps(model, optimizer, 1)
            manager.step()
        assert manager.run.step == 3
    assert caplog.text.count("manager.step() counts nothing here") == 1


def test_what_must_see_parameters_before_an_update_cannot_run_with_steps_by_hand(model, caplog):
    class Before(Norm):
        def before_step(self, run):
            pass

    with ProbeManager(model, [Before(every(1))], sinks=[]).attach() as manager:
        manager.step()
    assert "it must see the parameters before every update, and manager.step() comes after it" in caplog.text


def test_attached_twice_to_one_model_is_said(model, tmp_path, caplog):
    first = ProbeManager(model, [Norm()], log_dir=tmp_path / "run").attach()
    second = ProbeManager(model, [Norm()], log_dir=tmp_path / "run").attach()
    assert f"This process watches this model already, into {tmp_path / 'run'}" in caplog.text
    assert "Another ProbeManager of this process is writing" in caplog.text and "Another process" not in caplog.text
    first.detach()
    second.detach()
    caplog.clear()
    with ProbeManager(model, [Norm()], log_dir=tmp_path / "third").attach():
        assert "already" not in caplog.text
