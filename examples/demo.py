"""Train a small network on 2,000 handwritten digits for about a minute, with probes attached by one line.

``make demo`` runs it. What the probes measured is printed at the end, drawn, and kept for TensorBoard and HDF5.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from examples.frame.data import mnist_subset
from probes import ProbeManager, open_run
from probes.commands.terminal import summary
from probes.plots import save_plots


def make_model() -> nn.Module:
    """A convolutional network with batch norm and dropout: 10 classes, about 9,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 49, 10),
    )


def main() -> None:
    """Train, and show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to train, in seconds of the processor")
    parser.add_argument("--out", type=Path, default=None, help="log directory, by default runs/<date and time>")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # a network so small gains nothing by more, and loses much where the machine is busy
    torch.manual_seed(0)
    images, labels = mnist_subset()
    loader = DataLoader(TensorDataset(images[:1800], labels[:1800]), batch_size=50, shuffle=True)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    probes = ProbeManager(model, log_dir=arguments.out, overhead=0.05).attach()

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=arguments.seconds, loss=0.0, step=0)
        start = time.process_time()
        while (elapsed := time.process_time() - start) < arguments.seconds:
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            progress.update(bar, completed=elapsed, loss=loss.item(), step=probes.run.step)
        progress.update(bar, completed=arguments.seconds)

    model.eval()
    with torch.no_grad():
        accuracy = (model(images[1800:]).argmax(1) == labels[1800:]).float().mean().item()
    probes.detach()
    _show(probes, accuracy)


def _show(probes: ProbeManager, accuracy: float) -> None:
    console, log_dir = Console(), probes.run.log_dir
    pictures = save_plots(open_run(log_dir), log_dir / "plots")
    console.print(summary(log_dir, console.width))
    print(f"\n{probes.report()}")
    print(f"Test accuracy on 200 held-out digits: {accuracy:.1%}")
    print(f"Event file   {next(log_dir.glob('events.out.tfevents.*'))}")
    print(f"HDF5 file    {log_dir / 'run.h5'}    (probes.open_run({str(log_dir)!r}) reads it)")
    print(f"Pictures     {len(pictures)} in {log_dir / 'plots'}")
    print(f"\nLook at it:  .venv/bin/tensorboard --logdir {log_dir.parent}")


if __name__ == "__main__":
    main()
