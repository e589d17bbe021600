"""How fast each frequency is learned at the start, by the tangent kernel (eq. 9, Prop. A.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from probes_fourier import grid
from probes_ntk import tangent_kernel

from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from ..frame.models import MLP
from . import arrays
from .arrays import log_slope, spread


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The network of Experiment 1 before its first step, and targets of one frequency on N points."""

    width: int = 256
    depth: int = 6
    num_points: int = 200
    frequencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


PRESETS = {
    "smoke": Preset(
        Settings(width=16, depth=3, num_points=64, frequencies=(1, 2, 4, 8)), seeds=(0,), duration="1 s", judged=False
    ),
    "quick": Preset(Settings(), seeds=tuple(range(20, 30)), duration="5 s", least_seeds=5),
    "paper": Preset(
        Settings(num_points=800, frequencies=(1, 2, 4, 8, 16, 32, 64, 128)),
        seeds=tuple(range(20)),
        duration="20 min",
        least_seeds=5,
    ),
}


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    r"""Rates, in units of the target's amplitude and of a unit of learning rate times steps.

    .. math:: \dot{\tilde h}(k_0) = -\frac2N \, \mathbf u_{k_0}^* K (\mathbf f - \boldsymbol\lambda), \qquad
        \mathbf u_k = (e^{2 \pi i k j / N})_j / N, \quad \lambda(z) = \sin 2 \pi k_0 z

    ``rate``: of the target alone, the first summand of eq. 29; ``rest``: of the network's own output before training,
    which the thesis calls independent of k0.
    """
    torch.manual_seed(seed)
    n = settings.num_points
    model, z = MLP(1, settings.width, settings.depth, 1).double(), grid(n).double()
    kernel = tangent_kernel(model, z[:, None]).kernel.reshape(n, n).to(torch.complex128)
    with torch.no_grad():
        output = model(z[:, None])[:, 0].to(torch.complex128)
    angles = 2 * torch.pi * torch.tensor(settings.frequencies, dtype=torch.float64)[:, None] * z
    waves = torch.polar(torch.ones_like(angles), -angles) / n
    targets = torch.sin(angles).to(torch.complex128)
    return {
        "k": np.array(settings.frequencies, float),
        "rate": (2 / n * ((waves @ kernel) * targets).sum(1)).abs().numpy(),
        "rest": (2 / n * (waves @ kernel @ output)).abs().numpy(),
    }


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    slopes = [log_slope(seed["k"], seed["rate"]) for seed in seeds]
    rest = [log_slope(seed["k"], seed["rest"]) for seed in seeds]
    bound = [float((seed["rate"] * seed["k"]).argmax()) for seed in seeds]
    return [
        Finding(
            "eq. 9, Prop. A.3: rate at which k0 is learned at the start",
            "O(1 / k0), a bound",
            f"slope {spread(slopes)}: the bound holds and is not tight",
            "-2 ± 0.15, four of five seeds",
            enough([abs(slope + 2) <= 0.15 for slope in slopes]),
            slopes,
        ),
        Finding(  # reported: it follows from the slope
            "The bound itself: k0 times the rate",
            "bounded",
            f"largest at the lowest frequency in {sum(place == 0 for place in bound)} of {len(bound)} seeds",
        ),
        Finding(
            "Rate at k0 that comes from the network's own output before training",
            "does not depend on k0 in the last factor of eq. 29",
            f"slope {spread(rest)}",
            values=rest,
        ),
    ]


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    k = seeds[0]["k"]
    title = "rate at which a frequency is learned at the start"
    with figure(folder / "prop_a_3.png", title=title, size=(7, 4.5)) as (_, axis):
        rates = np.array([seed["rate"] for seed in seeds])
        middle = np.exp(np.log(rates).mean(0))
        axis.loglog(k, rates.T, color="C0", linewidth=0.8, alpha=0.5)
        axis.loglog(k, middle, color="C0", marker="o", label=f"measured, {len(seeds)} seeds and their geometric mean")
        label = "slope of the bound, $k_0^{-1}$ (constant unknown)"
        axis.loglog(k, 1.3 * (rates * k).max() / k, "k--", linewidth=1, label=label)  # above all points
        axis.loglog(k, middle[0] / k**2, "k:", linewidth=1, label="$k_0^{-2}$")
        axis.set(xlabel="frequency of the target $k_0$ (cycles)", ylabel="rate at the start")
        axis.set_xticks(k, [f"{value:g}" for value in k])
        axis.minorticks_off()
        axis.legend()


EXPERIMENT = Experiment(
    figures=("eq. 9", "Prop A.3"),
    summary="At what rate each frequency is learned at the start, by the tangent kernel.",
    presets=PRESETS,
    train=lambda settings, task: arrays.compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: arrays.load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis bounds the rate by O(1 / k0) and measures nothing. Its proof multiplies two factors, eq. 26, each "
        "of which falls as 1 / k0 at a random network, so the rate of what the target pulls falls as k0^-2: that is "
        "what is judged. What the network's own output adds (the second summand of eq. 29) falls only as 1 / k0, for "
        "the output is not periodic on [0, 1] and jumps between its ends. Eq. 28 lacks the factor 1 / N of the mean "
        "and that of Parseval's theorem for the unnormalised transform, and eq. 27 takes absolute values of vectors: "
        "none of that changes the power of k0."
    ),
)
