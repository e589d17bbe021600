import gc
import logging
import os
import threading
import time

import pytest
import torch
import warm
from loops import Memory, Norm, run_steps, step_hooks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from probes import Axis, Measurement, Probe, ProbeManager, at, every, hookimpl, open_run


def test_measurements_are_taken_when_due_and_stamped(model, optimizer):
    sink = Memory()
    with ProbeManager(model, [Norm(every(2) | at([3]))], sinks=[sink], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 5)
    assert sink.steps("norm/weight") == [0, 2, 3, 4]
    row = sink.rows[0]
    assert row.probe == "'norm' (loops.Norm)" and row.wall_time > 1.6e9
    assert sink.calls[0] == "on_attach" and sink.calls[-2:] == ["flush", "on_detach"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [1, 3, 5]), (0.1, [1, 2, 2])])
def test_the_first_rows_are_flushed_at_once_and_later_ones_as_often_as_that_is_cheap(
    model, optimizer, seconds, expected
):
    class Slow(Memory):
        @hookimpl
        def flush(self, run):
            super().flush()
            time.sleep(seconds)

    sink, counts = Slow(), []
    with ProbeManager(model, [Norm(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        for _ in range(3):
            run_steps(model, optimizer, 1)
            time.sleep(0.2)  # a hundred times a flush of nothing
            run_steps(model, optimizer, 1)
            counts.append(sink.calls.count("flush"))
            time.sleep(1.05)  # the second flush is a second after the first
    assert counts == expected


@pytest.mark.parametrize("counted", [True, False])
def test_a_run_whose_model_has_gone_is_ended_as_any_other(counted, tmp_path):
    def train():
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach()
        for _ in range(3):
            model(torch.randn(4, 2)).square().mean().backward()
            if counted:
                optimizer.step()

    train()
    gc.collect()
    run = open_run(tmp_path)
    told = run["events"].to_dataset()
    events = [(kind, str(text).split(".")[0]) for kind, text in zip(told.kind.values, told.message.values, strict=True)]
    assert events[-1] == ("detach", f"Detached at step {3 if counted else 0}")
    assert (("warning", "Nothing was measured") in events) is not counted
    assert ("probes/measured" in {path.strip("/") for path in run.groups}) is counted


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
    assert last["probes/seconds"].coords["plugin"].values.tolist() == ["norm", "memory", "(core)"]
    assert 0 < last["probes/share"].value < 1


def test_a_postponed_probe_is_counted_and_measured_later(model, optimizer):
    class Slow(Probe):
        def measure(self, run, step):
            import time

            time.sleep(0.02)
            yield Measurement("slow/one", 1.0)

    sink = Memory()
    with ProbeManager(model, [Slow(every(1))], sinks=[sink], overhead=0.9, head_start=0).attach(optimizer) as manager:
        while manager.run.step < 10 or not sink.steps("slow/one")[1:]:
            run_steps(model, optimizer, 1)
        last = manager.run.step
    measured = sink.steps("slow/one")
    skipped = [row for row in sink.rows if row.name == "probes/skipped"][-1].value[0]
    assert measured[0] == 0 and len(measured) + skipped >= measured[-1] + 1 and skipped > 0 and last >= 10


def test_early_training_is_measured_before_anything_is_earned(model, optimizer):
    class Slow(Probe):
        def measure(self, run, step):
            import time

            time.sleep(0.1)
            yield Measurement("slow/one", 1.0)

    sink = Memory()
    with ProbeManager(model, [Slow(every(1))], sinks=[sink], overhead=0.02, head_start=2).attach(optimizer):
        run_steps(model, optimizer, 40)  # far too quick to earn a second turn
    steps = sink.steps("slow/one")
    assert steps[0] == 0 and 2 <= len(steps) < 40  # which ones, simulated runs tell: tests/budget/test_budget.py


def test_a_model_whose_parameters_are_a_list_is_watched(optimizer):
    class Listed(nn.Linear):
        def parameters(self, recurse=True):
            return list(super().parameters(recurse))

    model = Listed(2, 1)
    with ProbeManager(model, [Norm(every(1))], sinks=[sink := Memory()]).attach():
        run_steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    assert sink.steps("norm/weight")


def test_a_fault_of_the_guard_in_attach_does_not_stop_the_script(model, optimizer, monkeypatch, caplog):
    monkeypatch.setattr("probes.guard.unnoticed.keep_buffers", lambda *_: 1 / 0)
    manager = ProbeManager(model, [Norm(every(1))], sinks=[]).attach(optimizer)
    run_steps(model, optimizer, 2)
    assert "could not attach" in caplog.text and "could not attach" in manager.report()
    manager.detach()


# ---------------------------------------------------------------------------------------------------- attach, detach


@pytest.mark.parametrize("given", [True, False])
def test_nothing_is_left_after_an_exception_in_the_users_loop(model, optimizer, given, tmp_path):
    before = step_hooks()
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None)
    with pytest.raises(RuntimeError, match="the user's own"), manager.attach(optimizer if given else None):
        run_steps(model, optimizer, 3)
        raise RuntimeError("the user's own")
    assert not optimizer._optimizer_step_post_hooks and not optimizer._optimizer_step_pre_hooks
    assert step_hooks() <= before
    assert not model._forward_hooks and not model._forward_pre_hooks and not any("probes" in key for key in vars(model))
    assert open_run(tmp_path)["norm/weight"].sizes["step"] == 4
    import xarray

    with xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree:  # closed: plain readers open it
        assert tree["norm/weight"].sizes["step"] == 4


@pytest.mark.parametrize("where", ["a probe", "a forward hook"])
def test_a_detach_while_a_probe_measures_is_made_when_it_has(where, model, optimizer, tmp_path):
    """As a signal handler of a cluster does."""

    class Detaches(Probe):
        def measure(self, run, step):
            if step == 2 and where == "a probe":
                manager.detach()
            yield Measurement("detaches/x", float(run.model(torch.ones(1, *shape)).detach().sum()))

    shape = (next(module for module in model.modules() if isinstance(module, nn.Linear)).in_features,)
    manager = ProbeManager(model, [Norm(every(1)), Detaches(every(1)), "layers"], log_dir=tmp_path, overhead=None)
    if where == "a forward hook":
        left = [manager.detach]
        model.register_forward_hook(lambda *_: left.pop()() if manager.run.step == 2 and left else None)
    manager.attach(optimizer)
    run_steps(model, optimizer, 4)
    assert manager.run.step == 2 and "internal error" not in manager.report()
    assert open_run(tmp_path)["norm/weight"]["step"].values.tolist() == [0, 1, 2]
    assert open_run(tmp_path)["events"]["kind"].values.tolist()[-1] == "detach"
    assert not any("probes" in key for key in vars(model))
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert not any("probes" in thread.name for thread in threading.enumerate())
    with manager.attach(optimizer):
        run_steps(model, optimizer, 1)
    assert open_run(tmp_path)["norm/weight"]["step"].values.tolist() == [0, 1, 2, 3]


class OwnParameters(nn.Module):
    """Whose `parameters()` takes no argument."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def parameters(self):
        return list(self.body.parameters())

    def forward(self, x):
        return self.body(x)


def test_a_class_may_have_a_parameters_of_its_own(tmp_path, caplog):
    model = nn.Sequential(OwnParameters(), nn.ReLU(), nn.Linear(3, 2))
    for watched in (model, model[0]):
        manager = ProbeManager(watched, log_dir=tmp_path / type(watched).__name__, overhead=None)
        with manager.attach():
            optimizer = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], 0.1)
            watched(torch.randn(5, 4)).sum().backward()
            optimizer.step()
        assert "Not running" not in manager.report() and "failed 1" not in manager.report()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_report_that_cannot_be_made_does_not_stop_the_script(model, optimizer, tmp_path, monkeypatch, caplog):
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path).attach(optimizer)
    run_steps(model, optimizer, 2)
    monkeypatch.setattr("probes.session.opening.report", lambda *_, **__: 1 / 0)
    manager.detach()
    assert "its files are closed" in caplog.text
    assert open_run(tmp_path)["norm/weight"].sizes["step"] == 3


def test_a_run_that_is_attached_again_goes_on_in_its_directory(model, optimizer, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    manager = ProbeManager(model, [Norm(every(1))], log_dir="run", overhead=None)
    for place in (tmp_path, tmp_path / "other"):
        monkeypatch.chdir(place)
        with manager.attach(optimizer):
            run_steps(model, optimizer, 1)
    assert open_run(tmp_path / "run")["norm/weight"]["step"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("deadline", [1e300, float("inf")])
def test_a_deadline_may_be_never(deadline, model, optimizer, tmp_path, caplog):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, deadline=deadline).attach(optimizer):
        run_steps(model, optimizer, 1)
        assert [thread.is_alive() for thread in threading.enumerate() if thread.name == "probes-watchdog"] == [True]


def test_a_manager_can_attach_again_after_detach(model, optimizer, tmp_path):
    manager = ProbeManager(model, [Norm(every(1))], sinks=[])
    for _ in range(2):
        with manager.attach(optimizer):
            run_steps(model, optimizer, 1)
    with manager.attach():
        pass


SCRIPT = """
import torch
from torch import nn
from probes import ProbeManager
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{line}
for step in range(12):
    loss = nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.randint(3, (16,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
{end}
"""

ASSIGNED = "probes = ProbeManager(model, overhead=None).attach()"
UNASSIGNED = "ProbeManager(model, overhead=None).attach(optimizer)"


@pytest.mark.parametrize(
    ("line", "end"),
    [
        (ASSIGNED, ""),
        (UNASSIGNED, "del model"),
        pytest.param(UNASSIGNED, "", marks=pytest.mark.slow),
        pytest.param(ASSIGNED, "raise SystemExit(0)", marks=pytest.mark.slow),
    ],
)
def test_a_script_that_never_detaches_loses_nothing(line, end, tmp_path):
    script = SCRIPT.format(line=line, end=end)
    done = warm.run(script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    run = open_run(next((tmp_path / "runs").iterdir()))
    assert run["fourier/amplitude/train"]["step"].values[-1] == 11
    assert run["events"]["kind"].values.tolist()[-1] == "detach"


def test_a_script_that_fails_loses_nothing(tmp_path):
    script = SCRIPT.format(line=ASSIGNED, end="raise ValueError('of the script')")
    done = warm.run(script, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip().endswith("ValueError: of the script")
    assert open_run(next((tmp_path / "runs").iterdir()))["fourier/amplitude/train"]["step"].values[-1] == 11


@pytest.mark.parametrize("given", [True, False])
def test_attached_again_the_run_goes_on_in_the_same_files(model, optimizer, given, tmp_path):
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / "run" if given else None, overhead=None)
    for _ in range(3):
        with manager.attach(optimizer):
            run_steps(model, optimizer, 2)
    assert manager.run.step == 6 and (given or len(list((tmp_path / "runs").iterdir())) == 1)
    run = open_run(manager.run.log_dir)
    assert run["norm/weight"]["step"].values.tolist() == list(range(7)) and run["sessions"].sizes["step"] == 3
    events = EventAccumulator(str(manager.run.log_dir))
    events.Reload()
    assert [event.step for event in events.Scalars("norm/weight")] == list(range(7))


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
        (
            {"probes": ["fourrier"]},
            ValueError,
            "No probe is named 'fourrier'. Installed probes: capacity",
        ),
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
    manager = ProbeManager(model, [], log_dir=tmp_path / "file" / "run", on_error="raise")
    with pytest.raises(OSError, match=r"`log_dir` '.*run' cannot be written: .* Pass another log_dir"):
        manager.attach()


def test_a_log_dir_that_the_system_cannot_spell_is_replaced(model, optimizer, tmp_path, caplog):
    with ProbeManager(model, [Norm()], None, ["hdf5"], tmp_path / "run\ud800").attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
    assert manager.run.log_dir == tmp_path / "run_2" and "norm" in open_run(tmp_path / "run_2")
    assert "cannot be written: 'utf-8' codec" in caplog.text and "Traceback" not in caplog.text


def test_a_log_dir_with_another_run_is_refused(model, optimizer, tmp_path, caplog):
    with ProbeManager(model, [Norm()], log_dir=tmp_path).attach(optimizer):
        run_steps(model, optimizer, 1)
    other = ProbeManager(model, [Norm()], log_dir=tmp_path, on_error="raise")
    with pytest.raises(FileExistsError, match="load_state_dict"):
        other.attach(optimizer)
    assert not optimizer._optimizer_step_post_hooks and caplog.text == ""


def test_what_a_probe_of_another_manager_calls_is_not_the_loops(tmp_path, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.arange(16) % 3

    class Calls(Probe):
        def measure(self, run, step):
            yield Measurement("calls/x", sum(float(run.model(x + i).detach().sum()) for i in range(30)))

    whole = ProbeManager(model, [Calls(every(1))], log_dir=tmp_path / "whole", overhead=None)
    part = ProbeManager(model[0], ["layers"], log_dir=tmp_path / "part", overhead=None)
    with whole.attach(optimizer), part.attach(optimizer):
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert part.run.step == 4
    assert "No optimizer step was seen" not in caplog.text + part.report()


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
            f"ProbeManager(torch.nn.Linear(1, 1), [], log_dir={str(tmp_path)!r}, on_error='raise').attach()"
        )
        done = warm.run(script)
    assert done.returncode == 1 and "another" in done.stderr


def test_a_forked_child_leaves_the_files_alone(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 2)
        manager.state_dict()
        run_steps(model, optimizer, 1)
        child = os.fork()
        if child == 0:
            try:
                for _ in range(5):
                    optimizer.step()  # and no backward: where autograd has threads, torch refuses it after a fork
                manager.detach()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        run_steps(model, optimizer, 1)
    assert open_run(tmp_path)["norm/weight"]["step"].values.tolist() == [0, 1, 2, 3, 4]


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
        first, second = (manager._session.governor.spent[key] for key in ("User", "User-2"))
    assert calls == [0] and min(first, second) >= 0.025  # half of the sleep, whatever else the machine does


def test_draws_depend_on_seed_probe_and_step_and_on_nothing_else(model, optimizer):
    class Draws(Probe):
        def measure(self, run, step):
            yield Measurement(f"draws/{type(self).__name__}", torch.rand((), generator=run.generator))

    class Others(Draws):
        pass

    def draws(probes, seed=0, name="Draws"):
        sink = Memory()
        with ProbeManager(model, probes, sinks=[sink], overhead=None, seed=seed).attach(optimizer):
            run_steps(model, optimizer, 2)
        return [float(row.value) for row in sink.rows if row.name == f"draws/{name}"]

    alone = draws([Draws(every(1))])
    assert alone == draws([Others(every(1)), Draws(every(1))]) and len(set(alone)) == 3
    assert alone != draws([Draws(every(1))], seed=1) and alone != draws([Others(every(1))], name="Others")


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


@pytest.mark.parametrize("value", ["off", "0", "False", " no "])
def test_an_environment_variable_switches_the_probes_off(model, optimizer, value, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBES", value)
    manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / "run")
    with manager.attach(optimizer):
        run_steps(model, optimizer, 2)
        assert not optimizer._optimizer_step_post_hooks and not model._forward_hooks and manager.state_dict() == {}
        assert "PROBES switches the probes off" in manager.report()
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PROBES", "on")
    manager.load_state_dict({})  # a checkpoint from then is none of ours: the run begins afresh
    with manager.attach(optimizer):
        run_steps(model, optimizer, 1)
    assert manager.run.step == 1 and (tmp_path / "run").exists()


def test_a_checkpoint_and_the_end_know_the_exact_step_where_updates_were_skipped_unseen(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    manager = ProbeManager(model, [Norm(at([0, 1000]))], sinks=[], overhead=None).attach(optimizer)
    for skipped in (1.0, 0.0, 1.0, 0.0):
        optimizer.found_inf, optimizer.grad_scale = torch.tensor(skipped), torch.ones(())
        run_steps(model, optimizer, 1)
    assert manager.state_dict()["step"] == 2
    run_steps(model, optimizer, 1)
    manager.detach()
    assert manager.run.step == 3


@pytest.mark.parametrize("named", [True, False])
def test_a_probe_that_draws_when_made_and_attached_draws_nothing(model, optimizer, named, tmp_path, monkeypatch):
    class Draws(Norm):
        def __init__(self, schedule=None):
            super().__init__(schedule)
            if named:
                torch.rand(1)

        def on_attach(self, run):
            torch.rand(1)

    class DrawingSink(Memory):
        @hookimpl
        def on_attach(self, run):
            torch.rand(1)

    monkeypatch.setattr("probes.session.settings.load", lambda name, kind: Draws)
    probe = "draws" if named else Draws(every(1))
    before = torch.get_rng_state()
    with ProbeManager(model, [probe], sinks=[DrawingSink()]).attach(optimizer):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_directory_whose_name_is_too_long_has_one_beside_it(model, optimizer, tmp_path, caplog):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / ("x" * 260)).attach(optimizer) as manager:
        run_steps(model, optimizer, 2)
    assert manager.run.log_dir == tmp_path / f"{'x' * 50}_2"
    assert open_run(manager.run.log_dir)["norm/weight"]["step"].values.tolist() == [0, 1, 2]
    assert "Results go to" in caplog.text


@pytest.mark.parametrize("where", ["attach", "step"])
def test_a_default_device_without_numbers_is_the_scripts_alone(where, tmp_path):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.device("meta" if where == "attach" else "cpu"):
        manager = ProbeManager(model, log_dir=tmp_path, overhead=None).attach()
    for _ in range(3):
        model(torch.randn(8, 5)).square().mean().backward()
        with torch.device("meta" if where == "step" else "cpu"):
            optimizer.step()
    manager.detach()
    run = open_run(tmp_path)
    assert not {"fault", "quarantine"} & set(run["events"]["kind"].values.tolist())
    assert {"layers", "spectral_norm", "fourier", "ntk"} <= set(run.children)
