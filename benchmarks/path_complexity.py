"""What the path complexity costs when its feature norm is estimated at every step, beside bare PyTorch.

Run: ``python benchmarks/path_complexity.py [--blocks 20]``

As ``overhead.py``: interleaved turns, CPU time of a step, the difference to bare training in the same block. The
feature norm is that of a batch of the size that is trained on, 100 samples. ``recorded`` writes all of its measurements
at every step to HDF5 and TensorBoard, the others at every hundredth; ``update norms`` never takes a feature norm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from overhead import Workload, compare
from torch import nn

from probes import ProbeManager, at, every
from probes_complexity import PathComplexity

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.frame.models import MLP, VGG

Configuration = Callable[[nn.Module, torch.optim.Optimizer], AbstractContextManager[object]]


def workload(model: nn.Module, steps: int, *size: int) -> Workload:
    """SGD with momentum on batches of 100."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return model, optimizer, torch.rand(100, *size), torch.randint(10, (100,)), steps


def mlp_1() -> Workload:
    """One hidden layer of 256 units, as in Fig. 4.6."""
    return workload(MLP(784, 256, 2, 10), 60, 784)


def mlp_6() -> Workload:
    """Six hidden layers of 256 units."""
    return workload(MLP(784, 256, 7, 10), 40, 784)


def mlp_6_wide() -> Workload:
    """Six hidden layers of 1024 units."""
    return workload(MLP(784, 1024, 7, 10), 5, 784)


def vgg19_8() -> Workload:
    """VGG19 of an eighth of its width."""
    return workload(VGG(19, 8), 5, 3, 32, 32)


def vgg19_16() -> Workload:
    """VGG19 of a quarter of its width."""
    return workload(VGG(19, 16), 3, 3, 32, 32)


WORKLOADS = {made.__name__: made for made in (mlp_1, mlp_6, mlp_6_wide, vgg19_8, vgg19_16)}


def watch(probe: Callable[[], PathComplexity]) -> Configuration:
    """A manager with that probe and no limit to its cost; its batch is the first one of the loop, of 100 samples."""
    return lambda model, optimizer: ProbeManager(
        model, [probe()], log_dir=tempfile.mkdtemp(), overhead=None, on_error="raise"
    ).attach()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--models", default=",".join(WORKLOADS), help="some of them, with commas between")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nothing: Configuration = lambda *_: nullcontext()  # noqa: E731
    configurations = {
        "bare": nothing,
        "control": nothing,
        "update norms": watch(lambda: PathComplexity(at([0]))),
        "every step": watch(lambda: PathComplexity(every(1), record=every(100))),
        "every step, recorded": watch(lambda: PathComplexity(every(1))),
        "every step, exact": watch(lambda: PathComplexity(every(1), record=every(100), trace="exact")),
    }
    compare([WORKLOADS[name] for name in arguments.models.split(",")], configurations, arguments.blocks)


if __name__ == "__main__":
    main()
