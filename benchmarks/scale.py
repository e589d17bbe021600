"""What long runs, many layers and many names cost, and that nothing grows with them.

Run: ``python benchmarks/scale.py [--steps 100000] [--turns 2000] [--layers 1000] [--names 10000] [--attachments 1000]``

One row for each: what was done, memory of the process (resident) before and after, and the time that matters, beside
its control. Steps: the mean of the last tenth of all steps over that of the first, of a model with probes that are not
due and of its bare twin.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from probes import Axis, Measurement, Probe, ProbeManager, at, every, open_run
from probes.guard.unnoticed import unnoticed
from probes.run import Run
from probes.sinks.hdf5 import HDF5Sink
from probes.sinks.tensorboard import TensorBoardSink


class Mixed(Probe):
    """A scalar, a spectrum, layers and a picture."""

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield what does not depend on the model."""
        yield Measurement("m/scalar", float(step))
        yield Measurement("m/spectrum", np.ones(64), ("frequency",), {"frequency": Axis(np.arange(64), "cycles")})
        yield Measurement("m/layers", np.ones(10), ("layer",), {"layer": [f"layer{index}" for index in range(10)]})
        yield Measurement("m/picture", np.ones((32, 32)), ("y", "x"))


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    """One weight."""
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Seconds that steps take."""
    data = torch.ones(4, 2)
    begun = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
    return time.perf_counter() - begun


def resident() -> float:
    """MiB of the process that are in memory now; where the system does not say, the most there ever were."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def row(what: str, work: Callable[[], str]) -> None:
    """Do it and print its row."""
    before = resident()
    words = work()
    print(f"{what:<44}{before:>8.0f}{resident():>8.0f}   {words}", flush=True)


def steps_not_due(steps: int) -> str:
    """A probe that is never due, and a bare twin, in alternating blocks."""
    probed, bare = small(), small()
    tenth = max(1, steps // 10)
    with ProbeManager(probed[0], [Mixed(at([10**12]))], log_dir=tempfile.mkdtemp()).attach(probed[1]):
        train(*probed, 200), train(*bare, 200)
        times = [(train(*probed, tenth), train(*bare, tenth)) for _ in range(10)]
    ours, control = (last / first for first, last in zip(times[0], times[-1], strict=True))
    return f"last tenth / first tenth {ours:.2f}, bare twin {control:.2f}"


def measurements(turns: int) -> str:
    """Every step is measured and written."""
    model, optimizer = small()
    tenth = max(1, turns // 10)
    with ProbeManager(model, [Mixed(every(1))], log_dir=tempfile.mkdtemp(), overhead=None).attach(optimizer):
        train(model, optimizer, 20)
        times = [train(model, optimizer, tenth) for _ in range(10)]
    return (
        f"last tenth / first tenth {times[-1] / times[0]:.2f}, {1e3 * sum(times) / turns:.2f} ms a turn with both files"
    )


def many_layers(layers: int) -> str:
    """A model of many layers."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    begun = time.perf_counter()
    manager = ProbeManager(model, [Mixed(at([0]))], log_dir=tempfile.mkdtemp()).attach(optimizer)
    attached = time.perf_counter() - begun
    train(model, optimizer, 2)
    begun = time.perf_counter()
    for _ in range(10):
        with unnoticed(model):
            pass
    guard = (time.perf_counter() - begun) / 10
    begun = time.perf_counter()
    manager.report()
    reported = time.perf_counter() - begun
    manager.detach()
    return f"attach {attached:.2f} s, guard {1e3 * guard:.1f} ms a turn, report {1e3 * reported:.1f} ms"


def many_names(names: int) -> str:
    """A stream for each name; then another one, for which the file is opened again."""
    log_dir = Path(tempfile.mkdtemp())
    run = Run(nn.Linear(1, 1), log_dir, seed=0, output=lambda output: output, run_id="scale")
    found = []
    for sink in (HDF5Sink(), TensorBoardSink()):
        if isinstance(sink, HDF5Sink):
            sink.on_attach(run)

        def flushed(sink: HDF5Sink | TensorBoardSink, chosen: list[str], step: int) -> float:
            begun = time.perf_counter()
            sink.write(run, [Measurement(name, 1.0).taken(step, 1.0, "p", "1") for name in chosen])
            sink.flush(run)
            return time.perf_counter() - begun

        all_names = [f"group{index % 100}/name{index}" for index in range(names)]
        first, again = flushed(sink, all_names, 0), flushed(sink, all_names, 1)
        new = flushed(sink, ["new"], 2) + flushed(sink, ["newer"], 3)
        found.append(
            f"{sink.name}: first {1e3 * first / names:.2f} ms a name, then {1e3 * again / names:.2f}, "
            f"one new name {1e3 * new / 2:.0f} ms"
        )
        sink.on_detach(run)
    begun = time.perf_counter()
    open_run(log_dir)
    found.append(f"open_run {1e3 * (time.perf_counter() - begun) / names:.2f} ms a name")
    return "; ".join(found)


def attachments(times: int) -> str:
    """Attach, take two steps, detach."""
    model, optimizer = small()

    def once() -> float:
        begun = time.perf_counter()
        with ProbeManager(model, [Mixed(every(1))], log_dir=tempfile.mkdtemp()).attach(optimizer):
            train(model, optimizer, 2)
        return time.perf_counter() - begun

    tenth = max(1, times // 10)
    means = [sum(once() for _ in range(tenth)) / tenth for _ in range(10)]
    return f"{1e3 * means[0]:.0f} ms each in the first tenth, {1e3 * means[-1]:.0f} in the last"


def huge() -> str:
    """A billion parameters on the device that holds nothing."""
    model = nn.Linear(100_000, 10_000, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    begun = time.perf_counter()
    with ProbeManager(model, [Mixed(every(1))], log_dir=tempfile.mkdtemp(), overhead=None).attach(optimizer) as manager:
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.empty(4, 100_000, device="meta")).sum().backward()
            optimizer.step()
        manager.report()
        manager.state_dict()
    return f"ten steps, all measured, report and checkpoint {time.perf_counter() - begun:.2f} s"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (
        ("steps", 100_000),
        ("turns", 2000),
        ("layers", 1000),
        ("names", 10_000),
        ("attachments", 1000),
    ):
        parser.add_argument(f"--{name}", type=int, default=number)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread; memory in MiB")
    print(f"{'':<44}{'before':>8}{'after':>8}")
    attachments(10)  # what is imported and allocated once
    row(f"{arguments.steps:,} steps with nothing due", lambda: steps_not_due(arguments.steps))
    row(f"{arguments.turns:,} turns of 4 measurements", lambda: measurements(arguments.turns))
    row(f"{arguments.layers:,} layers", lambda: many_layers(arguments.layers))
    row(f"{arguments.names:,} names", lambda: many_names(arguments.names))
    row("1,000,010,000 parameters (meta)", huge)
    row(f"{arguments.attachments:,} attachments", lambda: attachments(arguments.attachments))


if __name__ == "__main__":
    main()
