"""Experiment 3: noise of a low frequency hurts, noise of a high frequency is learned late (Figs. 3.4 and A.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from probes import every
from probes_fourier import radial_wave

from ..frame.classification import Samples, series
from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, shades
from ..frame.task import Task
from .drawing import band, listed, of_seeds
from .fitting import Fitting, SquaredError, digits, fit

Noise = tuple[float, float]
"""Frequency in cycles per unit of input, amplitude."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Noise of these frequencies and amplitudes; the lowest and highest frequency are those of panels a and b."""

    num_train: int = 9585
    num_validation: int = 2396
    frequencies: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    amplitudes: tuple[float, ...] = (0.25, 0.5, 1.0)
    """The two highest are those of panels c and d."""
    fitting: Fitting

    @property
    def panels(self) -> dict[str, list[Noise]]:
        """The noises of each panel, beside the target without noise."""
        return {
            "a": [(self.frequencies[0], beta) for beta in self.amplitudes],
            "b": [(self.frequencies[-1], beta) for beta in self.amplitudes],
            "c": [(k, self.amplitudes[-2]) for k in self.frequencies],
            "d": [(k, self.amplitudes[-1]) for k in self.frequencies],
        }

    @property
    def noises(self) -> list[Noise]:
        return list(dict.fromkeys([(0.0, 0.0), *(noise for panel in self.panels.values() for noise in panel)]))


SLOW = Fitting(learning_rate=1e-4, steps=5000, measure_every=10)

PRESETS = {
    "smoke": Preset(
        Settings(
            num_train=0,
            frequencies=(0.05, 1.0),
            amplitudes=(0.5, 1.0),
            fitting=Fitting(width=16, depth=3, learning_rate=1e-3, steps=30, measure_every=10),
        ),
        seeds=(0,),
        duration="5 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(
            num_train=1500,
            num_validation=1000,
            frequencies=(0.05, 0.2, 1.0),
            amplitudes=(0.5, 1.0),
            fitting=replace(SLOW, steps=400),
        ),
        seeds=(20, 21, 22),
        duration="8 min",
        least_seeds=3,
    ),
    "paper": Preset(Settings(fitting=SLOW), seeds=(0, 1, 2), duration="15 h", least_seeds=3),
}


@dataclass(frozen=True)
class Curves:
    """Mean squared errors of one network at T steps."""

    steps: Array  # (T,)
    train: Array  # (T,) against the noisy target
    validation: Array  # (T,) against the clean one

    @property
    def best(self) -> float:
        return float(self.validation.min())

    @property
    def rise(self) -> float:
        """Last validation error over the lowest: how deep the dip is."""
        return float(self.validation[-1] / self.validation.min())


def target(samples: Samples, noise: Noise) -> Tensor:
    r"""τ(x) = τ_0(x) + β sin(2π k |x|) (Baratin (2021), eq. 10, with k in cycles). Shape ``(n, 1)``."""
    k, beta = noise
    return samples.labels + beta * radial_wave(samples.images, 2 * math.pi * k)[:, None]


def name(noise: Noise) -> str:
    return f"k {noise[0]:g} beta {noise[1]:g}"


def train(settings: Settings, task: Task) -> None:
    samples, clean = digits(settings.num_train, settings.num_validation, task.seed)
    due = every(settings.fitting.measure_every)
    for noise in settings.noises:
        fit(
            settings.fitting,
            task.part(name(noise)),
            samples.images,
            target(samples, noise),
            [SquaredError(due, ("train", "validation"))],
            {"validation": clean.batch},
        )


def read(settings: Settings, folder: Path, seed: int) -> dict[Noise, Curves]:
    found = {}
    for noise in settings.noises:
        errors = series(folder / name(noise) / "log", ["squared_error/train", "squared_error/validation"])
        found[noise] = Curves(errors["step"], errors["squared_error/train"], errors["squared_error/validation"])
    return found


