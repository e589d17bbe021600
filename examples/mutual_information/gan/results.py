"""What was kept of both methods, the criteria, and the figures 5.3 and 5.4."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...frame.criteria import Array, Finding
from ...frame.figures import WIDEST, figure, of_seeds
from ..plane import (
    NUM_ARCS,
    SPACING,
    arcs,
    close_share,
    density,
    evenly_spread,
    found,
    kl_from_uniform,
    modes,
    occupancy,
)
from .settings import METHODS, Settings, kept_steps

Results = dict[str, dict[str, Any]]
"""By data set and method: the samples of the last steps, shape ``(3, n, 2)``, and the mutual information at the end."""


def read(settings: Settings, folder: Path, seed: int) -> Results:
    results: Results = {}
    for dataset in settings.steps:
        for method in METHODS:
            part = folder / f"{dataset}, {method}"
            kept = [np.load(part / f"samples-{step}.npy") for step in kept_steps(settings, dataset)]
            results[f"{dataset}, {method}"] = {"samples": np.stack(kept)}
            if method == "GAN+MINE":
                results[f"{dataset}, {method}"]["information"] = json.loads((part / "information.json").read_text())
    return results


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    def measured(dataset: str, method: str) -> tuple[Array, Array]:
        """Fraction of modes or arcs found, and divergence of the occupancy from uniform, each ``(seeds, 3)``."""
        counts = [[occupancy(dataset, x) for x in seed[f"{dataset}, {method}"]["samples"]] for seed in seeds]
        fraction = [[found(near, settings.num_samples) for _, near in row] for row in counts]
        return np.array(fraction), np.array([[kl_from_uniform(nearest) for nearest, _ in row] for row in counts])

    findings = []
    if "spiral" in settings.steps:
        (gan, _), (mine, _) = (measured("spiral", method) for method in METHODS)
        gain = mine - gan
        findings += [
            Finding(
                f"Fig. 5.3: fraction of {NUM_ARCS} arcs of the spiral found",
                "GAN covers a part, GAN+MINE all",
                f"GAN: {_list(gan[:, -1], 2)}\nGAN+MINE: {_list(mine[:, -1], 2)}\nmean gain {gain[:, -1].mean():+.2f}",
                "gain >= 0.15, mean of the seeds",
                bool(gain[:, -1].mean() >= 0.15),
                {"GAN": gan, "GAN+MINE": mine},
            ),
            Finding("The same, mean of the last three samples", "", _both(gan.mean(1), mine.mean(1), 2)),
        ]
    if "25 Gaussians" in settings.steps:
        (gan, gan_kl), (mine, mine_kl) = (measured("25 Gaussians", method) for method in METHODS)
        count, ratio = np.rint(25 * mine[:, -1]).astype(int), gan_kl / mine_kl
        median = statistics.median(ratio[:, -1])
        findings += [
            Finding(
                "Fig. 5.4: modes of 25 that GAN+MINE finds",
                "all",
                f"{', '.join(map(str, count))}\n(GAN: {', '.join(str(round(25 * one)) for one in gan[:, -1])})",
                "25, all seeds",
                bool((count == 25).all()),
                {"GAN": gan, "GAN+MINE": mine},
            ),
            Finding(
                "Fig. 5.4: KL divergence of GAN+MINE's modes from uniform, nats",
                "even",
                _list(mine_kl[:, -1], 3),
                "<= 0.05, all seeds",
                bool((mine_kl[:, -1] <= 0.05).all()),
                mine_kl,
            ),
            Finding(
                "Fig. 5.4: the divergence, GAN / GAN+MINE",
                "GAN drops modes",
                f"{_list(ratio[:, -1], 1)}\nmedian {median:.1f}\n(GAN: {_list(gan_kl[:, -1], 3)})",
                "median >= 2",
                median >= 2,
                {"GAN": gan_kl, "ratio": ratio},
            ),
            Finding(
                "The divergence, mean of the last three samples",
                "",
                _both(gan_kl.mean(1), mine_kl.mean(1), 3),
            ),
        ]
    for dataset in settings.steps:
        near = {m: [close_share(dataset, s[f"{dataset}, {m}"]["samples"][-1]) for s in seeds] for m in METHODS}
        control = close_share(dataset, evenly_spread(dataset))
        what = "the curve" if dataset == "spiral" else "a mode"
        findings.append(
            Finding(
                f"{dataset}: samples within three standard deviations of {what}",
                "",
                "\n".join(f"{method}: {_list(shares, 3)}" for method, shares in near.items())
                + f"\na cloud spread evenly over the square: {control:.3f}",
                values={**near, "evenly spread": control},
            )
        )
        information = [seed[f"{dataset}, GAN+MINE"]["information"] for seed in seeds]
        findings.append(
            Finding(
                f"Mutual information of code and samples not trained on, {dataset}, nats",
                "",
                _list(information, 2),
                values=information,
            )
        )
    return findings


def _both(gan: Array, mine: Array, digits: int) -> str:
    return f"GAN: {_list(gan, digits)}\nGAN+MINE: {_list(mine, digits)}"


def _list(values: Any, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    for dataset in settings.steps:
        size = (min(WIDEST, 1.8 * len(seeds) + 0.6), 4.4)
        path = folder / ("fig_5_3.png" if dataset == "spiral" else "fig_5_4.png")
        title = "samples of a spiral" if dataset == "spiral" else "density of samples of 25 Gaussians"
        title = f"{title} ({of_seeds(len(seeds), 'a column for each of')})"
        with figure(path, 2, len(seeds), title=title, size=size, squeeze=False, sharex=True, sharey=True) as (_, axes):
            limit = 2.4 if dataset == "spiral" else 3 * SPACING
            for row, method in enumerate(METHODS):
                for column, seed in enumerate(seeds):
                    axis, samples = axes[row, column], seed[f"{dataset}, {method}"]["samples"][-1]
                    if dataset == "spiral":
                        axis.plot(*arcs(500).T.numpy(), color="0.7", linewidth=3)
                        axis.plot(*samples[:2000].T, ".", markersize=1.5, color=f"C{row}")
                    else:
                        line = np.linspace(-limit, limit, 150)
                        axis.contourf(line, line, density(samples, line, line, 0.15), levels=16)
                        axis.plot(*modes().T.numpy(), "w.", markersize=2)
                    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
                    if row == 0:
                        axis.set_title(f"run {column + 1}")
                axes[row, 0].set_ylabel(method)
