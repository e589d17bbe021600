"""An interrupt at any line: the user's loop gets it; whoever catches it and goes on loses one step's rows at most."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults.interrupting import At
from faults.scene import Witness, fingerprint, network
from loops import Memory, run_steps, step_hooks
from torch import nn

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.guard.unnoticed import unnoticed
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.tensorboard import TensorBoardSink
from probes_complexity import PathComplexity
from probes_fourier import FourierSpectrum

# A file that is read when its `with` is interrupted is closed by Python, which says that nobody else did.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.FileIO name='/proc/thread-self/:ResourceWarning")

STEPS = 8
OURS = ["probes/", "plugins/"]
LOOP = ["probes/loop/first_batch.py", "probes/loop/steps.py"]
# A step whose hook is interrupted before it is counted is not counted: nothing can know of it then.
COUNTING = ("_after", "_before", "__call__", "_watched", "_nested", "shares_parameters")


class Shares(Probe):
    """Uses what is shared within a step: stale, it would be another step's."""

    name = "shares"

    def measure(self, run, step):
        yield Measurement("shares/output", run.evaluate("train").double().sum())
        yield Measurement("shares/again", run.evaluate("train").double().sum())


def start():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    model = network()
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def loop(model, optimizer, manager=None, interrupt=None):
    """The loop of a user who catches an interrupt, makes up for an update that was not done, and goes on."""
    caught = []
    for step in range(STEPS):
        x, y = torch.randn(24, 2), torch.randint(0, 3, (24,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        done = updates(optimizer)
        try:
            with interrupt or At(None, []):
                optimizer.step()
                if manager is not None and step % 3 == 2:
                    manager.state_dict()
        except KeyboardInterrupt:
            caught.append(step)
            if updates(optimizer) == done:
                optimizer.step()
    return caught


def updates(optimizer):
    return sum(float(state["step"]) for state in optimizer.state.values())


def probes():
    return [Shares(every(1)), FourierSpectrum(every(3), num_segments=2, num_points=8), PathComplexity(every(1)),
            Witness(every(1))]  # fmt: skip


def watched(folder, k, only=()):
    model, optimizer = start()
    manager = ProbeManager(model, probes(), log_dir=folder, overhead=None, sinks=[HDF5Sink(), TensorBoardSink()])
    manager.attach(optimizer)
    interrupt = At(k, OURS, but=COUNTING, only=only)
    caught = loop(model, optimizer, manager, interrupt)
    print_ = fingerprint(model, optimizer)
    manager.detach()
    return interrupt, caught, print_, open_run(folder)


def streams(run):
    return {node.path.strip("/"): node for node in run.subtree
            if "value" in node and not node.path.startswith("/probes/")}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model, optimizer = start()
    loop(model, optimizer)
    interrupt, _, print_, run = watched(tmp_path_factory.mktemp("run") / "run", None)
    assert print_ == fingerprint_of_bare()
    return interrupt.count, print_, streams(run)


def fingerprint_of_bare():
    model, optimizer = start()
    loop(model, optimizer)
    return fingerprint(model, optimizer)


def check(folder, k, undisturbed, only=()):
    lines, bare, expected = undisturbed
    interrupt, caught, print_, run = watched(folder, k, only)
    where = f"line {k} of {lines}: {interrupt.line}"
    assert caught and print_ == bare, where
    step = caught[0]
    missing, found = set(), streams(run)
    for name, node in expected.items():
        due = set(node["step"].values.tolist())
        if name not in found:
            missing |= due
            continue
        steps = found[name]["step"].values.tolist()
        assert len(set(steps)) == len(steps), (where, name, steps)
        # A probe that had not had its turn yet has it at the next step.
        assert set(steps) <= due | {step + 2}, (where, name, steps)
        missing |= due - set(steps)
        if name.startswith("complexity/") or not set(steps) <= due:
            continue  # it adds up, and interpolates where it was not measured
        np.testing.assert_array_equal(
            found[name]["value"].values, node["value"].sel(step=steps).values, err_msg=f"{where} {name}"
        )
    assert missing <= {0, step + 1}, (where, missing)
    assert 0 not in missing or step == 0, where
    kinds = run["events"]["kind"].values.tolist()
    assert not missing or "interrupt" in kinds or "warning" in kinds, (where, missing)


def spread(count, number):
    return sorted({int(k) for k in np.linspace(0, count - 1, number)})


def surely_there(count):
    """Not the very last lines: a run has a few more or fewer of them than the one in which they were counted."""
    return count * 49 // 50


def test_after_an_interrupt_at_any_line_all_later_rows_are_right(undisturbed, tmp_path):
    for k in spread(surely_there(undisturbed[0]), 8):
        check(tmp_path / str(k), k, undisturbed)


def test_after_an_interrupt_where_rows_are_handed_over_none_is_twice_there(undisturbed, tmp_path):
    only = ("_write_waiting",)
    lines = watched(tmp_path / "all", None, only)[0].count
    for k in range(lines // 2, lines // 2 + 6):  # of some steps
        check(tmp_path / str(k), k, undisturbed, only)


@pytest.mark.slow
def test_after_an_interrupt_at_any_of_many_lines_all_later_rows_are_right(undisturbed, tmp_path):
    for k in spread(surely_there(undisturbed[0]), 400):
        check(tmp_path / str(k), k, undisturbed)


def test_after_an_interrupt_at_any_line_of_writing_no_row_is_lost_or_twice_there(tmp_path):
    model, optimizer = start()

    def run(k):
        folder = tmp_path / str(k)
        manager = ProbeManager(model, [Witness(every(1))], log_dir=folder, overhead=None, sinks=[HDF5Sink()])
        interrupt = At(k, ["probes/sinks/"])
        with manager.attach(optimizer):
            for step in range(4):
                optimizer.step()
                if step == 1:
                    manager.state_dict()
            try:
                with interrupt:
                    manager.state_dict()
            except KeyboardInterrupt:
                pass
            optimizer.step()
        return interrupt, open_run(folder)["witness/norm"]["step"].values.tolist()

    F.cross_entropy(model(torch.randn(24, 2)), torch.randint(0, 3, (24,))).backward()
    lines = run(None)[0].count
    assert lines > 100
    for k in spread(lines, 20):
        interrupt, steps = run(k)
        assert steps == list(range(6)), interrupt.line


def test_what_probes_share_is_forgotten_after_an_interrupt(model, optimizer):
    class Interrupted(Probe):
        def measure(self, run, step):
            output = run.evaluate("train").sum()
            if step == 1:
                raise KeyboardInterrupt
            yield Measurement("interrupted/output", output)

    sink = Memory()
    with ProbeManager(model, [Interrupted(every(1))], sinks=[sink], overhead=None).attach(optimizer):
        for _ in range(2):
            try:
                run_steps(model, optimizer, 1)
            except KeyboardInterrupt:
                continue
        (row,) = [row for row in sink.rows if row.name == "interrupted/output" and row.step == 2]
        assert row.value == model(torch.ones(4, 2)).sum().item()


# --------------------------------------------------------------------------------------------------------------- guard


def careless(model):
    torch.manual_seed(0), random.random(), np.random.rand()  # noqa: NPY002
    model.train()
    model(torch.randn(4, 2)).sum().backward()
    model.requires_grad_(False)
    model[0] = nn.Linear(2, 8)
    model.register_forward_hook(lambda *_: None)
    model[4].double()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


def everything(model, optimizer):
    hooks = [list(module._forward_hooks) for module in model.modules()]
    modules = [id(module) for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    python = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    settings = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype())
    rng = torch.get_rng_state().tolist()
    state = fingerprint(model, optimizer)
    torch.set_rng_state(torch.tensor(rng, dtype=torch.uint8))
    random.setstate(python[0])
    np.random.seed(1)  # noqa: NPY002
    return hooks, modules, needs, python, settings, rng, state, vars(optimizer).keys()


@pytest.mark.parametrize(
    ("error", "autocast", "lines"),
    [
        (KeyboardInterrupt, False, slice(0, None, 6)),
        (torch.OutOfMemoryError, True, slice(1, None, 6)),
        pytest.param(KeyboardInterrupt, False, slice(None), marks=pytest.mark.slow),
        pytest.param(KeyboardInterrupt, True, slice(None), marks=pytest.mark.slow),
        pytest.param(MemoryError, False, slice(None), marks=pytest.mark.slow),
        pytest.param(torch.OutOfMemoryError, True, slice(None), marks=pytest.mark.slow),
    ],
)
def test_after_an_exception_at_any_line_of_the_guard_everything_is_as_before(error, autocast, lines):
    model, optimizer = start()
    model(torch.randn(4, 2)).sum().backward()
    model[1].eval()

    def guarded(k):
        interrupt = At(k, ["probes/guard/"], error)
        guard = unnoticed(model, [optimizer])
        try:
            with interrupt, guard:
                careless(model)
        except (error, RuntimeError):
            pass
        finally:
            if "(_undo_all)" not in interrupt.line:
                guard.restore()  # what the caller does: an interrupt may come before the first line of __exit__
        return interrupt

    with torch.autocast("cpu", enabled=autocast):
        np.random.seed(1)  # noqa: NPY002
        before = everything(model, optimizer)
        count = guarded(None).count
        assert everything(model, optimizer) == before and count > 200
        for k in range(count)[lines]:
            interrupt = guarded(k)
            assert everything(model, optimizer) == before, interrupt.line


@pytest.mark.parametrize(
    ("where", "only", "number"),
    [
        (["probes/"], (), 16),
        (
            ["probes/loop/first_batch.py", "probes/loop/steps.py"],
            ("__init__", "watch"),
            30,
        ),  # where hooks are registered
        pytest.param(
            ["probes/loop/first_batch.py", "probes/loop/steps.py"],
            ("__init__", "watch"),
            10_000,
            marks=pytest.mark.slow,
        ),
        (["probes/loop/hidden.py", "probes/session/lifetime.py"], ("hide", "watch", "begin", "__init__"), 100),
        pytest.param(["probes/manager.py"], (), 10_000, marks=pytest.mark.slow),
        pytest.param(["probes/"], (), 1_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("given", [pytest.param(True, marks=pytest.mark.slow), False])
def test_attach_may_be_interrupted_at_any_line_and_leaves_nothing_behind(where, only, number, given, tmp_path):
    model, optimizer = start()
    others = step_hooks()

    def attach(k):
        manager = ProbeManager(model, [Witness(every(1))], sinks=[HDF5Sink()], log_dir=tmp_path / str(k))
        interrupt = At(k, where, only=only)
        try:
            with interrupt:
                manager.attach(*[optimizer] if given else [])
        except KeyboardInterrupt:
            pass
        return interrupt, manager

    interrupt, manager = attach(None)
    manager.detach()
    for k in spread(interrupt.count, min(number, interrupt.count)):
        interrupt, manager = attach(k)
        manager.detach()
        left = [key for key in vars(model) if "probes" in key]
        assert not optimizer._optimizer_step_post_hooks and not optimizer._optimizer_step_pre_hooks, interrupt.line
        assert step_hooks(collect=False) <= others, interrupt.line
        assert not model._forward_hooks and not model._forward_pre_hooks and not left, interrupt.line
        assert model.training, interrupt.line
        with manager.attach(optimizer):
            optimizer.step()
