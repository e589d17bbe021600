"""What was kept of each method, the criteria, and the figures 5.6 and C.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...frame.criteria import Array, Finding, enough
from ...frame.figures import figure, of_seeds
from ..plane import found, kl_from_uniform, modes, occupancy
from .settings import DATASET, METHODS, Settings, kept_steps

Results = dict[str, dict[str, Array]]
"""By method: ``reconstructions`` of ``data``, their ``codes``, and ``samples``, each of shape ``(3, n, 2)``."""


def read(settings: Settings, folder: Path, seed: int) -> Results:
    results: Results = {}
    for method in METHODS:
        files = [np.load(folder / method / f"points-{step}.npz") for step in kept_steps(settings)]
        results[method] = {name: np.stack([file[name] for file in files]) for name in files[0].files}
    return results


def judge(settings: Settings, seeds: Sequence[Results]) -> list[Finding]:
    error = {
        method: np.array([((one["reconstructions"] - one["data"]) ** 2).mean((1, 2)) for one in column])
        for method, column in ((method, [seed[method] for seed in seeds]) for method in METHODS)
    }
    counts = {
        method: [[occupancy(DATASET, points) for points in seed[method]["samples"]] for seed in seeds]
        for method in METHODS
    }
    number = {
        method: np.array([[round(25 * found(near, settings.num_samples)) for _, near in row] for row in rows])
        for method, rows in counts.items()
    }
    spread = {
        method: np.array([[kl_from_uniform(nearest) for nearest, _ in row] for row in rows])
        for method, rows in counts.items()
    }
    ali, mine = error["ALI"][:, -1], error["ALI+MINE"][:, -1]
    return [
        Finding(
            "Fig. 5.6: mean squared error of reconstructions",
            "ALI+MINE below ALI; ALICE least",
            _rows({method: values[:, -1] for method, values in error.items()}, 3),
            "ALI+MINE <= half of ALI, all seeds but one fifth",
            enough(list(mine <= ali / 2)),
            error,
        ),
        Finding(
            "Fig. 5.6: modes of 25 in samples",
            "ALI+MINE finds all; ALICE drops some",
            _rows({method: values[:, -1] for method, values in number.items()}, 0),
            "ALI+MINE >= 23, all seeds but one fifth",
            enough(list(number["ALI+MINE"][:, -1] >= 23)),
            number,
        ),
        Finding(
            "Mean squared error, mean of the last three",
            "",
            _rows({method: values.mean(1) for method, values in error.items()}, 3),
        ),
        Finding(
            "KL divergence of the modes in samples from uniform, nats",
            "",
            _rows({method: values[:, -1] for method, values in spread.items()}, 3),
            values=spread,
        ),
    ]


def _rows(values: dict[str, Array], digits: int) -> str:
    return "\n".join(f"{method}: {', '.join(f'{x:.{digits}f}' for x in row)}" for method, row in values.items())


def draw(settings: Settings, seeds: Sequence[Results], folder: Path) -> None:
    mode_of = [torch.cdist(torch.from_numpy(seeds[0][method]["data"][-1]), modes()).argmin(1) for method in METHODS]

    def panels(name: str, rows: dict[str, str], limit: float) -> None:
        title = f"{' and '.join(rows)} ({of_seeds(len(seeds), 'one of')})"
        size, look = (2.2 * len(METHODS) + 0.4, 2.2 * len(rows) + 0.8), {"sharex": True, "sharey": True}
        with figure(folder / name, len(rows), len(METHODS), title=title, size=size, squeeze=False, **look) as (_, axes):
            for row, (label, field) in zip(axes, rows.items(), strict=True):
                for axis, method, color in zip(row, METHODS, mode_of, strict=True):
                    points = seeds[0][method][field][-1][:5000]
                    if field == "samples":
                        axis.plot(*points.T, "k.", markersize=1)
                    else:
                        axis.scatter(*points.T, s=1, c=color[:5000], cmap="nipy_spectral")
                    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
                    if axis in axes[0]:
                        axis.set_title(method)
                row[0].set_ylabel(label)

    panels("fig_5_6.png", {"reconstructions": "reconstructions", "samples": "samples"}, 5.5)
    panels("fig_c_1.png", {"embeddings": "codes"}, 3.5)
