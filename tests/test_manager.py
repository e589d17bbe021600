import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from probes import Axis, Measurement, Probe, ProbeManager, at, every, hookimpl, open_run


class Norm(Probe):
    name = "norm"

    def measure(self, run, step):
        yield Measurement("norm/weight", run.model.weight.norm(), unit="1")


class Memory:
    """A sink that remembers everything."""

    name = "memory"

    def __init__(self):
        self.rows, self.events, self.calls = [], [], []

    @hookimpl
    def on_attach(self, run):
        self.calls.append("on_attach")

    @hookimpl
    def write(self, measurements):
        self.rows += measurements

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    @hookimpl
    def flush(self):
        self.calls.append("flush")

    @hookimpl
    def on_detach(self):
        self.calls.append("on_detach")

    def steps(self, name):
        return [row.step for row in self.rows if row.name == name]


def run_steps(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a manager without a log_dir makes its own


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_measurements_are_taken_when_due_and_stamped(model, optimizer):
    sink = Memory()
    with ProbeManager(model, [Norm(every(2) | at([3]))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 5)
    assert sink.steps("norm/weight") == [0, 2, 3, 4]
    row = sink.rows[0]
    assert row.probe == "'norm' (tests.test_manager.Norm)" and row.wall_time > 1.6e9
    assert sink.calls[0] == "on_attach" and sink.calls[-2:] == ["flush", "on_detach"]


def test_step_zero_is_the_model_before_its_first_update(model, optimizer):
    before, sink = model.weight.norm().item(), Memory()
    with ProbeManager(model, [Norm(at([0]))], sinks=[sink]).attach(optimizer):
        run_steps(model, optimizer, 3)
    (row,) = [row for row in sink.rows if row.name == "norm/weight"]
    assert row.value == pytest.approx(before)


def test_what_the_probes_cost_is_recorded(model, optimizer):
    sink = Memory()
    with ProbeManager(model, [Norm(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 3)
    last = {row.name: row for row in sink.rows if row.name.startswith("probes/")}
    assert last["probes/measured"].value.tolist() == [4] and last["probes/failed"].value.tolist() == [0]
    assert last["probes/seconds"].coords["plugin"].values.tolist() == ["norm", "memory"]
    assert 0 < last["probes/share"].value < 1


def test_a_postponed_probe_is_counted_and_measured_later(model, optimizer):
    class Slow(Probe):
        def measure(self, run, step):
            import time

            time.sleep(0.02)
            yield Measurement("slow/one", 1.0)

    sink = Memory()
    with ProbeManager(model, [Slow(every(1))], sinks=[sink], overhead=0.2).attach(optimizer) as manager:
        while manager.run.step < 10 or not sink.steps("slow/one")[1:]:
            run_steps(model, optimizer, 1)
        last = manager.run.step
    measured = sink.steps("slow/one")
    skipped = [row for row in sink.rows if row.name == "probes/skipped"][-1].value[0]
    assert measured[0] == 0 and len(measured) + skipped >= measured[-1] + 1 and skipped > 0 and last >= 10


def test_what_is_affordable_early_is_spread_over_doubling_steps(model, optimizer):
    class Slow(Probe):
        def measure(self, run, step):
            import time

            time.sleep(0.02)
            yield Measurement("slow/one", 1.0)

    sink = Memory()
    with ProbeManager(model, [Slow(every(1))], sinks=[sink], overhead=0.02).attach(optimizer):
        run_steps(model, optimizer, 40)  # far too quick to earn a second turn
    assert sink.steps("slow/one") == [0, 1, 2, 4, 8, 16, 32]


# ------------------------------------------------------------------------------------------------------------- faults


def test_a_raising_probe_is_told_once_and_put_out_of_service(model, optimizer, caplog):
    class Broken(Probe):
        calls = 0

        def measure(self, run, step):
            Broken.calls += 1
            raise ZeroDivisionError("of my own")

    sink = Memory()
    with ProbeManager(model, [Broken(every(1)), Norm(every(1))], sinks=[sink], overhead=None).attach(
        optimizer
    ) as manager:
        run_steps(model, optimizer, 6)
        assert "Broken: quarantined after 3 failures in a row" in manager.report()
    assert Broken.calls == 3 and sink.steps("norm/weight") == list(range(7))
    told = [record.message for record in caplog.records if "of my own" in record.message]
    assert len(told) == 1 and "Plugin 'Broken' (tests.test_manager" in told[0] and "Traceback" in told[0]
    assert [event.kind for event in sink.events] == ["attach", "fault", "fault", "fault", "quarantine", "detach"]


def test_a_misspelt_hook_is_told_once_and_the_rest_works(model, optimizer, caplog):
    class Misspelt(Norm):
        def on_stpe(self, run, step):
            raise AssertionError

    sink = Memory()
    with ProbeManager(model, [Misspelt(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
    assert caplog.text.count("implements unknown hook 'on_stpe'. Known hooks: on_attach, on_step, measure") == 1
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
    monkeypatch.setattr(manager._dispatch, "_plan", lambda: 1 / 0)
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


# ---------------------------------------------------------------------------------------------------- attach, detach


@pytest.mark.parametrize("given", [True, False])
def test_nothing_is_left_after_an_exception_in_the_users_loop(model, optimizer, given, tmp_path):
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None)
    with pytest.raises(RuntimeError, match="the user's own"), manager.attach(optimizer if given else None):
        run_steps(model, optimizer, 3)
        raise RuntimeError("the user's own")
    assert not optimizer._optimizer_step_post_hooks and not optimizer._optimizer_step_pre_hooks
    assert not _global_optimizer_post_hooks
    assert not model._forward_hooks and not model._forward_pre_hooks and not any("probes" in key for key in vars(model))
    assert open_run(tmp_path)["norm/weight"].sizes["step"] == 4
    import xarray

    with xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree:  # closed: plain readers open it
        assert tree["norm/weight"].sizes["step"] == 4


def test_a_manager_can_attach_again_after_detach(model, optimizer, tmp_path):
    manager = ProbeManager(model, [Norm(every(1))], sinks=[])
    for _ in range(2):
        with manager.attach(optimizer):
            run_steps(model, optimizer, 1)
    with manager.attach():
        pass


def test_attach_twice_is_refused(model):
    manager = ProbeManager(model, [], sinks=[]).attach()
    with pytest.raises(RuntimeError, match=r"attached already. Call detach"):
        manager.attach()
    manager.detach()
    manager.detach()  # once more does no harm


def test_the_optimizer_of_another_model_is_refused(model):
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds no parameter of the watched model"):
        ProbeManager(model, [], sinks=[]).attach(other)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="`model` has no parameters"):
        ProbeManager(nn.ReLU())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probes": ["fourrier"]}, ValueError, "No probe is named 'fourrier'. Installed probes: fourier"),
        ({"probes": [Norm]}, TypeError, r"write Norm\(\) instead of the class"),
        ({"probes": [3]}, TypeError, "must hold Probe instances or names"),
        ({"probes": "fourier"}, TypeError, "must be a list"),
        ({"batches": [1]}, TypeError, "`batches` must be a dict"),
        ({"overhead": 5}, ValueError, "`overhead` must be a share"),
        ({"output": "logits"}, TypeError, "`output` must be a function"),
        ({"on_error": "ignore"}, ValueError, "`on_error` must be"),
    ],
)
def test_bad_settings_are_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        ProbeManager(model, **arguments)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got function"):
        ProbeManager(lambda x: x)


def test_an_unwritable_log_dir_is_refused(model, tmp_path):
    (tmp_path / "file").touch()
    manager = ProbeManager(model, [], log_dir=tmp_path / "file" / "run")
    with pytest.raises(OSError, match=r"`log_dir` '.*run' cannot be written: .* Pass another log_dir"):
        manager.attach()


def test_a_log_dir_with_another_run_is_refused(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm()], log_dir=tmp_path).attach(optimizer):
        run_steps(model, optimizer, 1)
    other = ProbeManager(model, [Norm()], log_dir=tmp_path)
    with pytest.raises(FileExistsError, match="load_state_dict"):
        other.attach(optimizer)
    assert not optimizer._optimizer_step_post_hooks


def test_two_managers_get_directories_of_their_own(model, optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = ProbeManager(model, [Norm()]).attach(optimizer)
    second = ProbeManager(model, [Norm()]).attach(optimizer)
    run_steps(model, optimizer, 1)
    first.detach(), second.detach()
    assert first.run.log_dir != second.run.log_dir and len(list((tmp_path / "runs").iterdir())) == 2


def test_other_ranks_do_nothing(model, optimizer, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with ProbeManager(model, [Norm()], log_dir=tmp_path / "run").attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
        assert manager.state_dict() == {} and "rank 0" in manager.report()
        manager.load_state_dict({})
    assert not (tmp_path / "run").exists()


def test_the_users_directory_is_kept_open_for_one_process_only(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
        script = (
            "import torch; from probes import ProbeManager\n"
            f"ProbeManager(torch.nn.Linear(1, 1), [], log_dir={str(tmp_path)!r}).attach()"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "another" in done.stderr


def test_a_forked_child_leaves_the_files_alone(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        run_steps(model, optimizer, 2)
        child = os.fork()
        if child == 0:
            run_steps(model, optimizer, 5)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        run_steps(model, optimizer, 2)
    assert open_run(tmp_path)["norm/weight"]["step"].values.tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------------- resume


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


# ---------------------------------------------------------------------------------------------------------- run, core


def test_shared_results_are_computed_once_and_their_cost_is_split(model, optimizer):
    calls = []

    class User(Probe):
        def measure(self, run, step):
            import time

            run.shared("kernel", lambda: (time.sleep(0.05), calls.append(step)))
            yield Measurement(f"user/{id(self)}", 1.0)

    manager = ProbeManager(model, [User(at([0])), User(at([0]))], sinks=[], overhead=None)
    with manager.attach(optimizer):
        run_steps(model, optimizer, 1)
        first, second = (manager._dispatch.governor.spent[key] for key in ("User", "User-2"))
    assert calls == [0] and first == pytest.approx(second, rel=0.3)


def test_draws_depend_on_seed_probe_and_step_and_on_nothing_else(model, optimizer):
    class Draws(Probe):
        def measure(self, run, step):
            yield Measurement(f"draws/{type(self).__name__}", torch.rand((), generator=run.generator))

    class Others(Draws):
        pass

    def draws(probes, seed=0):
        sink = Memory()
        with ProbeManager(model, probes, sinks=[sink], overhead=None, seed=seed).attach(optimizer):
            run_steps(model, optimizer, 2)
        return [float(row.value) for row in sink.rows if row.name == "draws/Draws"]

    alone = draws([Draws(every(1))])
    assert alone == draws([Others(every(1)), Draws(every(1))]) and len(set(alone)) == 3
    assert alone != draws([Draws(every(1))], seed=1)


def test_needs_that_are_not_met_are_named_with_what_to_pass(model, optimizer, caplog):
    class Needy(Norm):
        needs = frozenset({"targets"})
        batch = "test"

    with ProbeManager(model, [Needy(every(1))], sinks=[]).attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
        assert "there is no batch 'test'. Pass batches={'test': (inputs, targets)}" in manager.report()
    assert caplog.text.count("Pass batches={'test'") == 1


def test_the_manager_logs_nothing_when_nothing_is_wrong(model, optimizer, caplog):
    caplog.set_level(logging.WARNING)
    with ProbeManager(model, [Norm(every(1))], sinks=[]).attach(optimizer):
        run_steps(model, optimizer, 3)
    assert caplog.text == ""


def test_axis_units_reach_the_file(model, optimizer, tmp_path):
    class Spectrum(Probe):
        def measure(self, run, step):
            yield Measurement("s/a", [1.0, 2.0], ("frequency",), {"frequency": Axis([1, 2], "cycles")}, unit="nats")

    with ProbeManager(model, [Spectrum(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
    node = open_run(tmp_path)["s/a"]
    assert node["value"].attrs["units"] == "nats" and node["frequency"].attrs["units"] == "cycles"
