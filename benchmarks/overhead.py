"""What it costs to be attached, beside bare PyTorch and beside peers that watch a training loop.

Run: ``python benchmarks/overhead.py [--blocks 40] [--peers] [--device cpu] [--turns]``

Every block trains the same model for some steps under each configuration in turn, in an order that changes from block
to block; the first steps of a turn, in which the first batch is kept, are not counted. Printed is the CPU time of a
step (of the process, one thread), as the median over blocks of the difference to the bare turn of the same block.
The row ``control`` is bare PyTorch once more: its difference is the noise. The time of the hooks does not depend on the
model, so the smallest model resolves it best. On an accelerator the time is wall time, from when it has nothing to do
to when it has done all steps of the turn.

With ``--turns``: what a due turn of ``layers`` costs, the two updates that it looks at included, beside one bare
forward pass of the same batch in eval mode. Turns and passes alternate; ``control`` is a second pass over the first.
Printed are medians, of the probe itself and of everything with it (sinks, planning).
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from devices import clock, missing
from torch import Tensor, nn

from probes import Measurement, Probe, ProbeManager, at, every

Workload = tuple[nn.Module, torch.optim.Optimizer, Tensor, Tensor, int]


class Never(Probe):
    """A probe that is attached and never due."""

    def measure(self, run: object, step: int) -> Iterator[Measurement]:
        """Yield nothing."""
        yield from ()


def mlp() -> Workload:
    """The six-layer network of 256 units of the spectral bias article, on batches of MNIST's shape."""
    widths = [784, 256, 256, 256, 256, 256, 10]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    return model, torch.optim.SGD(model.parameters(), lr=1e-3), torch.rand(100, 784), torch.randint(10, (100,)), 40


def resnet18() -> Workload:
    """ResNet18 on four images of CIFAR-10's shape."""
    from torchvision.models import resnet18 as make

    model = make(num_classes=10)
    x, y = torch.rand(4, 3, 32, 32), torch.randint(10, (4,))
    return model, torch.optim.SGD(model.parameters(), lr=1e-3), x, y, 8


def smallest() -> Workload:
    """One weight: nearly all that is left is the loop itself."""
    model = nn.Linear(1, 2)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3), torch.rand(2, 1), torch.randint(2, (2,)), 2000


def attached(model: nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """A manager with a probe that is never due, found through the global step hook as with ``attach()``."""
    return ProbeManager(model, [Never(at([10**9]))], log_dir=tempfile.mkdtemp()).attach()


def wandb_watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """wandb.watch with its default frequency (1000), offline, and one ``run.log`` a step."""
    import wandb

    @contextmanager
    def watching() -> Iterator[Callable[[float], None]]:
        settings = wandb.Settings(silent=True)
        with wandb.init(mode="offline", dir=tempfile.mkdtemp(), settings=settings) as run:
            wandb.watch(model)
            try:
                yield lambda loss: run.log({"loss": loss})
            finally:
                wandb.unwatch(model)

    return watching()


def cockpit_economy(model: nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """Cockpit: importing it is what fails beside a current setuptools."""
    import cockpit  # noqa: F401

    raise RuntimeError("imports; its context needs the loop itself to be rewritten, and is not measured here")


def turn(workload: Workload, watch: AbstractContextManager[object], warm_up: int = 5) -> float:
    """Seconds of a step under a configuration, see :func:`devices.clock`."""
    model, optimizer, x, y, steps = workload
    with watch as after:
        log = after if callable(after) and not isinstance(after, ProbeManager) else None
        for step in range(warm_up + steps):
            if step == warm_up:
                start = clock(x.device)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if log is not None:
                log(loss.item())
        return (clock(x.device) - start) / steps


def compare(
    workloads: Sequence[Callable[[], Workload]],
    configurations: Mapping[str, Callable[[nn.Module, torch.optim.Optimizer], AbstractContextManager[object]]],
    blocks: int,
    device: str = "cpu",
) -> None:
    """Measure and print the table."""
    where = "1 thread" if device == "cpu" else device
    what = "CPU time" if device == "cpu" else "wall time"
    print(f"torch {torch.__version__}, {where}, {blocks} blocks; {what}, median over blocks")
    print(
        f"{'model':<14}{'configuration':<30}{'us a step':>12}{'more than bare':>18}{'standard error':>16}{'ratio':>9}"
    )
    for make in workloads:
        model, optimizer, x, y, steps = make()
        workload = model.to(device), optimizer, x.to(device), y.to(device), steps
        times: dict[str, list[float]] = {name: [] for name in configurations}
        failed: dict[str, str] = {}
        for block in range(blocks + 1):
            order = [name for name in configurations if name not in failed]
            random.Random(block).shuffle(order)
            for name in order:
                try:
                    seconds = turn(workload, configurations[name](workload[0], workload[1]))
                except Exception as error:
                    failed[name] = repr(error)
                    continue
                if block:  # the first one warms up
                    times[name].append(seconds)
        for name in configurations:
            if name in failed:
                print(f"{make.__name__:<14}{name:<30}did not run: {failed[name][:90]}")
                continue
            differences = [1e6 * (ours - bare) for ours, bare in zip(times[name], times["bare"], strict=True)]
            # The median's standard error, from the interquartile range.
            low, _, high = statistics.quantiles(differences, n=4)
            error = 1.25 * (high - low) / 1.35 / len(differences) ** 0.5
            median, ratio = 1e6 * statistics.median(times[name]), statistics.median(
                ours / bare for ours, bare in zip(times[name], times["bare"], strict=True)
            )  # fmt: skip
            print(
                f"{make.__name__:<14}{name:<30}{median:>12.1f}{statistics.median(differences):>15.1f} us"
                f"{error:>13.1f} us{ratio:>9.3f}"
            )


def small_cnn() -> nn.Module:
    """Two convolutions and two linear maps, for images of 28 pixels."""
    convolutions = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10))


