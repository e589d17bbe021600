"""The error of MINE by the number of samples, and what it says of reconstructions (Thm. 5.4, 5.5, eq. 15, 18)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from probes_mine import gaussian_mutual_information

from ..frame.criteria import Array, Finding
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure, of_seeds
from ..frame.task import Task
from ..spectral_bias.arrays import compute, load, log_slope
from .bounded import fit, samples_asked
from .gaussians import pairs
from .generative import generator_of
from .reconstruction_bound import judge_bound, models, samples, terms


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Pairs of Gaussian numbers, and statistics networks as Theorem 5.5 has them: bounded, as are their parameters."""

    correlation: float = 0.5
    sizes: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    repetitions: int = 4
    """Of each size, in each seed."""
    hidden: tuple[int, ...] = (16, 16)
    bound: float = 3.0
    """Of the size of T, so that e^T is at most M = e^3."""
    radius: float = 10.0
    """K, of the ball that holds the parameters."""
    learning_rate: float = 1e-2
    batch_size: int = 256
    steps: int = 1000
    num_test: int = 100_000
    gains: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    """Of the encoders of eq. 18."""
    encoder: tuple[int, int] = (4, 2)
    """Numbers of an x and of a code."""
    encoder_hidden: tuple[int, ...] = (64, 64)
    """Of the statistics network that reads their information."""


PRESETS = {
    "smoke": Preset(
        Settings(sizes=(20, 40), repetitions=2, hidden=(4,), steps=5, num_test=100, gains=(0.3, 1.0, 3.0)),
        seeds=(0,),
        duration="1 s",
        judged=False,
    ),
    "quick": Preset(Settings(), seeds=(10, 11, 12, 13, 14), duration="6 min", least_seeds=3),
    "paper": Preset(
        Settings(sizes=(100, 300, 1000, 3000, 10_000, 30_000, 100_000), repetitions=20, steps=10_000),
        seeds=tuple(range(10)),
        duration="12 h",
        least_seeds=3,
    ),
}


def estimates(settings: Settings, n: int, seed: int) -> Mapping[str, ArrayLike]:
    """On the samples themselves, as eq. 11 has it, and on others, of each repetition, in nats."""
    own, other = [], []
    for repetition in range(settings.repetitions):
        x, z = pairs(settings.correlation, 1, n, generator_of(seed, 1, n, repetition))
        mine = fit(settings, x, z, seed * settings.repetitions + repetition, settings.hidden, settings.bound)
        own.append(mine.estimate(x, z, shuffles=min(50, n - 1)).value)
        fresh = pairs(settings.correlation, 1, settings.num_test, generator_of(seed, 2, n, repetition))
        other.append(mine.estimate(*fresh).value)
    return {"own": own, "other": other}


