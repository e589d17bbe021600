"""Train a small network on 2,000 handwritten digits for about a minute, with probes attached by one line.

``make demo`` runs it. What the probes measured is printed at the end, drawn, and kept for TensorBoard and HDF5;
``demo.png`` in the log directory shows the spectrum of the network, its loss and its updates side by side.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from examples.frame.data import mnist_subset
from probes import ProbeManager, open_run
from probes.commands.terminal import summary
from probes.drawing import scales, words
from probes.plots import save_plots

if TYPE_CHECKING:
    import xarray


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


def picture(run: xarray.DataTree, path: Path) -> None:
    """Draw the spectrum over training, with the step at which each frequency reaches an amplitude; loss and updates."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    spectrum = left.subplots()
    amplitude: Any = run["fourier/amplitude/train"]["value"]
    amplitude = amplitude.isel(step=amplitude["step"].values > 0)  # the axis is logarithmic
    steps, frequencies, values = amplitude["step"], amplitude["frequency"], amplitude.values.T
    mesh = scales.mesh(spectrum, steps, frequencies, values, scales.norm(values))
    middle = values[:, len(steps) // 2]
    levels = [level for level in (1e-3, 1e-2, 1e-1) if middle.min() < level < middle.max()]
    spectrum.contour(steps, frequencies, values, levels=levels, colors="white", linewidths=2)
    for level in levels:
        place = frequencies[int((middle < level).argmax())]
        spectrum.text(steps[len(steps) // 2], place + 0.3, f"{level:g}", color="white", ha="right", size=11)
    spectrum.set(xscale="log", xlim=(steps[0], steps[-1]), ylim=(1, 20), yticks=[1, 5, 10, 15, 20], xlabel="step")
    spectrum.set_title("Low frequencies first: the step at which each reaches an amplitude", fontsize=10)
    left.colorbar(mesh, ax=spectrum, label=words.with_unit("amplitude", amplitude), pad=0.02)

    loss_axes, update_axes = right.subplots(2, 1, sharex=True)
    loss, updates = run["loop/loss"]["value"], words.named(run["layers/update_ratio"]["value"], run)
    loss_axes.plot(loss["step"], loss, marker=".", color="C3")
    loss_axes.set(yscale="log", ylabel="training loss")
    loss_axes.set_title("Loss of the loop", fontsize=10)
    for ratio, name, color in zip(
        updates.values.T, updates["layer"].values, scales.colors(len(updates.T)), strict=True
    ):
        update_axes.plot(updates["step"], ratio, label=str(name), color=color)
    update_axes.set(xscale="log", yscale="log", xlabel="step", ylabel="update / weights")
    update_axes.set_title("Relative size of the updates", fontsize=10)
    update_axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle("A small network learns 2,000 digits", fontsize=12)
    figure.savefig(path)


def _show(probes: ProbeManager, accuracy: float) -> None:
    console, log_dir = Console(), probes.run.log_dir
    run = open_run(log_dir)
    pictures = save_plots(run, log_dir / "plots")
    picture(run, log_dir / "demo.png")
    console.print(summary(log_dir, console.width))
    print(f"\n{probes.report()}")
    print(f"Test accuracy on 200 held-out digits: {accuracy:.1%}")
    print(f"Event file   {next(log_dir.glob('events.out.tfevents.*'))}")
    print(f"HDF5 file    {log_dir / 'run.h5'}")
    print(f"Pictures     {log_dir / 'demo.png'}, and {len(pictures)} in {log_dir / 'plots'}")
    print(f"\nIn Python:   probes.open_run({str(log_dir)!r})")
    print(f"Look at it:  .venv/bin/tensorboard --logdir {log_dir.parent}")


if __name__ == "__main__":
    main()
