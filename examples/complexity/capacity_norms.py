"""The norm of the weights is a loose measure of capacity where features are anisotropic (Fig. B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from probes_complexity import optimal_rescaling

from ..frame.criteria import Array, Finding, spearman
from ..frame.figures import figure
from ..frame.runner import Experiment, Preset
from ..frame.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Random features of a Gaussian kernel on [-a, a]; the source leaves a and the scaling factors open."""

    num_points: int = 1000
    num_features: int = 1000
    half_width: float = 2.0
    num_train: int = 50
    num_subsamples: int = 100
    scalings: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 0.999, 1.0)


PRESETS = {
    "smoke": Preset(
        Settings(num_points=60, num_features=60, num_train=10, num_subsamples=3),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(Settings(), seeds=(0, 1, 2, 3, 4), duration="2 min"),
    "paper": Preset(Settings(), seeds=tuple(range(10)), duration="4 min"),
}


class Scatter(NamedTuple):
    """Of each scaling factor and subsample."""

    test_error: Array
    bound: Array  # A = Id
    optimal_bound: Array
    solutions: Array  # along the right singular vectors 1 and 10, counted from 0


def train(settings: Settings, task: Task) -> None:
    """The interpolators are computed when they are read."""
    task.resume()


def read(settings: Settings, folder: Path, seed: int) -> Scatter:
    from sklearn.kernel_approximation import RBFSampler  # type: ignore[import-untyped]

    x = np.linspace(-settings.half_width, settings.half_width, settings.num_points)[:, None]
    sampler = RBFSampler(gamma=1.0, n_components=settings.num_features, random_state=seed)
    u, s, _ = torch.linalg.svd(torch.from_numpy(sampler.fit_transform(x)), full_matrices=False)
    # Counted from 0: the first function of a kernel without negative values has no change of sign (Perron-Frobenius),
    # so its sign would be one class.
    labels = u[:, 1].sign()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    subsamples = [torch.randperm(len(x), generator=generator) for _ in range(settings.num_subsamples)]
    for scaling in settings.scalings:
        features = u * (1 + scaling * (s.square() - 1)).clamp_min(0).sqrt()  # in the basis of the v_j
        for chosen in subsamples:
            sample, rest = chosen[: settings.num_train], chosen[settings.num_train :]
            w = torch.linalg.pinv(features[sample]) @ labels[sample]
            wrong = ((features[rest] @ w).sign() != labels[rest]).double().mean()
            found = optimal_rescaling(features[sample], labels[sample])
            rows.append([wrong, found.bound_before, found.bound, w[1], w[10]])
    table = np.array(rows, dtype=float).reshape(len(settings.scalings), settings.num_subsamples, 5)
    return Scatter(table[..., 0], table[..., 1], table[..., 2], table[..., 3:])


def judge(settings: Settings, seeds: Sequence[Scatter]) -> list[Finding]:
    looser = [float(seed.bound[-1].mean() / seed.optimal_bound[-1].mean()) for seed in seeds]
    below = [bool((seed.optimal_bound <= seed.bound * (1 + 1e-9)).all()) for seed in seeds]
    spread = [seed.solutions.var(1) for seed in seeds]
    # White features (scaling 0) learn nothing of the labels, and their solutions are those of another problem.
    growth = [spearman(settings.scalings[1:], one[1:, 1] / one[1:, 0]) for one in spread]
    times = [float(one[-1, 1] / one[-1, 0] / (one[0, 1] / one[0, 0])) for one in spread]
    return [
        Finding(
            "Fig. B.3: bound with A = Id / with the optimal A, original features",
            "much larger",
            _list(looser),
            ">= 10, every seed",
            min(looser) >= 10,
            looser,
        ),
        Finding(
            "Prop. B.7: the optimal bound is below that with A = Id",
            "a minimum",
            f"{sum(below)} of {len(below)} seeds",
            "in every draw",
            all(below),
            below,
        ),
        Finding(
            "Fig. B.3: anisotropy of the solutions, rank correlation with the scaling (above 0)",
            "grows",
            _list(growth),
            ">= 0.9, every seed",
            min(growth) >= 0.9,
            growth,
        ),
        Finding(
            "Fig. B.3: anisotropy of the solutions, original / white features",
            "grows",
            _list(times),
            ">= 10, every seed",
            min(times) >= 10,
            times,
        ),
    ]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def draw(settings: Settings, seeds: Sequence[Scatter], folder: Path) -> None:
    first = seeds[0]
    with figure(folder / "fig_b_3.png", 1, 2, size=(10, 4)) as (_, (left, right)):
        for scaling in (0.99, 0.9, 0.0):  # at 1, the points are a thousand times further apart
            index = settings.scalings.index(scaling)
            points = first.solutions[index] - first.solutions[index].mean(0)
            left.plot(*points.T, ".", markersize=4, label=f"scaling {scaling:g}")
        left.set_aspect("equal", "datalim")
        left.set(xlabel="along $v_1$", ylabel="along $v_{10}$", title="Minimum-norm interpolators, centred")
        left.legend()
        errors = right.twinx()
        whitening = 1 - np.array(settings.scalings)
        errors.plot(whitening, first.test_error.mean(1), "k--", label="test error")
        right.semilogy(whitening, first.bound.mean(1), "C0", label="bound, A = Id")
        right.semilogy(whitening, first.optimal_bound.mean(1), "C3", label="bound, optimal A")
        right.set_xscale("symlog", linthresh=1e-3)
        right.invert_xaxis()
        right.set(xlabel="1 - scaling of the features", ylabel="bound (eq. 42)")
        errors.set(ylabel="test error", ylim=(0, None))
        lines = [*right.get_lines(), *errors.get_lines()]
        right.legend(lines, [str(line.get_label()) for line in lines])


EXPERIMENT = Experiment(
    figure="Fig. B.3",
    summary="The norm that measures capacity depends on the features and the task.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
)
