"""Experiment 9: paths between images of a class, adversarial ones too, that cross no boundary (Figs. A.11, A.12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..frame.classification import Samples, Training, classify
from ..frame.criteria import Array, Finding
from ..frame.data import cifar10, mnist_subset
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, of_seeds
from ..frame.models import ResNet18
from ..frame.task import Task
from .arrays import load, spread
from .auto_neb import auto_neb, extra_length, points_along, straight
from .images import KINDS, Standardize, endpoints, minus_logit, probabilities


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The thesis states AutoNEB's cycles, steps, rate and momentum; network, training, attack and pivots are ours."""

    num_images: int = 5000
    """0 for the digits that come with the examples."""
    num_test: int = 1000
    width: int = 8
    training_steps: int = 400
    training_rate: float = 0.05
    pairs: int = 2
    """Of each kind and class."""
    attack_steps: int = 20
    attack_size: float = 8 / 255
    pivots: int = 5
    cycles: int = 4
    steps: int = 10
    learning_rate: float = 0.001
    momentum: float = 0.9
    points: int = 50
    """Along a path, at which the network is asked."""


PRESETS = {
    "smoke": Preset(
        Settings(num_images=0, width=2, training_steps=10, pairs=1, attack_steps=3, cycles=2, steps=2, points=10),
        seeds=(0,),
        duration="10 s",
        judged=False,
    ),
    "quick": Preset(Settings(), seeds=(20, 21, 22), duration="6 min", least_seeds=3),
    "paper": Preset(
        Settings(num_images=50_000, num_test=10_000, width=16, training_steps=20_000, pairs=100),
        seeds=(0, 1, 2),
        duration="20 h",
        least_seeds=3,
    ),
}


def images(settings: Settings, seed: int) -> tuple[Samples, Samples]:
    """To train on, and to test on."""
    if settings.num_images:
        train, test = cifar10(n=settings.num_images, seed=seed), cifar10(train=False, n=settings.num_test, seed=seed)
        return Samples(*train), Samples(*test)
    x, y = mnist_subset()
    x = nn.functional.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    return Samples(x[::2], y[::2]), Samples(x[1::2], y[1::2])