def perceptron() -> nn.Module:
    """Of MNIST's shape."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


class Block(nn.Module):
    """Attention and a perceptron, as GPT-2 has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes ``(n, tokens, width)``."""
        n, tokens, width = x.shape
        qkv = self.qkv(self.before(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(seen)
        added: Tensor = x + self.mlp(self.between(x))
        return added


class Transformer(nn.Module):
    """Two blocks of 128 units on 64 tokens of 100."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(100, 128), nn.Embedding(64, 128)
        self.blocks = nn.Sequential(Block(128, 4), Block(128, 4), nn.LayerNorm(128))
        self.head = nn.Linear(128, 100)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give the logits of the token after the last."""
        logits: Tensor = self.head(self.blocks(self.embedding(tokens) + self.position.weight)[:, -1])
        return logits


def turns(blocks: int, device: str) -> None:
    """The table of what a turn costs."""
    from torchvision.models import resnet18 as make

    from probes.budget import governor
    from probes.session import settings
    from probes_layers import LayerStatistics

    images = lambda n, *shape: (torch.rand(n, *shape), torch.randint(10, (n,)))  # noqa: E731
    workloads: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor]]] = {
        "ResNet18, 100 x 32 px": (lambda: make(num_classes=10), images(100, 3, 32, 32)),
        "ResNet18, 32 x 224 px": (lambda: make(num_classes=10), images(32, 3, 224, 224)),
        "MLP 784-512-512-10, 100": (perceptron, images(100, 784)),
        "small CNN, 100 x 28 px": (small_cnn, images(100, 1, 28, 28)),
        "transformer, 100 x 64": (Transformer, (torch.randint(100, (100, 64)), torch.randint(100, (100,)))),
    }
    where = torch.device(device)
    settings.Governor = partial(governor.Governor, clock=lambda: clock(where))  # type: ignore[misc,assignment]
    print(f"torch {torch.__version__}, {device}, {blocks} blocks; a turn of `layers`, medians")
    print(f"{'model':<26}{'forward pass':>13}{'control':>9}{'turn':>12}{'ratio':>8}{'with all':>12}{'ratio':>8}")
    for name, (build, (x, y)) in workloads.items():
        model, x, y = build().to(device), x.to(device), y.to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def forward(model: nn.Module = model, x: Tensor = x) -> float:
            model.eval()
            with torch.no_grad():
                begun = clock(where)
                model(x)
                taken = clock(where) - begun
            model.train()
            return taken

        probes, data = [LayerStatistics(every(3))], {"train": (x, y)}
        manager = ProbeManager(model, probes, batches=data, log_dir=tempfile.mkdtemp(), overhead=None)
        accounts, rows = manager._governor, []
        with manager.attach(optimizer):
            for block in range(blocks + 2):
                before = accounts.total, accounts.spent["layers"]
                for _ in range(3):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[:4]), y[:4]).backward()
                    optimizer.step()
                if block > 1:  # the first ones warm up
                    everything, layers = accounts.total - before[0], accounts.spent["layers"] - before[1]
                    rows.append((forward(), forward(), layers, everything))
        bare, control, layers, everything = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{name:<26}{1e3 * bare:>10.1f} ms{control / bare:>9.2f}{1e3 * layers:>9.1f} ms{layers / bare:>8.2f}"
            f"{1e3 * everything:>9.1f} ms{everything / bare:>8.2f}"
        )


def main() -> None:
    """The table of what is attached and never due, or that of turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--peers", action="store_true", help="also Cockpit and wandb.watch, where they are installed")
    parser.add_argument("--device", default="cpu", help="cuda, mps, xpu")
    parser.add_argument("--turns", action="store_true", help="what a turn of `layers` costs")
    arguments = parser.parse_args()
    if why := missing(arguments.device):
        print(why)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.turns:
        turns(arguments.blocks, arguments.device)
        return
    nothing: Callable[..., AbstractContextManager[object]] = lambda *_: nullcontext()  # noqa: E731
    configurations = {"bare": nothing, "control": nothing, "probes attached": attached}
    if arguments.peers:
        configurations |= {"wandb.watch": wandb_watch, "Cockpit": cockpit_economy}

    compare((smallest, mlp, resnet18), configurations, arguments.blocks, arguments.device)


if __name__ == "__main__":
    main()
