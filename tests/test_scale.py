"""Long runs, many layers, many names, huge parameters, many attachments: nothing grows that should not.

Counted are objects and bytes, never seconds; ``benchmarks/scale.py`` prints those.
"""

import gc
import logging
import os
import signal
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
import warm
from loops import Memory, Norm, run_steps
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from probes import Axis, Measurement, Probe, ProbeManager, at, every, open_run
from probes.guard.unnoticed import unnoticed
from probes.run import Run
from probes.session.lifetime import Lifetime
from probes.sinks.hdf5 import HDF5Sink, writer
from probes.sinks.hdf5.table import Table


class Usage:
    """How many objects and bytes there are more than at first."""

    def __enter__(self):
        gc.collect()
        self.before = len(gc.get_objects())
        tracemalloc.start()
        self.bytes_before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_):
        gc.collect()
        self.bytes = tracemalloc.get_traced_memory()[0] - self.bytes_before
        tracemalloc.stop()
        self.objects = len(gc.get_objects()) - self.before


# ------------------------------------------------------------------------------------------------------------ long runs


@pytest.mark.parametrize("steps", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_steps_with_nothing_due_keep_nothing(model, optimizer, steps):
    with ProbeManager(model, [Norm(at([10**9]))]).attach(optimizer):
        run_steps(model, optimizer, 500)
        with Usage() as more:
            run_steps(model, optimizer, steps)
    assert more.objects < 100 and more.bytes < 50_000


class Everything(Probe):
    """A scalar, a spectrum, layers and a picture."""

    def measure(self, run, step):
        layers = {"layer": [f"layer{index}" for index in range(10)]}
        yield Measurement("e/scalar", float(step))
        yield Measurement(
            "e/spectrum", np.ones(64), ("frequency",), {"frequency": Axis(np.arange(64), "cycles")}, unit="1"
        )
        yield Measurement("e/layers", np.ones(10), ("layer",), layers)
        yield Measurement("e/picture", np.ones((16, 16)), ("y", "x"))


@pytest.mark.slow
def test_measurements_that_are_written_are_not_kept(model, optimizer, monkeypatch):
    turns = 2000
    monkeypatch.setattr("probes.sinks.tensorboard.TensorBoardSink._draw", lambda *_: None)
    tracemalloc.start()  # before the rows that are kept for pictures, which later ones take the place of
    with ProbeManager(model, [Everything(every(1))], overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 520)  # from here on, as many rows are kept for pictures as ever will be
        manager.state_dict()
        with Usage() as more:
            run_steps(model, optimizer, turns - 520)
            manager.state_dict()
        rows = manager._session.accounts.measured
    assert rows == 4 * (turns + 1)
    assert more.objects < 2000 and more.bytes < 500_000


# ---------------------------------------------------------------------------------------------------- many layers


class Shapes(Probe):
    def measure(self, run, step):
        yield Measurement("shapes/layers", len(run.layers))


def test_a_thousand_layers_are_no_more_hooks(optimizer):
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(1000)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Memory()
    with ProbeManager(model, [Shapes(every(2))], sinks=[sink], overhead=None).attach(optimizer) as manager:
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        assert sum(hooks) <= 2
        run_steps(model, optimizer, 4)
        assert "6,000 parameters in 1,000 layers" in manager.report()
    assert [row.value for row in sink.rows if row.name == "shapes/layers"] == [1000] * 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------------------------------------------- many names


def scalars(names, step):
    return [Measurement(name, float(step)).taken(step, 1.0, "p", "1") for name in names]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_names_are_kept_and_new_ones_do_not_open_the_old(tmp_path, count, monkeypatch):
    opened = []
    monkeypatch.setattr(writer, "Table", lambda group: (opened.append(group.name), Table(group))[1])
    run, sink = Run(nn.Linear(1, 1), tmp_path, seed=0, output=lambda out: out, run_id="a"), HDF5Sink()
    names = [f"group{index % 10}/name{index}" for index in range(count)]
    sink.on_attach(run)
    for step in range(2):
        sink.write(run, scalars(names, step))
        sink.flush(run)
    assert len(opened) <= count + 2  # each once, not once for each flush
    for index in range(5):
        opened.clear()
        sink.write(run, scalars([f"new/name{index}"], 2))
        sink.flush(run)
        assert set(opened) == {"/events", f"/new/name{index}"}
    sink.on_detach(run)
    tree = open_run(tmp_path)
    assert all(tree[name]["value"].values.tolist() == [0.0, 1.0] for name in names)
    assert [tree[f"new/name{index}"]["value"].values.tolist() for index in range(5)] == [[2.0]] * 5


def test_more_names_than_hdf5_holds_by_itself_neither_fail_nor_crash(tmp_path):
    """Its cache of metadata takes 1,300 streams; beyond, HDF5 2.0 failed to write, or freed memory twice."""
    script = f"""
import sys
from pathlib import Path
from torch import nn
from probes import Measurement
from probes.run import Run
from probes.sinks.hdf5 import HDF5Sink
run, sink = Run(nn.Linear(1, 1), Path({str(tmp_path)!r}), seed=0, output=lambda out: out, run_id="a"), HDF5Sink()
sink.on_attach(run)
for step in range(2):
    sink.write(run, [Measurement(f"name{{index}}", 1.0).taken(step, 1.0, "p", "1") for index in range(1500)])
    sink.flush(run)
sink.on_detach(run)
"""
    done = warm.run(script)
    assert (done.returncode, done.stderr) == (0, "")
    import h5py

    with h5py.File(tmp_path / "run.h5") as file:
        assert all(file[f"name{index}/step"][:].tolist() == [0, 1] for index in (0, 900, 1499))


def test_when_hdf5_could_hold_no_more_the_sink_ends_and_the_file_is_sound(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.sinks.hdf5.run_file.MAX_METADATA", 2**20)
    run, sink = Run(nn.Linear(1, 1), tmp_path, seed=0, output=lambda out: out, run_id="a"), HDF5Sink()
    sink.on_attach(run)
    sink.write(run, scalars([f"name{index}" for index in range(600)], 0))
    with pytest.raises(OSError, match=r"the file holds more streams than HDF5 can keep .* Measure fewer names"):
        sink.flush(run)
    with pytest.raises(OSError, match="measurements are not in"):
        sink.on_detach(run)
    assert open_run(tmp_path)["name0"]["value"].values.tolist() == [0.0]


# ---------------------------------------------------------------------------------------------------- huge parameters


def test_nothing_of_a_model_of_a_billion_parameters_is_materialised():
    model = nn.Sequential(nn.Linear(100_000, 10_000, device="meta"), nn.BatchNorm1d(10_000, device="meta"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Memory()
    with ProbeManager(model, [Shapes(every(1))], sinks=[sink], overhead=None, on_error="raise").attach(
        optimizer
    ) as probes:
        for _ in range(2):
            model(torch.empty(4, 100_000, device="meta")).sum().backward()
            optimizer.step()
        assert "1,000,030,000 parameters in 2 layers" in probes.report()
        state = probes.state_dict()
        assert probes.run.config["parameters"] == 1_000_030_000
    assert sink.steps("shapes/layers") == [0, 1, 2] and state["step"] == 2
    with unnoticed(model):
        pass
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------- many attachments


def left_behind():
    return {
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "at exit": sum(type(item) is Lifetime for item in gc.get_objects()),
        "finalizers": len(weakref.finalize._registry),
        "loggers": len(logging.root.manager.loggerDict),
        "handlers": len(logging.getLogger("probes").handlers) + len(logging.root.handlers),
        "optimizer hooks": len(_global_optimizer_post_hooks) + len(_global_optimizer_pre_hooks),
        "signals": str(signal.getsignal(signal.SIGINT)) + str(signal.getsignal(signal.SIGTERM)),
    }


@pytest.mark.parametrize("given", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("times", [8, pytest.param(500, marks=pytest.mark.slow)])
def test_attaching_and_detaching_many_times_leaves_nothing(model, optimizer, tmp_path, monkeypatch, given, times):
    def attach_and_detach(count):
        for index in range(count):
            manager = ProbeManager(model, [Norm(every(1))], log_dir=tmp_path / f"{given}-{count}-{index}")
            with manager.attach(optimizer if given else None):
                run_steps(model, optimizer, 2)

    attach_and_detach(5)
    forks = []
    monkeypatch.setattr(os, "register_at_fork", lambda **functions: forks.append(functions))
    gc.collect()
    before = left_behind()
    with Usage() as more:
        attach_and_detach(times)
    assert left_behind() == before
    assert not forks  # what is called at a fork can never be taken back
    assert not model._forward_hooks and not model._forward_pre_hooks and not any("probes" in key for key in vars(model))
    assert not optimizer._optimizer_step_post_hooks and not optimizer._optimizer_step_pre_hooks
    # Bytes that are no objects of Python's: tables that grow by doubling, lists of freed memory.
    assert more.objects < 100 and more.bytes < 200_000 + 200 * times


class Slow(Probe):
    def measure(self, run, step):
        time.sleep(0.03)
        yield Measurement("slow/one", 1.0)


def test_a_manager_attached_many_times_has_one_first_turn_and_one_account(model, optimizer):
    manager = ProbeManager(model, [Slow(every(1))], sinks=[], overhead=0.01, head_start=0)
    turns = 0
    for _ in range(20):
        with manager.attach(optimizer):
            run_steps(model, optimizer, 1)
            turns += manager._session.turns.probes[0].measured
    assert 1 <= turns < 6 and manager._governor.spent["Slow"] >= 0.03 * turns