def train(settings: Settings, task: Task) -> None:
    samples, test = (Samples(*(tensor.to(task.device) for tensor in part)) for part in images(settings, task.seed))
    torch.manual_seed(task.seed)
    model = nn.Sequential(Standardize(), ResNet18(settings.width)).to(task.device)
    task.resume()
    training = Training(settings.training_rate, settings.training_steps)
    classify(task.part("network"), model, samples, training, {}, [])
    model.eval().requires_grad_(False)
    found: dict[str, list[Tensor]] = {}
    for _ in task.steps(1):
        attack = settings.attack_steps, settings.attack_size
        starts, ends, labels = endpoints(model, samples, settings.pairs, *attack, task.seed)
        for start, end in zip(starts, ends, strict=True):
            line = straight(start, end, settings.pivots)
            bent = auto_neb(
                line,
                minus_logit(model, labels),
                cycles=settings.cycles,
                steps=settings.steps,
                learning_rate=settings.learning_rate,
                momentum=settings.momentum,
            )
            for name, paths in (("line", line), ("path", bent)):
                share, connected = probabilities(model, paths, labels, settings.points)
                found.setdefault(f"{name}_probability", []).append(share)
                found.setdefault(f"{name}_connected", []).append(connected)
            found.setdefault("extra_length", []).append(extra_length(bent))
            found.setdefault("images", []).append(points_along(bent[:1], 9)[0])
        arrays: dict[str, Any] = {name: torch.stack(parts).cpu().numpy() for name, parts in found.items()}
        with torch.no_grad():
            right = torch.cat([model(part).argmax(1) for part in torch.split(test.images, 250)]) == test.labels
        np.savez(task.folder / "arrays.npz", accuracy=float(right.double().mean()), **arrays)


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    line, path = (np.stack([seed[f"{name}_connected"].mean(1) for seed in seeds]) for name in ("line", "path"))
    extra = np.array([seed["extra_length"].mean() for seed in seeds])
    pairs = [int(seed["path_connected"].size) for seed in seeds]
    missed = [int((~seed["path_connected"].astype(bool)).sum()) for seed in seeds]
    kinds = [
        f"{kind}: {a:.0%} by straight lines, {b:.0%} by AutoNEB"
        for kind, a, b in zip(KINDS, line.mean(0), path.mean(0), strict=True)
    ]
    return [
        Finding(
            "Figs. A.11, A.12: pairs connected by a path that the network gives one class",
            "all",
            f"all but {', '.join(map(str, missed))} of {', '.join(map(str, pairs))}, by seed",
            "all, every seed",
            not any(missed),
            {"not connected": missed, "pairs": pairs},
        ),
        Finding(
            "The same against straight lines between the same images",
            "nothing is said of straight lines",
            f"{'; '.join(kinds)}\ntest accuracy {spread([float(seed['accuracy']) for seed in seeds])}",
            ">= 90 % connected, and 30 points more than by straight lines, every seed",
            bool((path.mean(1) >= 0.9).all() and (path.mean(1) - line.mean(1) >= 0.3).all()),
            {"straight": line, "AutoNEB": path},
        ),
        Finding(
            "Length of the paths beyond that of the straight line",
            "3.0 ± 0.3 %",
            f"{spread(100 * extra, 1)} %",
            "mean above 0 and at most 10 %, every seed",
            bool(((extra > 0) & (extra <= 0.1)).all()),
            extra,
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    for name, kind in (("fig_a_11", 2), ("fig_a_12", 1)):
        title = f"images along AutoNEB paths, {KINDS[kind]} ({of_seeds(len(seeds), 'one pair of each of')})"
        layout: dict[str, Any] = {"squeeze": False, "gridspec_kw": {"width_ratios": [1] * 5 + [2.2]}, "sharex": "col"}
        size = (8.8, 1.4 + 1.1 * len(seeds))
        with figure(folder / f"{name}.png", len(seeds), 6, title=title, size=size, **layout) as (picture, axes):
            for row, seed in zip(axes, seeds, strict=True):
                for place, axis in enumerate(row[:5]):
                    axis.imshow(np.clip(seed["images"][kind, 2 * place].transpose(1, 2, 0), 0, 1))
                    axis.set(xticks=[], yticks=[])
                for curve, colour, label in (("line", "C1", "straight line"), ("path", "C0", "AutoNEB")):
                    along = np.linspace(0, 1, settings.points)
                    row[5].plot(along, seed[f"{curve}_probability"][kind, 0], color=colour, label=label)
                row[5].set(ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
                if kind == 1:
                    row[5].axhline(0.95, color="0.5", linestyle="--", linewidth=1, label="published: at least 0.95")
            for place, axis in enumerate(axes[0, :5]):
                axis.set_title(f"{place / 4:.0%}")
            axes[0, 5].set_title("probability of the class")
            axes[-1, 5].set_xlabel("position along the path")
            picture.legend(*axes[0, 5].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    title = f"how much longer than a straight line ({of_seeds(len(seeds), 'a column for each of')})"
    with figure(folder / "path_lengths.png", title=title, size=(7, 3.8)) as (_, axis):
        for kind in range(len(KINDS)):
            for number, one in enumerate(seeds):
                extra = 100 * one["extra_length"][kind].ravel()
                column = [kind + 0.6 * ((number + 0.5) / len(seeds) - 0.5)] * len(extra)
                axis.plot(column, extra, "o", color=f"C{kind}", markersize=4, alpha=0.6, clip_on=False)
        axis.axhspan(2.7, 3.3, color="0.5", alpha=0.2, linewidth=0)
        axis.axhline(3.0, color="0.5", linestyle="--", label="published: 3.0 ± 0.3 %, mean of all pairs")
        axis.set_xticks(range(len(KINDS)), KINDS)
        axis.set(ylabel="extra length (%)", xlim=(-0.6, len(KINDS) - 0.4), ylim=(0, None))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))


EXPERIMENT = Experiment(
    figures=("A.11", "A.12"),
    summary="Images of a class, adversarial ones too, are connected by paths that stay in the class.",
    presets=PRESETS,
    train=train,
    read=lambda settings, folder, seed: load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "A narrow ResNet18 trained for a few hundred steps takes the place of ResNet20, and a few pairs that of all; "
        "attack (projected gradient, 8 / 255), pivots (5, and 2 more after each cycle) and training are not stated. "
        "The energy is minus the logit of the class, of images in [0, 1]. Straight lines between the same images are "
        "the control, without which connected paths prove little. The text has the logit both minimized and "
        "maximized; only the second makes sense. A.12's caption puts the training image on either side. 'Connected' "
        "means the class has the largest output at 50 points of the path; the 95 % of the caption is not asked for. "
        "On seeds 0 to 2 all pairs were; on those that are judged 2 to 4 of 60 are not."
    ),
)
