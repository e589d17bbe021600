"""What a measuring step takes when ranks share the work: DDP on gloo, one thread a rank, seconds of wall time.

    python benchmarks/ranks.py [--ranks 2] [--turns 5]

Every step measures everything. "alone" is the same training with probes on rank 0 only, while the others wait for it.
The CPU time of the busiest rank is what the wall time comes down to on a machine that does nothing else. The rows
measured must be the same to the last bit, or the command fails.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from probes import ProbeManager, every, hookimpl
from probes.batches import Batch
from probes_complexity import Capacity
from probes_fourier import FourierSpectrum, KernelSpectrum, SpectralNorm
from probes_mine import MutualInformation
from probes_ntk import TangentKernel


class Bits:
    """A sink that keeps the bits of every value."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], str] = {}

    @hookimpl
    def write(self, measurements: list[Any]) -> None:
        """Take them."""
        for row in measurements:
            if row.probe != "probes":
                self.rows[row.name, row.step] = hashlib.sha256(row.value.tobytes()).hexdigest()


def mlp() -> nn.Module:
    """Six hidden layers of 256."""
    sizes = [784, *[256] * 6]
    layers = [part for i, o in pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, 10))


def vgg() -> nn.Module:
    """Of an eighth of the width of VGG19, with batch normalisation."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (8, 8, 0, 16, 16, 0, 32, 32, 32, 32, 0, 64, 64, 64, 64, 0, 64, 64, 64, 64):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(nn.ZeroPad2d(2), *layers, nn.Flatten(), nn.Linear(64 * 4, 10))


MODELS = {"MLP, six of 256": mlp, "VGG19, an eighth of its width": vgg}
PROBES = {
    "tangent kernel": lambda: [TangentKernel(every(1))],
    "information": lambda: [MutualInformation(every(1))],
    "default": lambda: [
        TangentKernel(every(1)), FourierSpectrum(every(1)), SpectralNorm(every(1)), KernelSpectrum(every(1)),
    ],
    "default, information, capacity": lambda: [
        TangentKernel(every(1)), FourierSpectrum(every(1)), SpectralNorm(every(1)), KernelSpectrum(every(1)),
        MutualInformation(every(1)), Capacity(every(1)),
    ],
}  # fmt: skip


def train(
    make: Callable[[], nn.Module], probes: list[Any], turns: int, alone: bool
) -> tuple[list[tuple[float, float]], dict[Any, str]]:
    """Wall time of each update but the first two, and CPU time of the busiest rank in it; and what was measured."""
    torch.manual_seed(0)
    ddp = DistributedDataParallel(make())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    given = torch.Generator().manual_seed(0)
    batch = torch.randn(100, 1, 28, 28, generator=given), torch.randint(10, (100,), generator=given)
    sink, seconds = Bits(), []
    if alone and dist.get_rank() != 0:
        probes = []  # whose manager is of no use to rank 0
    manager = ProbeManager(ddp, probes, {"train": Batch((batch[0],), targets=batch[1])}, [sink], overhead=None)
    manager.attach(optimizer)
    for _ in range(turns + 2):
        inputs = torch.randn(64, 1, 28, 28, generator=generator)
        targets = torch.randint(10, (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(ddp(inputs), targets).backward()
        dist.barrier()
        start, busy = time.perf_counter(), time.process_time()
        optimizer.step()
        most = torch.tensor(time.process_time() - busy)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        seconds.append((time.perf_counter() - start, most.item()))
    manager.detach()
    return seconds[2:], sink.rows


def child(turns: int, only: str) -> None:
    """The table, from rank 0."""
    dist.init_process_group("gloo")
    logging.getLogger("probes").setLevel(logging.ERROR)  # that ranks have other probes is meant
    for name, probes in [(name, probes) for name in MODELS if name.startswith(only) for probes in PROBES]:
        together, rows = train(MODELS[name], PROBES[probes](), turns, alone=False)
        alone, same = train(MODELS[name], PROBES[probes](), turns, alone=True)
        if dist.get_rank() == 0:
            if rows != same:
                differing = [key for key in rows | same if rows.get(key) != same.get(key)]
                sys.exit(f"{name}, {probes}: rows differ: {differing[:10]}")
            wall, busy = (
                [statistics.median(pair[which] for pair in pairs) for pairs in (alone, together)] for which in (0, 1)
            )
            columns = [f"{a:.3f} | {b:.3f} | {a / b:.2f}" for a, b in (wall, busy)]
            print(f"| {name} | {probes} | {' | '.join(columns)} |", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name begins so")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        child(arguments.turns, arguments.only)
        return
    heads = "wall s, alone | {0} ranks | times faster | busiest rank's CPU s, alone | {0} ranks | times less |"
    print(f"| model | probes | {heads.format(arguments.ranks)}\n|{' --- |' * 8}", flush=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
    command += [__file__, "--turns", str(arguments.turns), "--only", arguments.only]
    sys.exit(subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