def reconstructions(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    """The terms of eq. 18 for each gain and decoder, and MINE's reading of the information, in nats."""
    found, read = [], []
    for best, other in models(settings.gains, settings.encoder, generator_of(seed, 3)):
        found.append([terms(best), terms(other)])
        n = settings.num_test
        x, z = (side / side.std(0) for side in samples(best, 2 * n, generator_of(seed, 4)))
        read.append(fit(settings, x[:n], z[:n], seed, settings.encoder_hidden, 10.0).estimate(x[n:], z[n:]).value)
    return {"terms": found, "read": read}


def train(settings: Settings, task: Task) -> None:
    for n in settings.sizes:
        compute(task.part(f"{n} samples"), partial(estimates, settings, n))
    compute(task.part("reconstructions"), partial(reconstructions, settings))


def read(settings: Settings, folder: Path, seed: int) -> Mapping[str, Array]:
    """``own`` and ``other``, shape ``(sizes, repetitions)``; ``terms``, ``(gains, 2, 6)``; ``read``, ``(gains,)``."""
    parts = [load(folder / f"{n} samples") for n in settings.sizes]
    return {key: np.stack([part[key] for part in parts]) for key in ("own", "other")} | load(folder / "reconstructions")


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    rho, most = settings.correlation, settings.sizes[-1]
    truth = float(gaussian_mutual_information(rho))
    errors = {key: np.array([np.abs(seed[key] - truth).mean(1) for seed in seeds]) for key in ("own", "other")}
    slopes = {key: log_slope(settings.sizes, rows.mean(0)) for key, rows in errors.items()}
    last = np.concatenate([seed["own"][-1] for seed in seeds])
    scaled = float(last.std(ddof=1)) * most**0.5 / rho
    gaps = np.mean([(seed["own"] - seed["other"]).mean(1) for seed in seeds], axis=0)
    asked = samples_asked(settings.hidden, settings.bound, settings.radius, float(errors["own"][:, -1].mean()))
    findings = [
        Finding(
            f"Thm. 5.4: error of MINE on {words} samples, n = {_list(settings.sizes, 'd')}, in nats",
            published,
            f"{_list(errors[key].mean(0))} (truth {truth:.3f}); slope {slopes[key]:.2f}",
            "slope <= -0.4, and <= 0.02 at the largest n, mean of the seeds",
            bool(slopes[key] <= -0.4 and errors[key][:, -1].mean() <= 0.02),
            {"error": errors[key], "slope": slopes[key]},
        )
        for key, words, published in (
            ("own", "its own", "consistent; eq. 15: at least as n^-1/2, up to logarithms"),
            ("other", "other", ""),
        )
    ]
    findings += [
        Finding(
            f"Standard deviation of MINE at n = {most}, times the root of n, over that of log p(x, z) / p(x) p(z)",
            "eq. 15: the power n^-1/2",
            f"{scaled:.2f} ({len(last)} estimates)",
            "0.6 to 1.6",
            0.6 <= scaled <= 1.6,
            scaled,
        ),
        Finding(
            "MINE on its own samples less on others: what it has learned by heart, in nats",
            "",
            _list(gaps),
            values=gaps,
        ),
        Finding(
            f"eq. 15: samples that it asks for to be as near as MINE with {most}, of 95 % confidence",
            "sufficient",
            f"at least {asked:.0e}",
            values=asked,
        ),
    ]
    return findings + judge_bound(seeds)


def _list(values: Sequence[float] | Array, form: str = ".3f") -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    rho, n = settings.correlation, np.array(settings.sizes)
    truth = float(gaussian_mutual_information(rho))
    title = "error of MINE by number of samples, and the bound of reconstruction errors"
    with figure(folder / "thm_5_4.png", 1, 2, title=title, size=(9, 5)) as (_, (left, right)):
        for index, (key, words) in enumerate((("own", "its own samples (eq. 11)"), ("other", "other samples"))):
            errors = np.array([np.abs(seed[key] - truth).mean(1) for seed in seeds])
            left.fill_between(n, errors.min(0), errors.max(0), color=f"C{index}", alpha=0.2, lw=0)
            left.loglog(n, errors.mean(0), "o-", color=f"C{index}", label=words)
        left.loglog(n, rho / n**0.5, "k:", label="correlation / root of n")
        left.set(xlabel="number of samples n", ylabel="error of MINE (nats)", title=f"Thm 5.4: {of_seeds(len(seeds))}")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
        found = seeds[0]["terms"]
        error, divergence, information, of_x, of_z = (found[..., index] for index in (0, 1, 3, 4, 5))
        for index, words in enumerate(("best decoder", "decoder of the middle one")):
            right.semilogx(settings.gains, error[:, index], "o-", color=f"C{index}", label=f"error, {words}")
            for entropy, style in ((of_x, "--"), (of_z, ":")):
                right.semilogx(settings.gains, (divergence - information + entropy)[:, index], style, color=f"C{index}")
        right.plot([], [], "k--", label="eq. 18 with H(x)")
        right.plot([], [], "k:", label="eq. 18 as printed, with H(z)")
        right.set(xlabel="gain of the encoder", ylabel="reconstruction error (nats)")
        right.set_title(f"eq. 18: {of_seeds(len(seeds), 'one of')}")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))


EXPERIMENT = Experiment(
    figures=("Thm 5.4", "Thm 5.5", "ch. 5 eq. 15", "ch. 5 eq. 18"),
    summary="The error of MINE falls with the number of samples, and its information bounds reconstruction errors.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures=(
        "The thesis proves these statements and measures none. Eq. 15 is sufficient and far from necessary, see the "
        "number of samples that it asks for. Its proof uses Hoeffding's inequality with an exponent 16 times too large "
        "(eq. 26 has the deviation epsilon for epsilon / 4) and drops the factor e^M of eq. 20 in eq. 32; neither "
        "changes the power of n. Eq. 36 takes H(x, z) - H(z) for H(z | x), where it is H(x | z): so eq. 18 has H(z) "
        "for H(x), and as printed it is no bound. The corrected one is an identity but for the information, which is "
        "MINE's here. That more information means less error holds for encoders with decoders of their own: with one "
        "decoder for all, the divergence grows faster than the information. Criteria were set on seeds 200 to 202, "
        "where MINE was at most 0.16 nats off in eq. 18, and once more on 0 to 4, with 0.24."
    ),
)
