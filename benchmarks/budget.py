"""What training with probes takes more than bare training, beside the budget it was given.

Run: ``python benchmarks/budget.py [--runs 5] [--seconds 60] [--workloads digits ...] [--budgets 0.05 ...] [--cpu]``

Every run is a process of its own and counts whole lives: importing, attach, measuring, writing HDF5 and TensorBoard,
detach. Two kinds of workloads:

digits                      the network of ``make demo`` with the probes that run by default
competition, growth,        steps and turns that sleep: two cheap probes that are always due against one whose turn
slower, faster              takes 300 ms; or against one whose turn takes 3 % longer each time; steps that take ten
                            times as long, or a tenth, in the second half

With ``--cpu``, time is the CPU time of the process, and a sleep takes none but counts as long as it is: then it does
not matter what else the machine does. Waiting for the disk is not counted so.

Two bare twins and the probed model train in turns of a few steps, so that whatever else the machine does meets all
alike; the budget's clock stands still while the twins train. Printed is the time taken beyond bare training over that
of bare training, mean and worst of the runs, and what the budget has booked of it; ``control``, one twin beside the
other: the noise; ``gap``, the largest distance between turns in the second half over the mean one, of the probe that is
worst off (where it has three turns there); the turns of each probe, and how many of them in the first tenth of the
training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

SLEEPING = ("competition", "growth", "slower", "faster")
WORKLOADS = ("digits", *SLEEPING)


slept = 0.0
"""Seconds, of those sleeps that take no time."""


def sleep(seconds: float) -> None:
    """Sleep; on the clock only, where that is the CPU's."""
    global slept
    if Watch.now is time.perf_counter:
        time.sleep(seconds)
    else:
        slept += seconds


def cpu_time() -> float:
    """CPU time and sleeps."""
    return time.process_time() + slept


