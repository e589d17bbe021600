"""What the panels of Fig. 4.6 share: training to a goal, and measures of capacity beside the generalization gap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

from ..frame.classification import Accuracy, Samples, Training, classify
from ..frame.criteria import Array, Finding, deviation, spearman
from ..frame.figures import figure, of_seeds
from ..frame.task import Task

MEASURES = {
    "path complexity C": "complexity/path_complexity/train",
    "Neyshabur et al. 2019, two layers / margin": "capacity/two_layer/all",
    "Bartlett et al. 2017, spectral complexity / margin": "capacity/spectral_complexity",
    "Neyshabur et al. 2018, PAC-Bayes (root) / margin": "capacity/pac_bayes_spectral",
    "path norm (p = 2) / margin": "capacity/path_norm",
    "Fisher-Rao norm": "capacity/fisher_rao_empirical/all",
    "distance from initialization": "capacity/distance_from_initialization",
    "number of parameters": "capacity/parameter_count",
}
"""Streams of what is compared with the gap."""

Curves = dict[str, Array]
"""Of each measure, and of ``"gap"``, ``"loss"`` and ``"steps"``, the value at the end of each training."""


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

        margin = last("capacity/margin/all")
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


FOLLOW = "path complexity C"
OTHER = ("Neyshabur et al. 2018, PAC-Bayes (root) / margin", "Neyshabur et al. 2019, two layers / margin")
"""What follows the gap beside C is "by Neyshabur et al. 2018": the one of that year, or the one that appeared in 2019
and was known since 2018, which the text cites and which is defined for two layers only."""
LEAST = 0.8
"""Mean rank correlation of a measure that follows the gap."""


def agreement(panel: str, seeds: Sequence[Curves], chosen: Sequence[int]) -> Finding:
    """The published claim itself, of all measures that are defined and vary: which follow the generalization gap."""
    found = {
        label: [spearman(seed["gap"][chosen], seed[label][chosen]) for seed in seeds]
        for label in MEASURES
        if all(np.isfinite(seed[label][chosen]).all() for seed in seeds)
    }
    # NaN where a measure is the same for all networks.
    varies = {label: values for label, values in found.items() if not np.isnan(values).any()}
    lines = [
        f"{label}: {np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"
        for label, values in varies.items()
    ]
    gaps = np.mean([seed["gap"][chosen] for seed in seeds], 0)
    text = f"gap {', '.join(f'{gap:.3f}' for gap in gaps)}\n" + "\n".join(lines)
    follow = {label for label, values in varies.items() if np.mean(values) >= LEAST}
    readings = [{FOLLOW, other} for other in OTHER if other in varies]
    return Finding(
        f"{panel}: rank correlation with the gap, mean, least and most of the seeds",
        "C and the one by Neyshabur et al. 2018 follow it, the others do not",
        text,
        f">= {LEAST:g} of C, of one of Neyshabur's two, and of no other",
        follow in readings,
        found,
    )


def draw_panels(
    panels: Mapping[str, tuple[Sequence[float], Sequence[int]]], seeds: Sequence[Curves], path: Path
) -> None:
    """Every measure over its value at the left end: geometric mean of the seeds, and a standard deviation about it."""
    title = f"complexity and generalization gap ({of_seeds(len(seeds), 'geometric mean of')})"
    size = (9, 6) if len(panels) > 1 else (7, 6.5)
    with figure(path, 1, len(panels), title=title, size=size, sharey=True, squeeze=False) as (picture, axes):
        styles: dict[str, dict[str, Any]] = {
            "gap": {"color": "black", "linewidth": 3, "label": "generalization gap"},
            "path complexity C": {"color": "C3", "linewidth": 2.2},
        }
        for axis, (label, (positions, chosen)) in zip(axes[0], panels.items(), strict=True):
            logarithmic, side = positions[0] > 0, 0.006 * (positions[-1] - positions[0])
            for index, measure in enumerate(["gap", *MEASURES]):
                values = np.array([seed[measure][chosen] for seed in seeds])
                if not np.isfinite(values).all() or (values <= 0).any():
                    continue
                logs = np.log(values / values[:, :1])
                style = {"color": f"C{index + 2}", "linewidth": 1.2, "label": measure} | styles.get(measure, {})
                mean, factor = np.exp(logs.mean(0)), np.exp(deviation(logs))
                around = np.stack([mean - mean / factor, mean * factor - mean])
                beside = index - len(MEASURES) / 2  # or the bars hide each other
                places = np.array(positions) * 1.015**beside if logarithmic else np.array(positions) + side * beside
                axis.errorbar(places, mean, around, marker=".", capsize=2, **style)
            if logarithmic:
                axis.set_xscale("log", base=2)
                axis.set_xticks(positions, [f"{position:g}" for position in positions])
                axis.minorticks_off()
            axis.set_yscale("log")
            axis.set(xlabel=label)
        bars = "\n(bars: standard deviation of the logarithm)" * (len(seeds) > 1)
        axes[0][0].set_ylabel(f"relative to the leftmost network{bars}")
        drawn = [pair for axis in axes[0] for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        lines = {label: handle for handle, label in drawn}
        picture.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(panels), fontsize=9)