def judge(settings: Settings, seeds: Sequence[dict[Noise, Curves]]) -> list[Finding]:
    low, high, beta = settings.frequencies[0], settings.frequencies[-1], settings.amplitudes[-1]
    rises = {k: [seed[k, beta].rise for seed in seeds] for k in (low, high)}
    ratio = [b / a for a, b in zip(*rises.values(), strict=True)]
    passed = [value >= 1.5 for value in ratio]
    dips = [int(seed[high, beta].steps[seed[high, beta].validation.argmin()]) for seed in seeds]
    return [
        Finding(
            quantity=f"Fig. 3.4 c, d: validation error at the end over the lowest, amplitude {beta:g}",
            published="high-frequency noise: an early dip, then overfitting; deeper the higher the frequency",
            measured=f"k = {high:g}: {listed(rises[high])}, dip at step {', '.join(map(str, dips))}\n"
            f"k = {low:g}: {listed(rises[low])}\nratio of the two {listed(ratio)}",
            criterion=f"k = {high:g} over k = {low:g}: ratio >= 1.5",
            passed=enough(passed),
            values={"rise": {str(k): v for k, v in rises.items()}, "ratio": ratio, "dip": dips, "passed": passed},
        ),
        _best(settings, seeds),
    ]


def _best(settings: Settings, seeds: Sequence[dict[Noise, Curves]]) -> Finding:
    # Reported, not judged: how much each may grow has not been calibrated.
    weak, strong = settings.amplitudes[0], settings.amplitudes[-1]
    lines, values = [], {}
    for k in (settings.frequencies[0], settings.frequencies[-1]):
        pairs = [(seed[k, weak].best, seed[k, strong].best) for seed in seeds]
        lines.append(f"k = {k:g}: {', '.join(f'{a:.3f} to {b:.3f}' for a, b in pairs)}")
        values[str(k)] = pairs
    clean = [seed[0.0, 0.0].best for seed in seeds]
    return Finding(
        quantity=f"Fig. 3.4 a, b: lowest validation error, amplitude {weak:g} to {strong:g}",
        published="grows with the amplitude of low-frequency noise, hardly with that of high-frequency noise",
        measured="\n".join([*lines, f"without noise {listed(clean, '.3f')}"]),
        values=values | {"without noise": clean},
    )


def draw(settings: Settings, seeds: Sequence[dict[Noise, Curves]], folder: Path) -> None:
    for part, number in (("validation", "3.4"), ("train", "A.2")):
        path = folder / f"fig_{number.lower().replace('.', '_')}.png"
        title = f"{'training' if part == 'train' else part} error ({of_seeds(len(seeds), spread=True)})"
        with figure(path, 2, 2, title=title, size=(9, 6.4), boxed=False, sharex=True, sharey=True) as (picture, axes):
            for axis, (letter, noises) in zip(axes.flat, settings.panels.items(), strict=True):
                shown = [(0.0, 0.0), *noises]
                for noise, color in zip(shown, shades(len(shown), 0.9), strict=True):
                    label = "no noise" if not noise[1] else f"{noise[1] if letter in 'ab' else noise[0]:g}"
                    curves = [getattr(seed[noise], part) for seed in seeds]
                    band(axis, seeds[0][noise].steps, curves, color, label)
                axis.set_title(f"({letter}) {f'k = {noises[0][0]:g}' if letter in 'ab' else f'β = {noises[0][1]:g}'}")
                axis.get_legend().set_title("β" if letter in "ab" else "k")
            picture.supxlabel("training step")
            picture.supylabel(f"mean squared error, {'clean' if part == 'validation' else 'noisy'} targets")


EXPERIMENT = Experiment(
    figures=("3.4", "A.2"),
    summary="Low-frequency noise hurts; high-frequency noise is learned late, after a dip of the validation error.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures="The noise is sin(2 pi k |x|) with k in cycles, as in the authors' code; the text says sin(k |x|). The "
    "targets are -1 and 1 for threes and eights, as in the code; the text says 0 and 1. The learning rate is the "
    "code's 1e-4. The panels' frequencies and amplitudes are not stated; ours begin and end with the code's. With "
    "600 samples `quick` failed on seeds 0 to 2, by which its 1,500 were chosen; it is judged on others.",
)
