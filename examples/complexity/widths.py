"""Path complexity and other measures of capacity beside the generalization gap, MNIST (Fig. 4.6, left and centre)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from probes import Measurement, Probe, at, every, open_run
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule
from probes_complexity import Capacity, PathComplexity

from ..frame.classification import Accuracy, Array, Samples, Training, classify, random_labels
from ..frame.criteria import Finding, enough, spearman
from ..frame.data import mnist, mnist_subset
from ..frame.figures import figure
from ..frame.models import MLP
from ..frame.runner import Experiment, Preset
from ..frame.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Networks of one hidden layer of several widths, and one width with several shares of random labels.

    The thesis trains until the cross-entropy is 0.01, and says neither the learning rate nor which widths and shares.
    """

    num_images: int = 60_000
    num_test: int = 10_000
    num_features: int = 100
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 5000)
    noise: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    noisy_width: int = 256
    learning_rate: float = 0.05
    goal: float = 0.01
    max_steps: int = 1_000_000
    trace_every: int = 10


PRESETS = {
    "smoke": Preset(
        Settings(
            num_images=0,
            num_test=0,
            num_features=20,
            widths=(4, 8),
            noise=(0.0, 1.0),
            noisy_width=8,
            goal=2.2,
            max_steps=40,
        ),
        seeds=(0,),
        duration="5 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(
            num_images=1000,
            num_test=2000,
            num_features=100,
            widths=(16, 64, 256, 1024),
            noise=(0.0, 0.25, 0.5, 1.0),
            max_steps=20_000,
            trace_every=1,
        ),
        seeds=(0, 1, 2, 3, 4),
        duration="4 min",
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="12 h"),
}

MEASURES = {
    "path complexity C": "complexity/path_complexity/train",
    "Neyshabur et al. 2019, two layers / margin": "capacity/two_layer",
    "Bartlett et al. 2017, spectral complexity / margin": "capacity/spectral_complexity",
    "Neyshabur et al. 2018, PAC-Bayes (root) / margin": "capacity/pac_bayes_spectral",
    "path norm (p = 2) / margin": "capacity/path_norm",
    "Fisher-Rao norm": "capacity/fisher_rao_empirical",
    "distance from initialization": "capacity/distance_from_initialization",
    "number of parameters": "capacity/parameter_count",
}
"""Streams of what is compared with the gap."""

Curves = dict[str, Array]
"""Of each measure, and of ``"gap"``, ``"loss"`` and ``"steps"``, the value at the end of each training."""


def parts(settings: Settings) -> dict[str, tuple[int, float]]:
    """Width and share of random labels of each network; the clean one of the noisy width may be in both panels."""
    chosen = [(width, 0.0) for width in settings.widths] + [(settings.noisy_width, share) for share in settings.noise]
    return {f"width {width}, {share:.0%} random labels": (width, share) for width, share in chosen}


def train(settings: Settings, task: Task) -> None:
    train_set, test_set = digits(settings.num_images, settings.num_test, task.seed)
    for name, (width, share) in parts(settings).items():
        noisy = train_set._replace(labels=random_labels(train_set.labels, share, task.seed))
        torch.manual_seed(task.seed)
        fit(task.part(name), MLP(784, width, 2, 10), noisy, test_set, settings)


def digits(n: int, n_test: int, seed: int) -> tuple[Samples, Samples]:
    """MNIST; with n = 0 the digits that come with the examples, half of them to test on."""
    if n:
        return Samples(*mnist(n=n, seed=seed)), Samples(*mnist(train=False, n=n_test, seed=seed))
    images, labels = mnist_subset()
    return Samples(images[::20], labels[::20]), Samples(images[1::20], labels[1::20])


class Loss(Probe):
    """Cross-entropy on a whole set of samples, and whether it has reached a goal."""

    def __init__(self, schedule: Schedule, samples: Samples, goal: float) -> None:
        super().__init__(schedule)
        self.samples, self.goal, self.reached = samples, goal, False

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self.samples.labels), 1000):
                images, labels = (part[start : start + 1000].to(run.device) for part in self.samples)
                total += nn.functional.cross_entropy(run.forward(Batch((images,))), labels, reduction="sum").item()
        loss = total / len(self.samples.labels)
        self.reached = loss <= self.goal
        yield Measurement("loss/train", loss, unit="nats", num_samples=len(self.samples.labels))


def fit(task: Task, model: nn.Module, train_set: Samples, test_set: Samples, settings: Any) -> None:
    """Train to the goal, at which is looked after 1, 2, 3, ... epochs, later at every tenth of their number."""
    per_epoch = len(train_set.labels) // 100
    looks = at(sorted({0, *(per_epoch * round(1.1**k) for k in range(120))}))
    loss = Loss(looks, train_set, settings.goal)
    classify(
        task,
        model,
        train_set,
        Training(settings.learning_rate, settings.max_steps, weight_decay=0.0),
        {"train": train_set.first(settings.num_features), "all": train_set.first(10_000)},
        [
            PathComplexity(every(settings.trace_every) | looks, record=looks),
            Capacity(looks, batch="all"),
            Accuracy(looks, {"train": train_set, "test": test_set}),
            loss,
        ],
        lambda step: loss.reached,
    )


def read(settings: Settings, folder: Path, seed: int) -> Curves:
    return curves(folder, list(parts(settings)))


