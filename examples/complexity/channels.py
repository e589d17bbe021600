"""Path complexity and other measures of capacity beside the generalization gap of a VGG19 (Fig. 4.6, right)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..frame.classification import photographs
from ..frame.criteria import Finding
from ..frame.experiment import Experiment, Preset
from ..frame.models import VGG
from ..frame.task import Task
from .gap import Curves, agreement, curves, draw_panels, fit, reached


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A VGG19 of several numbers of channels on CIFAR-10; the thesis goes up to four million parameters."""

    widths: tuple[int, ...] = (4, 8, 16, 24, 28)
    num_images: int = 50_000
    num_test: int = 10_000
    num_features: int = 100
    learning_rate: float = 0.01
    goal: float = 0.01
    max_steps: int = 300_000
    trace_every: int = 50


PRESETS = {
    "smoke": Preset(
        Settings(widths=(2, 3), num_images=0, num_test=0, num_features=10, goal=2.2, max_steps=10),
        seeds=(0,),
        duration="10 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(
            widths=(6, 8, 12, 16), num_images=1000, num_test=1000, num_features=100, max_steps=4000, trace_every=10
        ),
        seeds=(0, 1, 2),
        duration="90 min",
        least_seeds=3,
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="600 h", least_seeds=3),
}


def parts(settings: Settings) -> list[str]:
    return [f"{width} channels" for width in settings.widths]


def train(settings: Settings, task: Task) -> None:
    train_set, test_set = photographs(settings.num_images, settings.num_test, task.seed)
    for name, width in zip(parts(settings), settings.widths, strict=True):
        torch.manual_seed(task.seed)
        fit(task.part(name), VGG(19, width), train_set, test_set, settings)


def read(settings: Settings, folder: Path, seed: int) -> Curves:
    return curves(folder, parts(settings))


def judge(settings: Settings, seeds: Sequence[Curves]) -> list[Finding]:
    return [reached(settings, seeds), agreement("Fig. 4.6, right", seeds, range(len(settings.widths)))]


def draw(settings: Settings, seeds: Sequence[Curves], folder: Path) -> None:
    panels = {"channels of the first block": (settings.widths, range(len(settings.widths)))}
    draw_panels(panels, seeds, folder / "fig_4_6_right.png")


EXPERIMENT = Experiment(
    figures=("4.6",),
    summary="The complexity of the path of a VGG19, and its generalization gap, as channels are added.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    threads=None,
    departures=(
        "As for one hidden layer; of Neyshabur's two measures the one for two layers is not defined here. A VGG19 of "
        "the thesis' width needs 20 hours and more for each point; `quick` trains one of 6 to 16 channels on 1,000 "
        "images. There C follows the gap less than the path norm does, and one training of twelve did not reach its "
        "goal."
    ),
)
