"""The function moves along few directions of parameter space and hardly along others (Fig. B.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from probes import Measurement, Probe, at, open_run
from probes.run import Run
from probes_ntk import eigenfunctions, perturbation_effects, random_directions, right_singular_vectors, tangent_kernel

from ..frame.classification import Training, classify, photographs
from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from ..frame.models import VGG
from ..frame.task import Task
from .drawing import of_seeds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A VGG11 trained for a while, then moved by a length along directions from a batch."""

    width: int = 64
    num_images: int = 50_000
    num_test: int = 10_000
    num_kernel: int = 100
    steps: int = 5000
    num_directions: int = 50
    size: float = 0.1


PRESETS = {
    "smoke": Preset(
        Settings(width=2, num_images=0, num_test=0, num_kernel=8, steps=6, num_directions=5),
        seeds=(0,),
        duration="5 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(width=8, num_images=10_000, num_test=1000, num_kernel=40, steps=300),
        seeds=(20, 21, 22),
        duration="2 min",
        least_seeds=3,
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="3 h", least_seeds=3),
}


class Perturbation(Probe):
    """How far the outputs move on the test batch along right singular vectors and along random directions."""

    def __init__(self, step: int, count: int, size: float) -> None:
        super().__init__(at([step]))
        self.count, self.size = count, size

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        batch = run.batch("test")
        eigen = eigenfunctions(tangent_kernel(run.model, batch, output=run.output).kernel)
        trained = {name: tensor for name, tensor in run.model.named_parameters() if tensor.requires_grad}
        shape = len(eigen.eigenvalues), sum(tensor.numel() for tensor in trained.values())
        yield Measurement("tangent_features/shape", shape, dims=("side",), coords={"side": ["outputs", "parameters"]})
        kinds = {
            "singular": right_singular_vectors(run.model, batch, eigen, self.count, output=run.output),
            "random": random_directions(trained, self.count, run.generator),
        }
        for kind, directions in kinds.items():
            effects = perturbation_effects(run.model, batch, directions, self.size, output=run.output)
            yield Measurement(f"perturbation/{kind}", effects, dims=("direction",), unit="output", num_samples=batch.n)


def train(settings: Settings, task: Task) -> None:
    train_set, test_set = photographs(settings.num_images, settings.num_test, task.seed)
    torch.manual_seed(task.seed)
    probe = Perturbation(settings.steps, settings.num_directions, settings.size)
    batches = {"test": test_set.first(settings.num_kernel)}
    classify(task, VGG(11, settings.width), train_set, Training(0.01, settings.steps, augment=True), batches, [probe])


def read(settings: Settings, folder: Path, seed: int) -> dict[str, Array]:
    run = open_run(folder / "log")
    streams = {"singular": "perturbation/singular", "random": "perturbation/random", "shape": "tangent_features/shape"}
    return {kind: run[stream]["value"].to_numpy()[-1] for kind, stream in streams.items()}


def edge(outputs: float, parameters: float) -> float:
    """Largest singular value of a matrix of white noise over what a random direction gives (Marchenko-Pastur)."""
    return float((parameters**0.5 + outputs**0.5) / outputs**0.5)


def judge(settings: Settings, seeds: Sequence[dict[str, Array]]) -> list[Finding]:
    ratio = [float(np.median(seed["singular"][:10]) / np.median(seed["random"])) for seed in seeds]
    noise = [edge(*seed["shape"]) for seed in seeds]
    fall = [float(seed["singular"][0] / seed["singular"][-1]) for seed in seeds]
    over = [value / white >= 3 for value, white in zip(ratio, noise, strict=True)]
    last = len(seeds[0]["singular"])
    return [
        Finding(
            f"Fig. B.1: effect of a step of {settings.size:g}, top 10 singular directions / random ones (medians)",
            "random directions have almost no effect",
            f"{_list(ratio)}; white noise of this shape would give {_list(noise)}",
            ">= 3 times that of white noise",
            enough(over),
            {"ratio": ratio, "white noise": noise, "passed": over},
        ),
        Finding(
            f"Fig. B.1: effect along singular direction 1 / {last}",
            "falls",
            _list(fall),
            ">= 3 (of white noise: 1)",
            enough([value >= 3 for value in fall]),
            fall,
        ),
    ]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def draw(settings: Settings, seeds: Sequence[dict[str, Array]], folder: Path) -> None:
    title = f"change of the outputs by direction ({of_seeds(len(seeds))})"
    with figure(folder / "fig_b_1.png", title=title, size=(7.5, 4.4), boxed=False) as (picture, axis):
        count = len(seeds[0]["singular"])
        for start, kind, label in ((0, "singular", "right singular vectors"), (count, "random", "random directions")):
            every = np.array([seed[kind] for seed in seeds])
            mean = every.mean(0)
            bars = np.stack([mean - every.min(0), every.max(0) - mean]) if len(seeds) > 1 else None
            axis.bar(np.arange(start, start + count), mean, yerr=bars, label=label, error_kw={"linewidth": 0.6})
        axis.set(xlabel="direction", ylabel=f"|change of the outputs|, step of {settings.size:g}")
        picture.legend(loc="outside lower center", ncols=2)


EXPERIMENT = Experiment(
    figures=("B.1",),
    summary="The function moves along few directions of parameter space.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures="Size of the step, batch and learning rate are not stated: each direction has length 0.1. The singular "
    "vectors are those of the batch that the change is measured on. In `quick` a VGG11 of an eighth of the width is "
    "trained for 300 steps. Singular vectors beat random directions in a matrix of white noise too, one of 400 by "
    "145,210 entries by a factor of 20: judged is how far they go beyond that.",
    threads=None,
)
