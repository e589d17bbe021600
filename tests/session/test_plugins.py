"""What goes wrong in a plugin stays in it."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from loops import Memory, Norm, run_steps

from probes import Measurement, Probe, ProbeManager, every, hookimpl, open_run


def test_a_raising_probe_is_told_once_and_put_out_of_service(model, optimizer, caplog):
    class Broken(Probe):
        calls = 0

        def measure(self, run, step):
            Broken.calls += 1
            raise ZeroDivisionError("of my own")

    sink = Memory()
    caplog.set_level(logging.DEBUG, "probes")
    with ProbeManager(model, [Broken(every(1)), Norm(every(1))], sinks=[sink], overhead=None).attach(
        optimizer
    ) as manager:
        run_steps(model, optimizer, 6)
        assert "Broken: quarantined after 3 failures in a row" in manager.report()
    assert Broken.calls == 3 and sink.steps("norm/weight") == list(range(7))
    told = [record for record in caplog.records if "of my own" in record.message]
    assert [record.levelname for record in told] == ["WARNING", "DEBUG"]
    assert "Plugin 'Broken' (tests.session.test_plugins" in told[0].message and "\n" not in told[0].message
    assert told[1].message.startswith("Traceback")
    assert [event.kind for event in sink.events] == ["attach", "fault", "fault", "fault", "quarantine", "detach"]


def test_a_failure_now_and_then_does_not_end_a_probe_and_is_in_the_report(model, optimizer):
    class Sometimes(Probe):
        def measure(self, run, step):
            if step % 3:
                raise ZeroDivisionError(f"at {step}")
            yield Measurement("sometimes/one", 1.0)

    sink = Memory()
    with ProbeManager(model, [Sometimes(every(1))], sinks=[sink], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 10)
        assert "Sometimes: ZeroDivisionError('at 10')" in manager.report()
    assert sink.steps("sometimes/one") == [0, 3, 6, 9]


def test_a_misspelt_hook_is_told_once_and_the_rest_works(model, optimizer, caplog):
    class Misspelt(Norm):
        def on_stpe(self, run, step):
            raise AssertionError

    sink = Memory()
    with ProbeManager(model, [Misspelt(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    assert (
        caplog.text.count("implements unknown hook 'on_stpe'. Known hooks: on_attach, before_step, on_step, rank_part")
        == 1
    )
    assert sink.steps("norm/weight") == [0, 1, 2]


def test_a_hook_with_an_unknown_argument_is_told(model, optimizer, caplog):
    class Greedy(Norm):
        def on_step(self, run, step, loss):
            raise AssertionError

    with ProbeManager(model, [Greedy(every(1))], sinks=[], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
    assert "could not be registered" in caplog.text and "loss" in caplog.text


def test_a_wrong_shape_is_left_out_and_the_rest_recorded(model, optimizer, caplog):
    class Shapes(Probe):
        def measure(self, run, step):
            yield Measurement("shapes/grows", np.zeros(step + 1), dims=("i",))
            yield 3.0
            yield Measurement("shapes/good", 1.0)

    sink = Memory()
    with ProbeManager(model, [Shapes(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 5)
    assert sink.steps("shapes/grows") == [0] and sink.steps("shapes/good") == list(range(6))
    assert caplog.text.count("does not fit its stream: shape changed from (1,) to (2,)") == 1
    assert caplog.text.count("yielded float instead of a Measurement") == 1
    assert [row for row in sink.rows if row.name == "probes/failed"][-1].value.tolist() == [11]


def test_nan_is_recorded_and_told_once(model, optimizer, caplog):
    class Nan(Probe):
        def measure(self, run, step):
            yield Measurement("nan/value", float("nan"))

    sink = Memory()
    with ProbeManager(model, [Nan(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 3)
    assert len(sink.steps("nan/value")) == 4 and caplog.text.count("yielded NaN in 'nan/value'") == 1


def test_nan_in_several_streams_of_one_turn_are_told_in_one_line(model, optimizer, caplog):
    class Undefined(Probe):
        def measure(self, run, step):
            for name in "abcde"[: 2 + 3 * step]:
                yield Measurement(f"undefined/{name}", float("nan"))

    with ProbeManager(model, [Undefined(every(1))], sinks=[Memory()], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    first, later = [record.getMessage() for record in caplog.records if "yielded NaN" in record.getMessage()]
    assert first.endswith("yielded NaN in 'undefined/a', 'undefined/b'; they are recorded as they are.")
    assert later.endswith("'undefined/c', 'undefined/d', 'undefined/e'; they are recorded as they are.")


def test_ten_megabytes_a_step_are_recorded_and_told_once(model, optimizer, caplog, tmp_path):
    class Huge(Probe):
        def measure(self, run, step):
            yield Measurement("huge/value", np.full((1250, 1000), step, float), dims=("a", "b"))

    with ProbeManager(model, [Huge(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        run_steps(model, optimizer, 6)
    assert caplog.text.count("yields 10 MiB in each 'huge/value'") == 1
    values = open_run(tmp_path)["huge/value"]["value"]
    assert values.shape == (7, 1250, 1000) and values[:, 0, 0].values.tolist() == list(range(7))


def test_a_stream_cannot_belong_to_two_probes_nor_hold_another(model, optimizer, caplog):
    class Thief(Probe):
        def measure(self, run, step):
            yield Measurement("norm/weight", 1.0)
            yield Measurement("norm", 1.0)
            yield Measurement("norm/weight/more", 1.0)

    sink = Memory()
    with ProbeManager(model, [Norm(every(1)), Thief(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
    assert {row.name for row in sink.rows if row.name.startswith("norm")} == {"norm/weight"}
    assert "it belongs to 'norm'" in caplog.text and "one cannot hold the other" in caplog.text


@pytest.mark.parametrize("hook", ["write", "flush", "on_detach", "on_event"])
def test_a_raising_sink_does_not_stop_training_nor_other_sinks(model, optimizer, hook, caplog):
    class Broken(Memory):
        name = "broken"

    def fail(self, **_):
        raise OSError("disk")

    def implementation(self):
        fail(self)

    setattr(Broken, hook, hookimpl(implementation))
    sink = Memory()
    with ProbeManager(model, [Norm(every(1))], sinks=[Broken(), sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 4)
    assert sink.steps("norm/weight") == list(range(5)) and "Plugin 'broken'" in caplog.text


def test_a_probe_that_changes_the_model_is_put_out_of_service_at_once(model, optimizer, caplog):
    class Changes(Probe):
        def measure(self, run, step):
            with torch.no_grad():
                run.model.weight.mul_(1.0)
            yield Measurement("changes/one", 1.0)

    with ProbeManager(model, [Changes(every(1))], sinks=[], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
        assert "it changed the model" in manager.report() and "parameter 'weight' was changed" in caplog.text


def test_keyboard_interrupt_in_a_measurement_reaches_the_user_and_leaves_no_trace(model, optimizer):
    class Interrupted(Probe):
        def measure(self, run, step):
            torch.rand(1)
            raise KeyboardInterrupt
            yield

    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), ProbeManager(model, [Interrupted()], sinks=[]).attach(optimizer):
        run_steps(model, optimizer, 1)
    assert torch.equal(state, torch.get_rng_state()) and not optimizer._optimizer_step_post_hooks and model.training


def test_an_internal_error_stops_the_probes_and_not_the_training(model, optimizer, caplog, tmp_path, monkeypatch):
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer)
    run_steps(model, optimizer, 2)
    monkeypatch.setattr(manager._session, "_plan", lambda: 1 / 0)
    run_steps(model, optimizer, 2)
    manager.detach()
    assert caplog.text.count("an internal error. Training goes on") == 1
    assert open_run(tmp_path)["norm/weight"].sizes["step"] == 4


def test_on_error_raise_raises(model, optimizer):
    class Broken(Probe):
        def measure(self, run, step):
            raise ZeroDivisionError("of my own")

    with (
        pytest.raises(ZeroDivisionError),
        ProbeManager(model, [Broken()], sinks=[], on_error="raise").attach(optimizer),
    ):
        run_steps(model, optimizer, 1)


def test_a_sink_that_changes_what_it_is_given_changes_it_for_no_other(model, optimizer):
    class Takes:
        def write(self, measurements):
            while measurements:
                measurements.pop()

    class Writes:
        def write(self, measurements):
            measurements[0].value[...] = -1

    kept = Memory()
    with ProbeManager(model, [Norm(every(1))], sinks=[Takes(), Writes(), kept], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    values = [float(row.value) for row in kept.rows if row.name == "norm/weight"]
    assert len(values) == 3 and min(values) > 0
    assert any("read-only" in event.message for event in kept.events)


def test_a_log_handler_that_raises_stops_no_training(model, optimizer):
    class Strict(logging.Handler):
        def emit(self, record):
            raise RuntimeError(record.getMessage())

    class Broken(Probe):
        def measure(self, run, step):
            raise ValueError("at each turn")

    handler, kept = Strict(level=logging.WARNING), Memory()
    logging.getLogger("probes").addHandler(handler)
    try:
        with ProbeManager(model, [Broken(every(1)), Norm(every(1))], sinks=[kept], overhead=None).attach(optimizer):
            run_steps(model, optimizer, 2)
    finally:
        logging.getLogger("probes").removeHandler(handler)
    assert kept.steps("norm/weight") == [0, 1, 2] and any("at each turn" in event.message for event in kept.events)


def test_a_rank_that_no_launcher_has_written_is_none(model, optimizer, monkeypatch):
    monkeypatch.setenv("RANK", "none")
    with ProbeManager(model, [Norm(every(1))], sinks=[], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
    assert manager.run.step == 1


def test_a_home_that_nobody_has_is_refused_by_name(model):
    with pytest.raises(ValueError, match=r"`log_dir` must be a path, got '~nobodyhere/runs'"):
        ProbeManager(model, [], log_dir="~nobodyhere/runs")


def test_a_model_sharded_after_attach_is_refused_and_not_called(model, optimizer, monkeypatch):
    from probes.session import session

    called = []
    model.register_forward_hook(lambda *_: called.append(1))
    monkeypatch.setattr(session, "unshared", lambda model: "attach() was called before init_process_group()")
    kept = Memory()
    with ProbeManager(model, [Norm(every(1))], sinks=[kept]).attach(optimizer):
        for _ in range(2):
            model(torch.ones(20, 2)).sum().backward()  # more than are always measured on: how many, would be tried
            optimizer.step()
    assert not kept.steps("norm/weight") and len(called) == 2
    assert any("before init_process_group()" in event.message for event in kept.events)


def test_why_a_sharded_model_cannot_be_measured_is_said_of_several_ranks_alone(model, monkeypatch):
    from probes.loop import sharding

    monkeypatch.setattr(sharding, "is_sharded", lambda model: True)
    assert sharding.unshared(model) == ""
    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert "Call attach() after it, on every rank." in sharding.unshared(model)


def test_rows_of_other_samples_than_the_stream_says_are_told_once(model, tmp_path):
    class Fewer(Probe):
        def measure(self, run, step):
            yield Measurement("a/b", 1.0, num_samples=100 if step < 3 else 40)

    sink = Memory()
    with ProbeManager(model, [Fewer(every(1))], sinks=[sink], log_dir=tmp_path, overhead=None).attach() as manager:
        for _ in range(5):
            manager.step()
    texts = [event.message for event in sink.events if event.kind == "warning"]
    assert len(texts) == 1 and "of 40 samples, and of 100 in its first row" in texts[0]
    assert len([row for row in sink.rows if row.name == "a/b"]) == 5


class Stepper(Probe):
    """A probe that makes an update of the model, and takes it back."""

    name = "stepper"

    def measure(self, run, step):
        before = [parameter.detach().clone() for parameter in run.model.parameters()]
        optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
        run.model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        for parameter, values in zip(run.model.parameters(), before, strict=True):
            parameter.data.copy_(values)
        yield Measurement("stepper/one", 1.0)


@pytest.mark.parametrize("loop", ["given", "found", "closure", "by hand"])
def test_an_update_that_a_probe_makes_is_no_step(loop):
    model = torch.nn.Linear(3, 3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Memory()
    probes = [Stepper(every(1)), Norm(every(1))]
    manager = ProbeManager(model, probes, sinks=[sink], overhead=None)

    def backward():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    def update():
        if loop == "closure":
            optimizer.step(backward)
            return
        backward()
        if loop != "by hand":
            optimizer.step()
            return
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        manager.step()

    with manager.attach(optimizer if loop == "given" else None):
        for _ in range(3):
            update()
        assert manager.run.step == 3
        assert manager.run.optimizers == ([] if loop == "by hand" else [optimizer])
        assert "it changed the model" in manager.report()
    assert sink.steps("norm/weight") == ([1, 2, 3] if loop == "by hand" else [0, 1, 2, 3])
    assert not [event.message for event in sink.events if "its steps count" in event.message]
    trained = model.weight.detach().clone()
    model.load_state_dict(start)
    for _ in range(3):
        update()
    assert trained.equal(model.weight)


@dataclass
class Equal(Probe):
    """A probe that is equal to another of the same settings."""

    place: torch.Tensor
    label: str = "a"

    def __post_init__(self):
        super().__init__(every(1))

    def measure(self, run, step):
        yield Measurement(f"{self.label}/one", 1.0)


def test_probes_that_are_equal_or_cannot_be_compared_all_run(model, optimizer):
    class Incomparable(Norm):
        def __eq__(self, other):
            raise ArithmeticError

        __hash__ = None

    sink, place = Memory(), torch.ones(2)
    probes = [Equal(place), Equal(place, "b"), Equal(place.clone(), "c"), Incomparable(every(1))]
    with ProbeManager(model, probes, sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    for name in ("a/one", "b/one", "c/one"):
        assert sink.steps(name) == [0, 1, 2]
    told = [event.message for event in sink.events if event.kind == "fault"]
    assert len(told) == 1 and "Incomparable could not be registered: ArithmeticError()" in told[0]


@pytest.mark.parametrize("needs", [[["targets"]], {"labels"}, "targets", 3])
def test_needs_that_mean_nothing_cost_their_probe_alone(model, optimizer, needs):
    class Needy(Norm):
        name = "needy"

    Needy.needs, sink = needs, Memory()
    with ProbeManager(model, [Needy(every(1)), Equal(torch.ones(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    assert sink.steps("a/one") == [0, 1, 2] and sink.steps("norm/weight") == []
    assert any("`needs` must be a set of" in event.message for event in sink.events)


def test_a_name_that_is_yielded_twice_in_a_turn_is_recorded_once_and_told(model, optimizer):
    class Twice(Probe):
        def measure(self, run, step):
            yield Measurement("twice/one", 1.0)
            yield Measurement("twice/one", 2.0)

    sink = Memory()
    with ProbeManager(model, [Twice(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    assert sink.steps("twice/one") == [0, 1, 2]
    told = [event.message for event in sink.events if event.kind == "fault"]
    assert len(told) == 1 and "yielded 'twice/one' twice in one turn" in told[0]


@pytest.mark.parametrize("fails", [False, True])
def test_what_all_probes_share_is_as_computed_for_each_although_one_changes_it(model, optimizer, fails):
    class Means(Probe):
        def __init__(self, name):
            super().__init__(every(1))
            self.name = name

        def measure(self, run, step):
            yield Measurement(f"{self.name}/mean", run.evaluate("train").mean())

    class InPlace(Means):
        def measure(self, run, step):
            yield from super().measure(run, step)
            run.evaluate("train").zero_()
            if fails:
                raise ArithmeticError

    sink = Memory()
    probes = [Means("before"), InPlace("inside"), Means("after")]
    with ProbeManager(model, probes, sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    before, after = ([row.value for row in sink.rows if row.name == f"{name}/mean"] for name in ("before", "after"))
    assert len(before) == 3 and before == after and 0 not in before
    told = [event.message for event in sink.events if event.kind == "fault"]
    what = "what all probes get from run.evaluate('train') was changed in place; change a clone() of it"
    assert ("ArithmeticError" if fails else what) in told[0]


def test_a_hook_that_would_have_to_be_awaited_is_refused(model, optimizer):
    class Awaited(Norm):
        async def on_step(self, run, step):
            raise AssertionError

    sink = Memory()
    with ProbeManager(model, [Awaited(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    told = [event.message for event in sink.events if event.kind == "fault"]
    assert len(told) == 1 and "on_step is async, and hooks are called, not awaited: write def on_step" in told[0]


def test_a_sink_that_changes_coordinates_is_the_one_that_fails(model, optimizer, tmp_path):
    class Removing:
        def write(self, run, measurements):
            for item in measurements:
                item.coords.pop("layer", None)

    class Layers(Probe):
        def measure(self, run, step):
            yield Measurement("by/layer", [1.0, 2.0], ("layer",), {"layer": ["a", "b"]})

    manager = ProbeManager(model, [Layers(every(1))], sinks=[Removing(), "hdf5"], log_dir=tmp_path, overhead=None)
    with manager.attach(optimizer):
        run_steps(model, optimizer, 2)
        assert "Removing" in manager.report() and "mappingproxy" in manager.report()
    assert open_run(tmp_path)["by/layer"].coords["layer"].values.tolist() == ["a", "b"]
