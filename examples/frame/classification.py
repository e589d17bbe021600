"""What the experiments of chapter 4 share: training a classifier with the tangent kernel measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from probes import Measurement, Probe, ProbeManager, open_run
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule, log_spaced

from .criteria import Array
from .data import cifar10, mnist_subset
from .task import Task

__all__ = ["Accuracy", "Samples", "Training", "classify", "photographs", "random_labels", "series", "standardized"]


class Samples(NamedTuple):
    """Images and labels."""

    images: Tensor
    labels: Tensor

    def first(self, n: int) -> Samples:
        return Samples(self.images[:n], self.labels[:n])

    @property
    def batch(self) -> Batch:
        return Batch((self.images,), targets=self.labels)


@dataclass(frozen=True)
class Training:
    """SGD with momentum on the cross-entropy, in batches of 100 drawn without replacement in each epoch."""

    learning_rate: float
    steps: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 100
    augment: bool = False
    """Random crops (padding 4) and reflections."""


class Accuracy(Probe):
    """Share of right answers on whole sets of samples."""

    def __init__(self, schedule: Schedule, sets: Mapping[str, Samples]) -> None:
        super().__init__(schedule)
        self.sets = dict(sets)

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        for name, samples in self.sets.items():
            with torch.no_grad():
                outputs = [
                    run.forward(Batch((images.to(run.device),))).cpu() for images in torch.split(samples.images, 500)
                ]
            right = self.right(torch.cat(outputs), samples.labels).double().mean()
            yield Measurement(f"accuracy/{name}", right, num_samples=len(samples.labels))

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.argmax(1) == labels


def classify(
    task: Task,
    model: nn.Module,
    samples: Samples,
    training: Training,
    batches: Mapping[str, Samples],
    probes: Sequence[Probe],
    done: Callable[[int], bool] = lambda step: False,
) -> None:
    """Train a classifier, with probes attached; what is drawn follows from the task's seed and the step alone.

    Args:
        done: Asked after every step, with its number, whether training has reached its goal.
    """
    model = model.to(task.device)
    images, labels = samples.images.to(task.device), samples.labels.to(task.device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
    )
    manager = ProbeManager(
        model,
        probes=probes,
        batches={name: given.batch for name, given in batches.items()},
        log_dir=task.log_dir,
        overhead=None,
        seed=task.seed,
        on_error="raise",
        quiet=True,
    )
    task.resume(model=model, optimizer=optimizer, probes=manager)
    per_epoch = max(1, len(images) // training.batch_size)
    with manager.attach(optimizer):
        for step in task.steps(training.steps):
            order = torch.randperm(len(images), generator=_generator(task.seed, 0, step // per_epoch))
            start = step % per_epoch * training.batch_size
            chosen = order[start : start + training.batch_size].to(task.device)
            x = images[chosen]
            if training.augment:
                x = _augmented(x, _generator(task.seed, 1, step))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if done(step + 1):
                break


def series(folder: Path, names: Iterable[str]) -> dict[str, Array]:
    """The streams of those names over the measured steps, and ``"step"`` itself."""
    run = open_run(folder)
    found: dict[str, Array] = {name: run[name]["value"].to_numpy() for name in names}
    found["step"] = run[next(iter(found))]["step"].to_numpy()
    return found


def kernel_schedule() -> Schedule:
    """When the thesis measures the tangent kernel: at 0 and 5 * 1.15^k."""
    return log_spaced()


def random_labels(labels: Tensor, share: float, seed: int, classes: int = 10) -> Tensor:
    """Labels of which a share is drawn anew, uniformly: one in ten of these is right all the same."""
    generator = _generator(seed, 2, 0)
    changed = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    noisy = labels.clone()
    noisy[changed] = torch.randint(classes, (len(changed),), generator=generator)
    return noisy


def standardized(images: Tensor, like: Tensor) -> Tensor:
    """Images of mean 0 and standard deviation 1 in each channel, by the statistics of others."""
    dims = (0, 2, 3)
    return (images - like.mean(dims, keepdim=True)) / like.std(dims, keepdim=True)


def photographs(n: int, n_test: int, seed: int) -> tuple[Samples, Samples]:
    """CIFAR-10, standardized and in a seeded order. With n = 0 a stand-in that needs no download, for a trial: digits.

    Returns:
        Samples to train on and to test on, images of shape ``(n, 3, 32, 32)``.
    """
    if n:
        train, test = cifar10(n=n, seed=seed), cifar10(train=False, n=n_test, seed=seed)
    else:
        images, labels = mnist_subset()
        images = nn.functional.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
        train, test = (images[::2], labels[::2]), (images[1::2], labels[1::2])
    parts = []
    for which, (images, labels) in enumerate((train, test)):
        order = torch.randperm(len(images), generator=_generator(seed, 3, which))
        parts.append(Samples(standardized(images, train[0])[order], labels[order]))
    return parts[0], parts[1]


def _generator(seed: int, purpose: int, number: int) -> torch.Generator:
    entropy = np.random.SeedSequence((seed, purpose, number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    flipped = torch.rand(n, generator=generator) < 0.5
    shifts = torch.randint(0, 9, (n, 2), generator=generator)
    rows = (torch.arange(height) + shifts[:, :1]).to(images.device)
    columns = torch.arange(width) + shifts[:, 1:]
    columns = torch.where(flipped[:, None], columns.flip(1), columns).to(images.device)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
