"""What was measured of both generators, the criteria of table 5.1, and its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probes import open_run

from ...frame.criteria import Array, Finding, clearly_above_zero
from ...frame.figures import figure, of_seeds
from .settings import METHODS, Settings

PUBLISHED = {"DCGAN": (99, 3.40), "DCGAN + MINE": (1000, 0.05)}
"""Modes of 1000, and their divergence to uniform in nats."""


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


def late(values: Array) -> float:
    """Mean over the last third of what was measured: adversaries swing, and one step of them is noise.

    Example:
        >>> late(np.array([0, 0, 0, 0, 1, 3]))
        2.0
    """
    return float(values[2 * len(values) // 3 :].mean())


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    count = {method: [late(seed.trained[method].modes) for seed in seeds] for method in METHODS}
    kl = {method: [late(seed.trained[method].kl) for seed in seeds] for method in METHODS}
    plain, mine = METHODS

    def shown(values: dict[str, list[float]], digits: int) -> str:
        return "\n".join(
            f"{method}: {np.mean(row):.{digits}f} ({', '.join(f'{value:.{digits}f}' for value in row)})"
            for method, row in values.items()
        )

    accuracies = [seed.accuracy for seed in seeds]
    ratios = [float(np.median(seed.clip_ratio)) for seed in seeds]
    return [
        Finding(
            f"Table 5.1: modes captured, of {settings.modes}, mean over the last third of training",
            "\n".join(f"{method}: {count}" for method, (count, _) in PUBLISHED.items()) + " (of 1000)",
            shown(count, 1),
            "more with MINE, by over a standard error of the mean difference",
            clearly_above_zero(np.subtract(count[mine], count[plain])),
            count,
        ),
        Finding(
            "Table 5.1: KL divergence of the modes to uniform (nats), mean over the last third of training",
            "\n".join(f"{method}: {divergence:.2f}" for method, (_, divergence) in PUBLISHED.items()),
            shown(kl, 3),
            "less with MINE, by over a standard error of the mean difference",
            clearly_above_zero(np.subtract(kl[plain], kl[mine])),
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
    title = f"training data and samples ({of_seeds(len(seeds), 'one of')})"
    with figure(folder / "fig_5_5.png", 1, 3, title=title, size=(9, 3.7)) as (_, axes):
        pictures = {"training data": first.real} | {method: first.trained[method].samples for method in METHODS}
        for axis, (name, samples) in zip(axes, pictures.items(), strict=True):
            axis.imshow(mosaic(samples))
            axis.set(title=name, xticks=[], yticks=[])

    title = f"modes and their divergence ({of_seeds(len(seeds), 'a line for each of')})"
    with figure(folder / "table_5_1.png", 1, 2, title=title, size=(9, 4.4)) as (picture, axes):
        for index, method in enumerate(METHODS):
            for seed, result in enumerate(seeds):
                trained, label = result.trained[method], method if seed == 0 else None
                axes[0].plot(trained.steps, trained.modes, color=f"C{index}", label=label, alpha=0.8)
                axes[1].plot(trained.steps, trained.kl, color=f"C{index}", label=label, alpha=0.8)
            count, kl = PUBLISHED[method]
            words = f"published, {method}" + ("" if settings.modes == 1000 else ", share of 1000")
            axes[0].axhline(count * settings.modes / 1000, color=f"C{index}", linestyle="--", linewidth=1, label=words)
            axes[1].axhline(kl, color=f"C{index}", linestyle="--", linewidth=1)
        axes[0].set(xlabel="step", ylabel=f"modes captured, of {settings.modes}", ylim=(0, None))
        axes[1].set(xlabel="step", ylabel="KL divergence to uniform (nats)", ylim=(0, None))
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def mosaic(samples: Array) -> Array:
    """Images in rows, their channels as red, green and blue. Shape ``(height, width, 3)``."""
    side = int(len(samples) ** 0.5)
    channels, height, width = samples.shape[1:]
    colours = np.zeros((side * side, height, width, 3))
    colours[..., :channels] = samples[: side * side].clip(0, 1).transpose(0, 2, 3, 1)
    rows: Array = colours.reshape(side, side, height, width, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(side * height, side * width, 3)
