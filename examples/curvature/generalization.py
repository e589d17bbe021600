"""Sharpness beside the test error, over learning rates and batch sizes (Keskar et al. and Jastrzebski et al., 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from probes_curvature import Objective, adaptive_sharpness, largest_eigenvalues

from ..frame.criteria import Array, Finding, enough, spearman
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, of_seeds
from ..frame.models import MLP
from ..spectral_bias.arrays import compute, load, spread

MEASURES = ("largest eigenvalue", "adaptive sharpness")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A network of ReLU learns scikit-learn's digits by SGD until the loss on the training set is this small."""

    num_train: int = 500
    width: int = 100
    depth: int = 4
    rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    batch_sizes: tuple[int, ...] = (8, 32, 128)
    goal: float = 0.02
    most_epochs: int = 1500
    noise: float = 0.1
    """Share of the training labels that are drawn anew: of clean ones hardly any network errs."""


PRESETS = {
    "smoke": Preset(
        Settings(num_train=60, width=16, depth=2, rates=(0.1, 0.2), batch_sizes=(8, 20), goal=1.0, most_epochs=20),
        seeds=(0,), duration="5 s", judged=False,
    ),
    "quick": Preset(Settings(), seeds=(0, 1, 2, 3, 4), duration="15 min", least_seeds=3),
    "paper": Preset(Settings(num_train=1000, width=300, goal=0.005), seeds=tuple(range(10)), duration="3 h",
                    least_seeds=3),
}  # fmt: skip


def digits(settings: Settings, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test set, labels of the former with noise."""
    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.data), generator=generator)
    x, y = torch.tensor(data.data / 16 - 0.5, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    n = settings.num_train
    drawn = torch.rand(n, generator=generator) < settings.noise
    labels = torch.where(drawn, torch.randint(0, 10, (n,), generator=generator), y[:n])
    return x[:n], labels, x[n:], y[n:]


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    x, y, x_test, y_test = digits(settings, seed)
    rows = []
    for rate, size in product(settings.rates, settings.batch_sizes):
        torch.manual_seed(seed)
        model = MLP(64, settings.width, settings.depth, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        reached = False
        for _ in range(settings.most_epochs):
            for part in torch.split(torch.randperm(len(x)), size):
                optimizer.zero_grad()
                F.cross_entropy(model(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                if reached := float(F.cross_entropy(model(x), y)) <= settings.goal:
                    break
        objective = Objective(model, F.cross_entropy, x, y)
        with torch.no_grad():
            error = float((model(x_test).argmax(1) != y_test).double().mean())
        sharpness = float(largest_eigenvalues(objective, objective.hessian_product, 1).values[0])
        rows.append([rate, size, reached, error, sharpness, adaptive_sharpness(objective, 0.5)])
    return {"rows": rows}


def columns(seed: Mapping[str, Array]) -> Iterator[Array]:
    """Learning rate over batch size, test error, and each measure, of the trainings that reached the goal."""
    rows = seed["rows"][seed["rows"][:, 2] > 0]
    yield rows[:, 0] / rows[:, 1]
    yield from rows[:, 3:].T


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    held = [list(columns(seed)) for seed in seeds]
    reached = [len(each[0]) for each in held]
    count = len(settings.rates) * len(settings.batch_sizes)
    findings = [
        Finding(
            f"trainings that reach a loss of {settings.goal:g}",
            "",
            f"{', '.join(map(str, reached))} of {count}",
            "three of four, in every seed",
            min(reached) >= 0.75 * count,
            reached,
        )
    ]
    if min(reached) < 3:
        return findings
    generator = np.random.default_rng(0)
    for index, name in enumerate(MEASURES):
        by_noise = [spearman(each[0], each[2 + index]) for each in held]
        by_error = [spearman(each[1], each[2 + index]) for each in held]
        # Of errors in random order: what few trainings give by chance.
        chance = [abs(spearman(generator.permutation(each[1]), each[2 + index])) for each in held for _ in range(200)]
        limit = float(np.quantile(chance, 0.95))
        findings += [
            Finding(
                f"{name}: rank correlation with learning rate / batch size",
                "the larger, the flatter",
                spread(by_noise),
                "<= -0.6, four of five seeds",
                enough([value <= -0.6 for value in by_noise]),
                by_noise,
            ),
            Finding(
                f"{name}: rank correlation with the test error",
                "the sharper, the worse",
                f"{spread(by_error)}; of errors in random order 95 % are below {limit:.2f} in magnitude",
                "above that, four of five seeds",
                enough([value > limit for value in by_error]),
                by_error,
            ),
        ]
    return findings


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    title = "sharpness where training ends, beside how it was trained and how well it generalizes"
    with figure(folder / "generalization.png", 2, 2, title=title, size=(9, 7.5), sharey="row") as (_, axes):
        for row, name in enumerate(MEASURES):
            for seed in seeds:
                ratio, error, *measures = columns(seed)
                axes[row, 0].loglog(ratio, measures[row], "o", markersize=4)
                axes[row, 1].semilogy(100 * error, measures[row], "o", markersize=4)
            axes[row, 0].set(xlabel="learning rate / batch size", ylabel=name)
            axes[row, 1].set(xlabel="test error (%)")
        axes[0, 0].set_title(of_seeds(len(seeds), "a colour for each of"))


EXPERIMENT = Experiment(
    figures=(),
    summary="Sharpness where training ends beside the test error, over learning rates and batch sizes: Keskar et al. "
    "(2017), Jastrzebski et al. (2017).",
    presets=PRESETS,
    train=lambda settings, task: compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The published experiments are on convolutional networks and images in colour; all trainings "
        "here end at the same loss on the training set, so that none is flat because it was left early or late."
    ),
)
