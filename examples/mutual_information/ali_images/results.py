"""What was measured of each method, the criteria of table 5.2, and its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probes import open_run

from ...frame.criteria import Array, Finding, clearly_above_zero
from ...frame.figures import figure, of_seeds
from .fidelity import METRICS
from .settings import METHODS, Settings

PUBLISHED = {
    "digits": {
        "error": (14.24, 3.20, 5.20, 9.73),
        "accuracy": (45.95, 99.03, 98.17, 96.10),
        "ms_ssim": (0.97, 0.97, 0.98, 0.99),
    },
    "faces": {
        "error": (53.75, 8.01, 92.56, 36.11),
        "accuracy": (57.49, 32.22, 48.95, 76.08),
        "ms_ssim": (0.81, 0.93, 0.51, 0.99),
    },
}
"""Of the four methods."""


@dataclass(frozen=True)
class Model:
    """What was measured at T steps of one method, and its pictures at the end."""

    steps: Array  # (T,)
    metrics: dict[str, Array]  # (T,) each
    pictures: dict[str, Array]  # (SHOWN, channels, height, width), in [-1, 1]


@dataclass(frozen=True)
class Results:
    """One seed."""

    accuracy: float
    """Of the classifier on the test images themselves, %."""
    models: dict[str, Model]


def read(settings: Settings, folder: Path, seed: int) -> Results:
    models = {}
    for method in settings.methods:
        run = open_run(folder / method / "log")
        metrics = {name: run[f"reconstruction/{name}"]["value"].to_numpy() for name in METRICS}
        steps = run["reconstruction/error"]["step"].to_numpy()
        models[method] = Model(steps, metrics, dict(np.load(folder / method / "pictures.npz")))
    return Results(json.loads((folder / "classifier.json").read_text())["accuracy"], models)


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    values = {
        name: {method: [float(seed.models[method].metrics[name][-1]) for seed in seeds] for method in settings.methods}
        for name in METRICS
    }
    mean = {name: {method: float(np.mean(row)) for method, row in rows.items()} for name, rows in values.items()}
    ali, mine = "ALI", "ALI + MINE"
    verdicts: dict[str, tuple[str, bool | None]] = {
        "error": (
            "less with ALI + MINE" + ", by over a standard error of the mean difference" * (len(seeds) > 1),
            clearly_above_zero(np.subtract(values["error"][ali], values["error"][mine]))
            if len(seeds) > 1
            else mean["error"][mine] < mean["error"][ali],
        ),
        "accuracy": ("mean of ALI + MINE >= ALI + 10 points", mean["accuracy"][mine] >= mean["accuracy"][ali] + 10),
        "ms_ssim": (
            "more with ALI + MINE, by over a standard error of the mean difference",
            clearly_above_zero(np.subtract(values["ms_ssim"][mine], values["ms_ssim"][ali])),
        ),
    }
    of_digits = settings.data in ("digits", "subset")
    if not of_digits:
        verdicts["accuracy"] = "", None  # of attributes that nine faces in ten may share
        verdicts["ms_ssim"] = "", None  # of one seed, which has no standard error
    findings = []
    for name, label in METRICS.items():
        digits = {"error": 2, "accuracy": 1, "ms_ssim": 3}[name]
        published = PUBLISHED["digits" if of_digits else "faces"][name]
        measured = [
            f"{method}: {mean[name][method]:.{digits}f} ({', '.join(f'{one:.{digits}f}' for one in row)})"
            for method, row in values[name].items()
        ]
        findings.append(
            Finding(
                f"Table 5.2: {label} of reconstructions",
                "\n".join(f"{method}: {value}" for method, value in zip(METHODS, published, strict=True)),
                "\n".join(measured),
                *verdicts[name],
                values[name],
            )
        )
    own = [seed.accuracy for seed in seeds]
    findings.append(
        Finding(
            "Accuracy of the classifier on the images themselves (%)",
            "",
            ", ".join(f"{x:.1f}" for x in own),
            values=own,
        )
    )
    return findings


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    first = seeds[0].models
    rows = {"images": first["ALI"].pictures["images"]}
    rows |= {method: model.pictures["reconstructions"] for method, model in first.items()}
    rows |= {f"{method}, samples": model.pictures["samples"] for method, model in first.items()}
    size, title = (7.5, 0.65 * len(rows) + 0.3), f"images and samples of {of_seeds(len(seeds), 'one of')}"
    with figure(folder / "reconstructions.png", len(rows), title=title, size=size, tight=True) as (_, axes):
        for axis, (label, pictures) in zip(axes, rows.items(), strict=True):
            strip = (np.concatenate(list(pictures), axis=2).transpose(1, 2, 0) + 1) / 2
            axis.imshow(strip[..., 0] if strip.shape[2] == 1 else strip, cmap="gray", vmin=0, vmax=1, aspect="equal")
            axis.set(xticks=[], yticks=[])
            axis.set_ylabel(label, rotation=0, ha="right", va="center")

    published = PUBLISHED["faces" if settings.data in ("faces", "noise") else "digits"]
    title = f"reconstructions by training step ({of_seeds(len(seeds))})"
    with figure(folder / "table_5_2.png", 1, len(METRICS), title=title, size=(9.4, 3.8)) as (picture, axes):
        for axis, (name, label) in zip(axes, METRICS.items(), strict=True):
            for index, method in enumerate(METHODS):
                if method not in settings.methods:
                    continue
                axis.axhline(published[name][index], color=f"C{index}", linestyle="--", linewidth=1)
                curves = np.stack([seed.models[method].metrics[name] for seed in seeds])
                axis.plot(first[method].steps, curves.mean(0), color=f"C{index}", label=method)
                axis.fill_between(
                    first[method].steps, curves.min(0), curves.max(0), color=f"C{index}", alpha=0.15, lw=0
                )
            axis.set(xlabel="step", title=label)
        axes[0].plot([], [], "k--", linewidth=1, label="published, at the end")
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
