"""Bounds of the Rademacher complexity along trainings, and what they bound (Thm 4.2, Thm B.2 with eq. 60)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from probes_complexity import multiclass_bound

from ..frame.criteria import Array, Finding, enough, spearman
from ..frame.experiment import Experiment, Preset
from ..spectral_bias.arrays import compute, load, log_slope, spread
from .bounds_figure import draw
from .flows import METHODS, Learned, network_flow, padded, regressions, signs
from .margin_classes import classifier, digits, loss_class_estimate, unit


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Regressions of Fig. 4.5, networks of one output, and linear classifiers, the latter two with label noise."""

    problems: int = 20
    """Regressions of a seed."""
    regression_steps: int = 400
    draws: int = 256
    """Of signs, for the complexity of flows."""
    noise: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    num_images: int = 300
    width: int = 64
    rate: float = 0.02
    fast_rate: float = 0.1
    goal: float = 0.1
    """Logistic loss at which networks are good enough."""
    most_steps: int = 4000
    kernel_every: int = 20
    num_classified: int = 200
    classified_goal: float = 0.5
    """Cross-entropy at which classifiers are good enough."""
    records: int = 10
    class_draws: int = 16
    classes: tuple[int, ...] = (2, 5, 10)


SMOKE = Settings(
    problems=2,
    regression_steps=20,
    draws=16,
    noise=(0.0, 1.0),
    num_images=30,
    width=8,
    goal=0.6,
    most_steps=40,
    num_classified=30,
    classified_goal=1.5,
    records=4,
    class_draws=4,
)
PRESETS = {
    "smoke": Preset(SMOKE, seeds=(0,), duration="2 s", judged=False),
    "quick": Preset(Settings(), seeds=(20, 21, 22, 23, 24), duration="2 min", least_seeds=3),
    "paper": Preset(
        Settings(num_images=1000, width=256, rate=0.01, kernel_every=5, draws=2048, class_draws=256),
        seeds=tuple(range(10)),
        duration="1 h",
        least_seeds=3,
    ),
}


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    how = (settings.draws, settings.regression_steps)
    flows = np.array([regressions(*how, 1000 * seed + number) for number in range(settings.problems)])
    sigma = signs(settings.draws, settings.num_images, seed)
    networks, classifiers = [], []

    def network(share: float, rate: float) -> Learned:
        train, test = digits(settings.num_images, share, seed, classes=2)
        how = (settings.width, rate, settings.goal, settings.most_steps, settings.kernel_every)
        return network_flow(train, test, *how, sigma, seed)

    for share in settings.noise:
        networks.append(network(share, settings.rate))
        train, test = digits(settings.num_classified, share, seed, classes=10)
        few = signs(settings.class_draws, settings.num_classified, seed)
        goal, most = settings.classified_goal, settings.most_steps
        classifiers.append(classifier(train, test, 10, goal, most, settings.records, few))
    fast = [float(values[-1]) for values in network(0.0, settings.fast_rate)]
    factors = []
    for c in settings.classes:
        train, _ = digits(settings.num_classified, 0.0, seed, c)
        train = unit(train, train.images.mean(0))
        bound = multiclass_bound(1.0, c * train.images.square().sum(), len(train.labels), c, margin=1.0)
        factors.append(bound / loss_class_estimate(train, c, 1.0, few, 60).mean())
    kept = {"networks": padded(networks), "classifiers": padded(classifiers)}
    return kept | {"flows": flows, "fast": fast, "factors": factors}


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    bound, estimate, gap, size = range(len(Learned._fields))
    last = [seed["flows"][..., -1] for seed in seeds]  # (problems, methods, fields)
    lower = {m: [np.median(one[:, k, bound] / one[:, 0, bound]) for one in last] for k, m in enumerate(METHODS)}
    highest = max(float((one[:, k, bound] / one[:, 0, bound]).max()) for one in last for k in (1, 2))
    among = [spearman(one[:, 0, bound], one[:, 0, gap]) for one in last]
    networks, classifiers = ([seed[kind][..., -1] for seed in seeds] for kind in ("networks", "classifiers"))
    tight = [float((one[:, bound] / one[:, estimate]).max()) for one in networks]
    ranks = [spearman(one[:, bound], one[:, gap]) for one in networks]
    slopes, lengths = ([log_slope(one[:, gap], one[:, k]) for one in networks] for k in (bound, size))
    fast = [seed["fast"] / one[0] for seed, one in zip(seeds, networks, strict=True)]
    order, norms = ([spearman(one[:, k], one[:, gap]) for one in classifiers] for k in (bound, size))
    loose = [[float(row[k]) for row in np.concatenate(classifiers)] for k in (bound, estimate, gap)]
    factors = np.array([seed["factors"] for seed in seeds])
    return [
        Finding(
            "Thm 4.2: bound of SuperNat's flow / of gradient descent's, regressions of Fig. 4.5",
            "learning flows with lower complexity",
            "\n".join(f"kappa = {m}: median {spread(lower[m])}" for m in METHODS[1:]) + f"\nhighest {highest:.2f}",
            "kappa = max, norm: median <= 0.6, below 1 in every problem",
            bool(max(lower["max"] + lower["norm"]) <= 0.6) and highest < 1,
            {**lower, "highest": highest},
        ),
        Finding(
            f"Thm 4.2: rank correlation of bound and gap, {settings.problems} regressions by gradient descent",
            "",
            spread(among),
            ">= 0.5, four of five seeds",
            enough([value >= 0.5 for value in among]),
            among,
        ),
        Finding(
            "Thm 4.2: bound and gap of networks by label noise",
            "the bound, extrapolated to networks, follows the gap (4.2)",
            f"rank correlation {spread(ranks)}; the bound grows as the gap to the power {spread(slopes)}, the length "
            f"of the path to the power {spread(lengths)}",
            "rank correlation 1 and power 0.6 to 1.2, four of five seeds",
            enough([rank == 1 and 0.6 <= slope <= 1.2 for rank, slope in zip(ranks, slopes, strict=True)]),
            {"correlation": ranks, "power": slopes, "power of the length": lengths},
        ),
        Finding(
            "Thm 4.2: bound / complexity of the class by random signs, networks at the end",
            "an upper bound (at most 1.41 times)",
            f"largest of all shares {spread(tight, 3)}",
            "0.97 (signs are drawn) to 1.1, every seed",
            min(tight) >= 0.97 and max(tight) <= 1.1,
            tight,
        ),
        Finding(
            f"The same network at {settings.fast_rate / settings.rate:g} times the learning rate, clean labels",
            "",
            f"bound {spread([one[bound] for one in fast])} times, gap {spread([one[gap] for one in fast])} times",
            values={"bound": [one[bound] for one in fast], "gap": [one[gap] for one in fast]},
        ),
        Finding(
            "Thm B.2: bound (eq. 60) and gap of linear classifiers by label noise, rank correlation",
            "",
            f"{spread(order)}; of the norm of the weights alone {spread(norms)}",
            "1, four of five seeds",
            enough([value == 1 for value in order]),
            {"bound": order, "norm": norms},
        ),
        Finding(
            "Thm B.2: bound (eq. 60), complexity from below, and gap, at the end; a loss is at most 1",
            "",
            "; ".join(f"{min(one):.3g} to {max(one):.3g}" for one in loose)
            + "\nbound / complexity for weights of norm 1: "
            + ", ".join(f"{f:.0f} of {c} classes" for c, f in zip(settings.classes, factors.mean(0), strict=True)),
            values={"bound": loose[0], "complexity": loose[1], "gap": loose[2], "factors": factors},
        ),
    ]


EXPERIMENT = Experiment(
    figures=("Thm 4.2", "Thm B.2", "eq. 60"),
    summary="Rademacher bounds along trainings beside the complexity that they bound and the generalization gap.",
    presets=PRESETS,
    train=lambda settings, task: compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis proves the bounds and measures none. That a bound lies above its estimate cannot fail, and is a "
        "test of the code; so is that Thm 4.2 lies at most by the square root of 2 above it. The classes are those of "
        "the run itself, by its updates and features, as in eq. 18: they depend on the sample, and eq. 38 gives no "
        "guarantee. More random labels also mean more steps; the length of the path alone grows more slowly than the "
        "gap, the bound about as fast. SuperNat that keeps the trace learns the function of gradient descent, with the "
        "same gap, and has a lower bound all the same; a higher learning rate has a higher bound and no higher gap. "
        "Eq. 60 follows the gap in its order, but says nothing by its value: it is hundreds of times what it bounds, "
        "and the classifiers with weights of that norm can fit any signs, so that their complexity is the highest "
        "possible, one half, before any bound. The gap is measured on labels without noise. The criteria were set on "
        "seeds 200 to 204."
    ),
)
