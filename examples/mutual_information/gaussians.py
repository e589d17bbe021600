"""Mutual information of Gaussians by MINE, MINE-f and nearest neighbours (Fig. 5.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes_mine import DenseStatistics, Mine, gaussian_mutual_information, ksg

from ..frame.criteria import Finding, deviation, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import WIDEST, figure, of_seeds
from ..frame.task import Task

METHODS = ("MINE", "MINE-f", "KSG")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Pairs of Gaussian vectors correlated component by component; the source states neither network nor training."""

    correlations: dict[int, tuple[float, ...]]
    """Of each number of components."""
    hidden: tuple[int, ...] = (128, 128)
    batch_size: int = 256
    learning_rate: float = 1e-3
    steps: int = 4000
    num_test: int = 20_000
    num_neighbors: int = 1500
    """Samples that the nearest neighbours are of."""


GRID = (-0.99, -0.9, -0.7, -0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
PRESETS = {
    "smoke": Preset(
        Settings(correlations={1: (0.5,)}, hidden=(8,), steps=20, num_test=200, num_neighbors=100),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(correlations={1: (0.0, 0.5, 0.9), 20: (0.2, 0.5)}), seeds=(20, 21, 22), duration="8 min", least_seeds=3
    ),
    "paper": Preset(
        Settings(correlations={1: GRID, 20: GRID}, steps=20_000, num_neighbors=10_000),
        seeds=(0, 1, 2),
        duration="2 h",
        least_seeds=3,
    ),
}

Results = dict[str, dict[str, Any]]
"""By cell, ``d, rho``: the truth, and the estimate of each method."""


def cells(settings: Settings) -> list[tuple[int, float]]:
    return [(d, rho) for d, grid in settings.correlations.items() for rho in grid]


def pairs(rho: float, d: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, n, d, generator=generator)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def train(settings: Settings, task: Task) -> None:
    for d, rho in cells(settings):
        found: dict[str, Any] = {"truth": float(gaussian_mutual_information(torch.full((d,), rho)))}
        # Each method is told of the same fresh pairs.
        test = pairs(rho, d, settings.num_test, _generator(task.seed, d, rho, 0))
        for method in METHODS[:2]:
            torch.manual_seed(task.seed)
            network = DenseStatistics(d, d, settings.hidden, nn.ReLU, 0, 0).to(task.device)
            mine = Mine(
                network,
                bound="donsker_varadhan" if method == "MINE" else "f_divergence",
                seed=task.seed,
                optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.learning_rate),
            )
            part = task.part(f"{d} dimensions, correlation {rho:g}, {method}")
            part.resume(mine=mine)
            for step in part.steps(settings.steps):
                x, z = pairs(rho, d, settings.batch_size, _generator(task.seed, d, rho, 1 + step))
                mine.update(x.to(task.device), z.to(task.device))
            x, z = (side.to(task.device) for side in test)
            found[method] = mine.estimate(x, z).value
        few = [side[: settings.num_neighbors] for side in test]
        found["KSG"] = ksg(few[0], few[1], k=3)
        (task.folder / f"{d}-{rho:g}.json").write_text(json.dumps(found))


def _generator(seed: int, d: int, rho: float, number: int) -> torch.Generator:
    entropy = np.random.SeedSequence((seed, d, round(1000 + 1000 * rho), number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)


def read(settings: Settings, folder: Path, seed: int) -> Results:
    return {f"{d}, {rho:g}": json.loads((folder / f"{d}-{rho:g}.json").read_text()) for d, rho in cells(settings)}


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    findings = []
    for d, rho in cells(settings):
        cell = f"{d}, {rho:g}"
        found = [seed[cell] for seed in seeds]
        truth = found[0]["truth"]
        values = {method: [one[method] for one in found] for method in METHODS}
        measured = f"truth {truth:.3f}\n" + "\n".join(f"{m}: {_list(row)}" for m, row in values.items())
        criterion, passed = "", None
        if d == 1:
            limit = 0.03 if rho == 0 else 0.05 if abs(rho) <= 0.5 else 0.08
            criterion = f"|MINE - truth| <= {limit}, all seeds but one fifth"
            passed = enough([abs(value - truth) <= limit for value in values["MINE"]])
        elif abs(rho) >= 0.2:  # below, MINE's own error is as large as what there is
            criterion = "MINE within 0.65 to 1.05 of the truth and over twice KSG, all seeds but one fifth"
            pair = zip(values["MINE"], values["KSG"], strict=True)
            passed = enough([0.65 * truth <= mine <= 1.05 * truth and mine > 2 * near for mine, near in pair])
        findings.append(
            Finding(
                f"Fig. 5.1: {d} dimension{'s' * (d > 1)}, correlation {rho:g}",
                "as the truth" if d == 1 else "MINE near the truth, KSG far below",
                measured,
                criterion,
                passed,
                values,
            )
        )
    over = [one["MINE"] - one["truth"] for seed in seeds for one in seed.values() if one["truth"] <= 3]
    findings += [
        Finding(
            "MINE above the truth on fresh pairs, at most",
            "a lower bound",
            f"{max(over):+.3f}",
            "<= 0.1",
            max(over) <= 0.1,
            over,
        ),
    ]
    return findings


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    dims = list(settings.correlations)
    title = f"estimates of the information of Gaussians ({of_seeds(len(seeds), 'mean and standard deviation of')})"
    size = (min(WIDEST, 4.5 * len(dims)), 4.4)
    with figure(folder / "fig_5_1.png", 1, len(dims), title=title, size=size, squeeze=False) as (picture, axes):
        for axis, d in zip(axes[0], dims, strict=True):
            grid = settings.correlations[d]
            line = np.linspace(min(-0.1, *grid), max(0.1, *grid), 201)
            truth = [float(gaussian_mutual_information(torch.full((d,), rho))) for rho in line]
            axis.plot(line, truth, "k", label="truth; in 1 + 1 also MINE as published" if d == 1 else "truth")
            for index, (method, marker) in enumerate(zip(METHODS, "o^s", strict=True)):
                values = np.array([[seed[f"{d}, {rho:g}"][method] for rho in grid] for seed in seeds])
                look: dict[str, Any] = {"color": f"C{index}", "mfc": "none", "linestyle": "none", "markersize": 5}
                beside = np.array(grid) + (index - 1) * 0.01 * (line[-1] - line[0])  # or they hide each other
                axis.errorbar(beside, values.mean(0), deviation(values), marker=marker, label=method, **look)
            axis.set(xlabel="correlation", ylabel="mutual information (nats)", title=f"{d} + {d} dimensions")
            axis.locator_params(axis="x", nbins=5)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2 * len(dims), frameon=False)


EXPERIMENT = Experiment(
    figures=("5.1",),
    summary="MINE is near the mutual information of Gaussians in 20 dimensions where nearest neighbours are not, up to "
    "about 3 nats.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures="Network, batch, steps, learning rates and correlations are not stated. MINE is told on fresh pairs "
    "after its training: on those it is trained on it reads tens of nats too much where there are 10. The figure shows "
    "MINE-f as looser than MINE; at correlations of 0.5 in 20 dimensions it was not, and the two stand side by side "
    "without a verdict. Above 3 nats, which `quick` leaves out, the figure is not reproduced: at full size MINE reads "
    "4.0 to 5.0 of 6.7 nats, and 0 of 17 and of 39, below KSG, above which the figure has it. No lower bound from n "
    "pairs can be sure of more than about log n nats (McAllester and Stratos, 2020).",
)
