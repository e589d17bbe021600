"""A ReLU network's spectrum decays as k^-2 on a segment, its derivative by a parameter as k^-1 (Thm 3.3, Prop. A.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from probes_fourier import breakpoints, double, fourier_coefficients, grid, linear_regions
from probes_fourier import piecewise_linear_coefficients as exact_coefficients

from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from ..frame.models import MLP
from . import arrays
from .arrays import log_slope, spread

ENDS = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Random networks on [0, 1], initialized as torch does by default."""

    width: int = 64
    depth: int = 4
    first: int = 128
    """Cycles at which the first octave of the fit begins; the decay is a statement about large k."""
    octaves: int = 4
    num_parameters: int = 5
    """Random directions in parameter space, along which the derivative is taken."""


PRESETS = {
    "smoke": Preset(
        Settings(width=8, depth=3, first=32, octaves=2, num_parameters=1), seeds=(0,), duration="1 s", judged=False
    ),
    "quick": Preset(Settings(), seeds=tuple(range(20, 30)), duration="5 s", least_seeds=5),
    "paper": Preset(
        Settings(width=256, depth=6, first=512, num_parameters=20),
        seeds=tuple(range(20)),
        duration="20 min",
        least_seeds=5,
    ),
}


def coefficients(model: nn.Module, k: Tensor) -> tuple[Tensor, int]:
    """Exact Fourier coefficients under a Hann window, which takes the jump between 1 and 0 away, and linear pieces."""
    positions, values = breakpoints(double(model), *ENDS)
    return exact_coefficients(positions, values, k, window="hann")[:, 0], linear_regions(positions, values)


@contextmanager
def moved(model: nn.Module, direction: Sequence[Tensor], length: float) -> Iterator[None]:
    """The parameters moved along a direction, and put back."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter, change in zip(model.parameters(), direction, strict=True):
            parameter.add_(length * change)
        yield
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    torch.manual_seed(seed)
    model = MLP(1, settings.width, settings.depth, 1).double()
    k = torch.arange(settings.first, settings.first * 2**settings.octaves, dtype=torch.float64)
    function, pieces = coefficients(model, k)
    derivatives = []
    for _ in range(settings.num_parameters):
        direction = [torch.randn_like(parameter) for parameter in model.parameters()]
        ends = []
        for length in (1e-6, -1e-6):
            with moved(model, direction, length):
                ends.append(coefficients(model, k)[0])
        derivatives.append((ends[0] - ends[1]).abs() / 2e-6)
    # The control: the same network with an activation that has no kinks, and weights 3 times as large, without which
    # it would be a straight line; on a grid of 16 points for the shortest wave.
    smooth = nn.Sequential(*[nn.Tanh() if isinstance(module, nn.ReLU) else module for module in model])
    with torch.no_grad():
        for parameter in smooth.parameters():
            parameter.mul_(3)
        z = grid(16 * len(k) + 16 * settings.first).double()
        control = fourier_coefficients(smooth(z[:, None])[:, 0], k.long().tolist(), window="hann")
    return {
        "k": k.numpy(),
        "function": function.abs().numpy(),
        "derivative": torch.stack(derivatives).numpy(),
        "control": control.abs().numpy(),
        "pieces": float(pieces),
    }


def slope(seed: Mapping[str, Array], which: str) -> float:
    """Of the root mean square per octave; of the derivative also over the directions."""
    size = np.sqrt((seed[which].reshape(-1, len(seed["k"])) ** 2).mean(0))
    return log_slope(*arrays.octaves(seed["k"], size))


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    found = {which: [slope(seed, which) for seed in seeds] for which in ("function", "derivative", "control")}
    least, most = (int(choose(float(seed["pieces"]) for seed in seeds)) for choose in (min, max))
    findings = []
    for which, power, claim in (
        ("function", -2, "Theorem 3.3, d = 1: decay of the spectrum"),
        ("derivative", -1, "Prop. A.2: decay of its derivative by the parameters"),
    ):
        findings.append(
            Finding(
                claim,
                f"k^{power}" if which == "function" else f"k^{power}, at most one power slower",
                f"slope {spread(found[which])}; {least} to {most} linear pieces",
                f"{power} ± 0.1, four of five seeds",
                enough([abs(value - power) <= 0.1 for value in found[which]]),
                found[which],
            )
        )
    findings.append(
        Finding(
            "The same with tanh, which has no kinks",
            "the theorem says nothing of it",
            f"slope {spread(found['control'])}",
            "<= -2.5, every seed: the decay is that of kinks",
            max(found["control"]) <= -2.5,
            found["control"],
        )
    )
    return findings


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    title = f"spectra of random networks, {len(seeds)} seeds and their geometric mean"
    with figure(folder / "thm_3_3.png", title=title, size=(7, 4.7)) as (picture, axis):
        for which, colour, power, label in (
            ("derivative", "C1", -1, "derivative by the parameters"),
            ("function", "C0", -2, "ReLU network"),
            ("control", "C7", None, "the same with tanh"),
        ):
            lines = [arrays.octaves(s["k"], np.sqrt((s[which].reshape(-1, len(s["k"])) ** 2).mean(0))) for s in seeds]
            k, sizes = lines[0][0], np.array([line[1] for line in lines])
            axis.loglog(k, sizes.T, color=colour, linewidth=0.8, alpha=0.5)
            middle = np.exp(np.log(sizes).mean(0))
            axis.loglog(k, middle, color=colour, marker="o", label=label)
            if power is not None:
                axis.loglog(k, middle[0] * (k / k[0]) ** power, "k:", linewidth=1)
                axis.annotate(f"$k^{{{power}}}$", (k[-1], middle[0] * (k[-1] / k[0]) ** power), xytext=(6, -3),
                              textcoords="offset points")  # fmt: skip
        axis.set_xticks(k, [f"{value:g}" for value in k])
        axis.minorticks_off()
        axis.set_xlim(k[0] / 1.15, k[-1] * 1.3)
        axis.set(xlabel="frequency k (cycles), lower end of an octave", ylabel="amplitude, root mean square")
        picture.legend(loc="outside lower center", ncols=3)


EXPERIMENT = Experiment(
    figures=("Thm 3.3", "Prop A.2"),
    summary="Random ReLU networks have a spectrum that falls as k^-2; its derivative falls as k^-1.",
    presets=PRESETS,
    train=lambda settings, task: arrays.compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: arrays.load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis proves both and measures neither. On a segment, not on the whole line, a Hann window takes the "
        "place of compact support (with tanh only the window's own decay is left, k^-3). The derivative is a central "
        "difference along random directions, exact in k. The theorem is stated with Theta(1) coefficients; they vanish "
        "wherever the waves of several kinks cancel, so the root mean square over an octave is what is fitted. The "
        "two-dimensional case is spectral_bias_polytopes."
    ),
)