def curves(folder: Path, names: Sequence[str]) -> Curves:
    """What each network of a seed ended with."""
    found: dict[str, list[float]] = {}
    for name in names:
        run = open_run(folder / name / "log")

        def last(stream: str, run: Any = run) -> float:
            try:
                return float(np.ravel(run[stream]["value"].to_numpy()[-1])[-1])  # of the path norms, that of p = 2
            except KeyError:  # a measure that is not defined for this network
                return float("nan")

        margin = last("capacity/margin")
        row = {label: last(stream) for label, stream in MEASURES.items()}
        for label in row:
            if "root" in label:
                row[label] = row[label] ** 0.5
            if "margin" in label:
                row[label] = row[label] / margin if margin > 0 else float("nan")
        row["gap"] = last("accuracy/train") - last("accuracy/test")
        row["loss"] = last("loss/train")
        row["steps"] = float(run["loss/train"]["step"].to_numpy()[-1])
        for label, value in row.items():
            found.setdefault(label, []).append(value)
    return {label: np.array(values) for label, values in found.items()}


def judge(settings: Settings, seeds: Sequence[Curves]) -> list[Finding]:
    names = list(parts(settings))
    widths = [names.index(f"width {width}, 0% random labels") for width in settings.widths]
    noisy = [names.index(f"width {settings.noisy_width}, {share:.0%} random labels") for share in settings.noise]
    order = [spearman(settings.noise, seed["path complexity C"][noisy]) for seed in seeds]
    growth = [float(seed["path complexity C"][noisy[-1]] / seed["path complexity C"][noisy[0]]) for seed in seeds]
    return [
        reached(settings, seeds),
        Finding(
            "Fig. 4.6, centre: C and the share of random labels, rank correlation",
            "follows the gap",
            _list(order),
            "1, all seeds but one fifth",
            enough([value == 1 for value in order]),
            order,
        ),
        Finding(
            "Fig. 4.6, centre: C with all labels random / with none",
            "follows the gap",
            _list(growth),
            ">= 2, all seeds but one fifth",
            enough([value >= 2 for value in growth]),
            growth,
        ),
        agreement("Fig. 4.6, centre", seeds, noisy),
        agreement("Fig. 4.6, left", seeds, widths),
    ]


def reached(settings: Any, seeds: Sequence[Curves]) -> Finding:
    """Whether every network was trained to the goal."""
    steps = [int(step) for seed in seeds for step in seed["steps"]]
    there = [bool(loss <= settings.goal) for seed in seeds for loss in seed["loss"]]
    return Finding(
        f"networks trained to a cross-entropy of {settings.goal:g}",
        "all",
        f"{sum(there)} of {len(there)}, in {min(steps)} to {max(steps)} steps",
        "all",
        all(there),
        steps,
    )


def agreement(panel: str, seeds: Sequence[Curves], chosen: Sequence[int]) -> Finding:
    """Rank correlation of every measure with the generalization gap over the networks of a panel."""
    found = {
        label: [spearman(seed["gap"][chosen], seed[label][chosen]) for seed in seeds]
        for label in MEASURES
        if all(np.isfinite(seed[label][chosen]).all() for seed in seeds)
    }
    # NaN where a measure is the same for all networks.
    lines = [f"{label}: {np.mean(values):+.2f}" for label, values in found.items() if not np.isnan(values).any()]
    gaps = np.mean([seed["gap"][chosen] for seed in seeds], 0)
    text = f"gap {', '.join(f'{gap:.3f}' for gap in gaps)}\n" + "\n".join(lines)
    return Finding(
        f"{panel}: rank correlation with the gap, mean of seeds",
        "C and Neyshabur et al. follow it, others do not",
        text,
        values=found,
    )


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def draw(settings: Settings, seeds: Sequence[Curves], folder: Path) -> None:
    names = list(parts(settings))
    widths = [names.index(f"width {width}, 0% random labels") for width in settings.widths]
    noisy = [names.index(f"width {settings.noisy_width}, {share:.0%} random labels") for share in settings.noise]
    panels = {
        "hidden units": (settings.widths, widths),
        f"share of random labels, {settings.noisy_width} hidden units": (settings.noise, noisy),
    }
    draw_panels(panels, seeds, folder / "fig_4_6.png")


def draw_panels(
    panels: Mapping[str, tuple[Sequence[float], Sequence[int]]], seeds: Sequence[Curves], path: Path
) -> None:
    """Every measure over its value at the left end, mean of the logarithm over seeds."""

    size = (5.5 * len(panels), 5.2 if len(panels) > 1 else 6)
    with figure(path, 1, len(panels), size=size, sharey=True, squeeze=False) as (picture, axes):
        styles: dict[str, dict[str, Any]] = {
            "gap": {"color": "black", "linewidth": 3, "label": "generalization gap"},
            "path complexity C": {"color": "C3", "linewidth": 2.2},
        }
        for axis, (label, (positions, chosen)) in zip(axes[0], panels.items(), strict=True):
            for index, measure in enumerate(["gap", *MEASURES]):
                values = np.array([seed[measure][chosen] for seed in seeds])
                if not np.isfinite(values).all() or (values <= 0).any():
                    continue
                logs = np.log(values / values[:, :1])
                style = {"color": f"C{index + 2}", "linewidth": 1.2, "label": measure} | styles.get(measure, {})
                mean, spread = np.exp(logs.mean(0)), np.exp(logs.std(0))
                bars = np.stack([mean - mean / spread, mean * spread - mean])  # of the logarithm
                axis.errorbar(positions, mean, bars, marker=".", capsize=2, **style)
            if positions[0] > 0:
                axis.set_xscale("log", base=2)
                axis.set_xticks(positions, [f"{position:g}" for position in positions])
                axis.minorticks_off()
            axis.set_yscale("log")
            axis.set(xlabel=label)
        axes[0][0].set_ylabel("relative to the leftmost network")
        handles, labels = axes[0][0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=len(panels), fontsize=9)


EXPERIMENT = Experiment(
    figure="Fig. 4.6, left and centre",
    summary="The complexity of the path follows the generalization gap with width and label noise.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
