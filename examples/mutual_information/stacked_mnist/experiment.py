"""A DCGAN of stacked digits drops fewer modes when it maximizes mutual information (Table 5.1 and Fig. 5.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from probes import Measurement, Probe, ProbeManager, open_run
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule, every
from probes_mine import ConvolutionalStatistics, MutualInformationRegularizer

from ...frame.classification import Array
from ...frame.criteria import Finding
from ...frame.data import mnist, mnist_subset
from ...frame.figures import figure
from ...frame.runner import Experiment, Preset
from ...frame.task import Task
from ..generative import Classifier, Discriminator, Generator, Image, accuracy, entropy, fit, generator_of

METHODS = ("DCGAN", "DCGAN + MINE")
SHOWN = 64
"""Samples in a picture of Fig. 5.5."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Stacked MNIST, and what the thesis refers to Lin et al. (2017) for, from their code: Adam and its rates, codes,
    batches, two updates of the generator for one of the discriminator, images in [0, 1] although the generator ends in
    tanh, and batch normalization (but ReLU in the discriminator, as table C.2 has it). The source states neither the
    weight of the information nor the training of the critic: one update before each of the generator, by Adam with a
    rate of 1e-3, so that it keeps up.
    """

    image: Image = (3, 28, 28)
    """Channels are digits: as many modes as 10 to that power. Smaller than 28 by 28, they are averages of pixels."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Of the discriminator, and backwards of the generator."""
    critic: tuple[int, ...] = (16, 32, 64)
    dense: int = 1024
    z_size: int = 100
    beta: float = 1.0
    learning_rate: float = 2e-4
    critic_rate: float = 1e-3
    beta1: float = 0.5
    batch_size: int = 64
    generator_updates: int = 2
    steps: int = 100_000
    """Updates of the discriminator: 50 epochs."""
    measure_every: int = 2000
    num_train: int = 128_000
    """Stacks, each of digits drawn at random from the training set."""
    num_test: int = 26_000
    classifier_steps: int = 1200
    subset: bool = False
    """Whether the 2,000 digits that come with the examples do."""

    @property
    def modes(self) -> int:
        return int(10 ** self.image[0])


PRESETS = {
    "smoke": Preset(
        Settings(
            image=(2, 14, 14),
            channels=(4, 8),
            critic=(4,),
            dense=8,
            steps=6,
            measure_every=3,
            num_train=300,
            num_test=500,
            classifier_steps=20,
            subset=True,
        ),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(
            image=(2, 14, 14),
            channels=(16, 32, 64),
            critic=(8, 16),
            dense=128,
            steps=3000,
            measure_every=250,
            num_test=2600,
            classifier_steps=2400,
        ),
        seeds=(0, 1, 2),
        duration="15 min",
    ),
    "paper": Preset(Settings(), seeds=tuple(range(10)), duration="470 h"),
}


@dataclass(frozen=True)
class Training:
    """What was measured at T steps of one generator."""

    steps: Array  # (T,), updates of the discriminator
    modes: Array  # (T,)
    kl: Array  # (T,), nats
    samples: Array  # (SHOWN, channels, height, width)


@dataclass(frozen=True)
class Results:
    """One seed."""

    accuracy: float
    """Of the classifier, on the test set of MNIST."""
    real: Array  # (SHOWN, channels, height, width)
    trained: dict[str, Training]
    clip_ratio: Array
    """Of the information's gradient, at several steps."""