class Watch:
    """A clock that can be stopped."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.stopped = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return (self.now() if self._since is None else self._since) - self.stopped

    def stop(self) -> None:
        """Stand still."""
        if self._since is None:
            self._since = self.now()

    def go(self) -> None:
        """Go on."""
        if self._since is not None:
            self.stopped += self.now() - self._since
            self._since = None


def digits(budget: float, seconds: float) -> dict[str, Any]:
    """The network of the demo, on its digits."""
    imported = import_probes()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from examples.demo import make_model
    from examples.frame.data import mnist_subset

    images, labels = mnist_subset()

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        rows = torch.randint(len(images), (50,))
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return compare(make_model, step, None, budget, seconds, twins=0.4, imported=imported)


def sleeping(workload: str, budget: float, seconds: float) -> dict[str, Any]:
    """Steps and turns that sleep."""
    imported = import_probes()
    from probes import Measurement, Probe, every

    class Sleeps(Probe):
        def __init__(self, name: str, cost: Callable[[int], float]) -> None:
            super().__init__(every(1))
            self.name, self.cost, self.turns = name, cost, 0  # type: ignore[misc]

        def measure(self, run: object, step: int) -> Iterator[Measurement]:
            sleep(self.cost(self.turns))
            self.turns += 1
            yield Measurement(f"sleep/{self.name}", 1.0)

    probes = [Sleeps("cheap", lambda turn: 0.002), Sleeps("cheap-2", lambda turn: 0.005)]
    if workload == "growth":
        probes.append(Sleeps("growing", lambda turn: 0.01 * 1.03**turn))
    else:
        probes.append(Sleeps("dear", lambda turn: 0.3))
    before, after = {"slower": (0.005, 0.05), "faster": (0.05, 0.005)}.get(workload, (0.01, 0.01))
    data = torch.ones(4, 2)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        sleep(before if progress < 0.5 else after)
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()

    return compare(lambda: nn.Linear(2, 1), step, probes, budget, seconds, twins=0.2, imported=imported)


def import_probes() -> float:
    """How long it takes, beyond importing torch."""
    begun = Watch.now()
    from probes import ProbeManager  # noqa: F401 - the first name imports all

    return Watch.now() - begun


def compare(
    make_model: Callable[[], nn.Module],
    step: Callable[[nn.Module, torch.optim.Optimizer, float], None],
    probes: Any,
    budget: float,
    seconds: float,
    twins: float,
    imported: float,
) -> dict[str, Any]:
    """Train a model with probes, and two bare twins that together take ``twins`` times as many steps, in turns."""
    watch = Watch()
    loops, times, steps = {}, {"probed": imported, "bare": 0.0, "control": 0.0}, 0
    for name in times:
        torch.manual_seed(0)
        model = make_model()
        loops[name] = model, torch.optim.Adam(model.parameters(), lr=1e-3)

    def timed(name: str, what: Callable[[], Any]) -> Any:
        (watch.go if name == "probed" else watch.stop)()
        begun = Watch.now()
        try:
            return what()
        finally:
            times[name] += Watch.now() - begun

    def train(name: str, count: int, progress: float) -> None:
        for _ in range(count):
            step(*loops[name], progress)

    def bare() -> float:
        return (times["bare"] + times["control"]) / twins

    for name in ("bare", "control"):  # what happens once in a process is not what probes cost
        train(name, 20, 0.0)
    manager = timed("probed", lambda: attach(loops["probed"][0], probes, budget, watch, loops["probed"][1], imported))
    counts = {"probed": 10, "bare": round(5 * twins), "control": round(5 * twins)}
    while bare() < seconds:
        names = list(counts)
        first = steps // 10 % 3
        for name in names[first:] + names[:first]:
            timed(name, partial(train, name, counts[name], bare() / seconds))
        steps += 10
    timed("probed", manager.detach)
    return {
        "overhead": times["probed"] / bare() - 1,
        "control": times["control"] / times["bare"] - 1,
        "booked": manager._governor.total / bare(),
        **followed(manager, steps),
    }


def attach(
    model: nn.Module, chosen: Any, budget: float, clock: Callable[[], float], optimizer: Any, imported: float
) -> Any:
    """An attached manager whose budget goes by ``clock``."""
    from probes import manager
    from probes.budget import governor, spending
    from probes.session import settings

    spending.imported = imported  # by this clock
    settings.Governor = partial(governor.Governor, clock=clock)  # type: ignore[misc,assignment]
    made = manager.ProbeManager(model, chosen, log_dir=tempfile.mkdtemp(prefix="budget"), overhead=budget)
    return made.attach(optimizer)


def followed(manager: Any, steps: int) -> dict[str, Any]:
    """The turns that were taken, as the run recorded them."""
    from probes import open_run

    turns: dict[str, list[int]] = {}
    for name, node in open_run(manager.run.log_dir)["probes/turn_seconds"].children.items():
        turns[name] = node["step"].values.tolist()
    gaps = []
    for taken in turns.values():
        late = [b - a for a, b in itertools.pairwise(step for step in taken if step >= steps / 2)]
        if len(late) >= 2:
            gaps.append(max(late) / statistics.mean(late))
    return {
        "steps": steps,
        "turns": {name: len(taken) for name, taken in turns.items()},
        "early": {name: sum(step <= steps / 10 for step in taken) for name, taken in turns.items()},
        "gap": max(gaps, default=float("nan")),
    }


def one(workload: str, budget: float, seconds: float) -> dict[str, Any]:
    """A run, in this process."""
    torch.set_num_threads(1)
    return digits(budget, seconds) if workload == "digits" else sleeping(workload, budget, seconds)


def in_a_process(workload: str, budget: float, seconds: float, cpu: bool, number: int) -> dict[str, Any]:
    """A run, in a process of its own."""
    if workload in SLEEPING and not cpu:
        time.sleep(8 * (number % 2))  # those that run beside each other do not start together
    command = [sys.executable, __file__, "--one", workload, str(budget), str(seconds), *(["--cpu"] if cpu else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of bare training")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.02, 0.05, 0.1])
    parser.add_argument("--cpu", action="store_true", help="by CPU time, where others use the machine")
    parser.add_argument("--one", nargs=3, metavar=("WORKLOAD", "BUDGET", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu:
        Watch.now = staticmethod(cpu_time)
    if arguments.one:
        print(json.dumps(one(arguments.one[0], float(arguments.one[1]), float(arguments.one[2]))))
        return
    print(f"{arguments.runs} runs of {arguments.seconds:g} s of bare training; torch {torch.__version__}, 1 thread")
    print(f"{'workload':<13}{'budget':>7}{'mean':>8}{'worst':>8}{'booked':>8}{'control':>9}{'gap':>6}  turns (early)")
    for workload in arguments.workloads:
        with ThreadPoolExecutor(2 if workload in SLEEPING else 1) as pool:  # more would wait for each other's imports
            for budget in arguments.budgets:
                run = partial(in_a_process, workload, budget, arguments.seconds, arguments.cpu)
                runs = list(pool.map(run, range(arguments.runs)))

                def mean(of: Callable[[dict[str, Any]], float], runs: list[dict[str, Any]] = runs) -> float:
                    return statistics.mean(map(of, runs))

                turns = "  ".join(
                    f"{name} {mean(lambda run: run['turns'][name]):.0f} ({mean(lambda run: run['early'][name]):.0f})"  # noqa: B023
                    for name in runs[0]["turns"]
                )
                over = [run["overhead"] for run in runs]
                control = max(abs(run["control"]) for run in runs)
                print(
                    f"{workload:<13}{budget:>7.0%}{statistics.mean(over):>8.2%}{max(over):>8.2%}"
                    f"{mean(lambda run: run['booked']):>8.2%}{control:>9.2%}"
                    f"{max(run['gap'] for run in runs):>6.1f}  {turns}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