class ModeCoverage(Probe):
    """Modes that samples of the generator fall in, and how far their histogram is from uniform.

    Args:
        classifier: Tells digits.
        num_samples: Samples drawn.
        z_size: Numbers of a code.
    """

    def __init__(self, schedule: Schedule, classifier: nn.Module, num_samples: int, z_size: int) -> None:
        super().__init__(schedule)
        self.classifier, self.num_samples, self.z_size = classifier, num_samples, z_size

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        generator = run.generator
        with torch.no_grad():
            found = [
                modes(run.forward(Batch((codes(size, self.z_size, generator).to(run.device),))), self.classifier)
                for size in [500] * (self.num_samples // 500) + [self.num_samples % 500] * bool(self.num_samples % 500)
            ]
            channels = run.evaluate("train").shape[1]
        counts = torch.cat(found).bincount(minlength=10**channels)
        yield Measurement("coverage/modes", int((counts > 0).sum()), num_samples=self.num_samples)
        yield Measurement("coverage/kl", kl_to_uniform(counts), unit="nats", num_samples=self.num_samples)


def codes(n: int, size: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(n, size, generator=generator) - 1


def modes(images: Tensor, classifier: nn.Module) -> Tensor:
    """The number that the digits of the channels form, the first channel its first digit. Shape ``(n,)``."""
    n, channels = images.shape[:2]
    digits = classifier(images.flatten(0, 1).unsqueeze(1)).argmax(1).view(n, channels).cpu()
    number: Tensor = (digits * 10 ** torch.arange(channels - 1, -1, -1)).sum(1)
    return number


def kl_to_uniform(counts: Tensor) -> float:
    """Kullback-Leibler divergence of a histogram to the uniform distribution, in nats.

    Example:
        >>> kl_to_uniform(torch.tensor([5, 5, 0, 0]))  # log 2
        0.6931471805599453
    """
    p = counts.double() / counts.sum()
    return float(torch.special.xlogy(p, p * len(p)).sum())


def digits(settings: Settings, train: bool) -> tuple[Tensor, Tensor]:
    images, labels = mnist_subset() if settings.subset else mnist(train=train)
    return avg_pool2d(images, 28 // settings.image[1]), labels


def train(settings: Settings, task: Task) -> None:
    images, labels = digits(settings, train=True)
    torch.manual_seed(task.seed)
    classifier = Classifier((1, *settings.image[1:])).to(task.device)
    fit(task.part("classifier"), classifier, images, labels, settings.classifier_steps)
    shape = (settings.num_train, settings.image[0])
    stacks = torch.randint(len(images), shape, generator=generator_of(task.seed, 0))
    for method in METHODS:
        adversaries(settings, task.part(method), method, images, stacks, classifier)
    found = {
        "accuracy": accuracy(classifier, *digits(settings, train=False)),
        "real": images[stacks[:SHOWN], 0].tolist(),
    }
    (task.folder / "classifier.json").write_text(json.dumps(found))


def adversaries(
    settings: Settings, task: Task, method: str, images: Tensor, stacks: Tensor, classifier: nn.Module
) -> None:
    """Train generator and discriminator, with or without the regularizer."""
    torch.manual_seed(task.seed)  # both methods start from the same weights
    generator = Generator(settings.image, settings.z_size, settings.channels).to(task.device)
    discriminator = Discriminator(settings.image, settings.channels).to(task.device)
    critic = ConvolutionalStatistics(settings.image, settings.z_size, settings.critic, dense=settings.dense)

    def adam(parameters: Any, learning_rate: float = settings.learning_rate) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=learning_rate, betas=(settings.beta1, 0.999))

    of_generator, of_discriminator = adam(generator.parameters()), adam(discriminator.parameters())
    # A step of the probes is an update of the generator.
    due = every(settings.measure_every * settings.generator_updates)
    regularizer = MutualInformationRegularizer(
        critic.to(task.device),
        due,
        mode="max",
        beta=settings.beta,
        seed=task.seed,
        optimizer=partial(adam, learning_rate=settings.critic_rate),
    )
    coverage = ModeCoverage(due, classifier, settings.num_test, settings.z_size)
    fixed = codes(SHOWN, settings.z_size, generator_of(task.seed, 1))
    with_mine = method == METHODS[1]
    manager = ProbeManager(
        generator,
        probes=[coverage, regularizer] if with_mine else [coverage],
        batches={"train": Batch((fixed,))},
        log_dir=task.log_dir,
        overhead=None,
        seed=task.seed,
        on_error="raise",
    )
    task.resume(
        generator=generator,
        discriminator=discriminator,
        of_generator=of_generator,
        of_discriminator=of_discriminator,
        probes=manager,
    )
    n = len(stacks) // settings.batch_size
    with manager.attach(of_generator):
        for step in task.steps(settings.steps):
            chosen = stacks[step % n * settings.batch_size :][: settings.batch_size]
            real = images[chosen, 0].to(task.device)
            z = codes(settings.batch_size, settings.z_size, generator_of(task.seed, 2, step)).to(task.device)
            fake = generator(z)
            of_discriminator.zero_grad()
            loss = entropy(discriminator(real), 1.0) + entropy(discriminator(fake.detach()), 0.0)
            loss.backward()  # type: ignore[no-untyped-call]
            of_discriminator.step()
            for update in range(settings.generator_updates):
                fake = generator(z) if update else fake
                if with_mine:
                    regularizer.update(fake, z)
                loss = entropy(discriminator(fake), 1.0)  # eq. 17
                of_generator.zero_grad()
                if with_mine:
                    regularizer.backward(loss, fake, z, generator.parameters())
                else:
                    loss.backward()  # type: ignore[no-untyped-call]
                of_generator.step()
    with torch.no_grad():
        np.save(task.folder / "samples.npy", generator.eval()(fixed.to(task.device)).cpu().numpy())


def read(settings: Settings, folder: Path, seed: int) -> Results:
    found = json.loads((folder / "classifier.json").read_text())
    trained = {}
    for method in METHODS:
        run = open_run(folder / method / "log")
        count, kl = run["coverage/modes"], run["coverage/kl"]
        trained[method] = Training(
            count["step"].to_numpy() / settings.generator_updates,
            count["value"].to_numpy(),
            kl["value"].to_numpy(),
            np.load(folder / method / "samples.npy"),
        )
    ratio = open_run(folder / METHODS[1] / "log")["mine/clip_ratio"]["value"].to_numpy()
    return Results(found["accuracy"], np.array(found["real"]), trained, ratio)


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    count = {method: [int(seed.trained[method].modes[-1]) for seed in seeds] for method in METHODS}
    kl = {method: [float(seed.trained[method].kl[-1]) for seed in seeds] for method in METHODS}
    plain, mine = METHODS

    def shown(values: dict[str, list[int]] | dict[str, list[float]], digits: int) -> str:
        return "\n".join(
            f"{method}: {np.mean(row):.{digits}f} ({', '.join(f'{value:.{digits}f}' for value in row)})"
            for method, row in values.items()
        )

    accuracies = [seed.accuracy for seed in seeds]
    ratios = [float(np.median(seed.clip_ratio)) for seed in seeds]
    return [
        Finding(
            f"Table 5.1: modes captured, of {settings.modes}",
            "DCGAN: 99\nwith MINE: 1000 (of 1000)",
            shown(count, 1),
            "mean with MINE >= mean without",
            bool(np.mean(count[mine]) >= np.mean(count[plain])),
            count,
        ),
        Finding(
            "Table 5.1: KL divergence of the modes to uniform (nats)",
            "DCGAN: 3.40\nwith MINE: 0.05",
            shown(kl, 3),
            "mean with MINE <= mean without",
            bool(np.mean(kl[mine]) <= np.mean(kl[plain])),
            kl,
        ),
        Finding(
            "Accuracy of the classifier on test digits",
            "",
            ", ".join(f"{value:.4f}" for value in accuracies),
            ">= 0.97, all",
            min(accuracies) >= 0.97,
            accuracies,
        ),
        Finding(
            "Share of the information's gradient left by adaptive clipping, median over training",
            "",
            ", ".join(f"{value:.3f}" for value in ratios),
            values=ratios,
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    first = seeds[0]
    with figure(folder / "fig_5_5.png", 1, 3, size=(11, 4)) as (_, axes):
        pictures = {"training data": first.real} | {method: first.trained[method].samples for method in METHODS}
        for axis, (title, samples) in zip(axes, pictures.items(), strict=True):
            axis.imshow(mosaic(samples))
            axis.set(title=title, xticks=[], yticks=[])

    with figure(folder / "table_5_1.png", 1, 2, size=(10, 3.8)) as (_, axes):
        for index, method in enumerate(METHODS):
            for seed, result in enumerate(seeds):
                trained, label = result.trained[method], method if seed == 0 else None
                axes[0].plot(trained.steps, trained.modes, color=f"C{index}", label=label, alpha=0.8)
                axes[1].plot(trained.steps, trained.kl, color=f"C{index}", label=label, alpha=0.8)
        axes[0].set(xlabel="step", ylabel=f"modes captured, of {settings.modes}")
        axes[1].set(xlabel="step", ylabel="KL divergence to uniform (nats)", ylim=(0, None))
        axes[1].legend(title=f"{len(seeds)} seeds" if len(seeds) > 1 else None)


def mosaic(samples: Array) -> Array:
    """Images in rows, their channels as red, green and blue. Shape ``(height, width, 3)``."""
    side = int(len(samples) ** 0.5)
    channels, height, width = samples.shape[1:]
    colours = np.zeros((side * side, height, width, 3))
    colours[..., :channels] = samples[: side * side].clip(0, 1).transpose(0, 2, 3, 1)
    rows: Array = colours.reshape(side, side, height, width, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(side * height, side * width, 3)


EXPERIMENT = Experiment(
    figure="Table 5.1, Fig. 5.5",
    summary="A DCGAN of stacked digits drops fewer modes when it maximizes mutual information with its code.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
