"""Tangent features of a VGG19 align with the labels, with and without label noise (Figs. 4.2, 4.3 and B.8)."""

from __future__ import annotations

from pathlib import Path

import torch

from probes_ntk import TangentKernel

from ...frame.classification import Accuracy, Training, classify, kernel_schedule, photographs, random_labels, series
from ...frame.criteria import Array
from ...frame.experiment import Experiment
from ...frame.models import VGG
from ...frame.task import Task
from .criteria import judge
from .figures import draw
from .settings import BATCHES, PRESETS, STREAMS, Settings, parts


def train(settings: Settings, task: Task) -> None:
    train_set, test_set = photographs(settings.num_images, settings.num_test, task.seed)
    for name, (rate, share) in parts(settings).items():
        noisy = train_set._replace(labels=random_labels(train_set.labels, share, task.seed))
        batches = {"train": noisy.first(settings.num_kernel), "test": test_set.first(settings.num_kernel)}
        torch.manual_seed(task.seed)
        model = VGG(19, settings.width)
        due = kernel_schedule()
        accuracy = Accuracy(due, {"train": noisy.first(len(test_set.labels)), "test": test_set})
        training = Training(rate, settings.steps, augment=True)
        kernel = TangentKernel(due, num_samples=settings.num_kernel)
        classify(task.part(name), model, noisy, training, batches, [kernel, accuracy])


def read(settings: Settings, folder: Path, seed: int) -> dict[str, dict[str, Array]]:
    names = [f"ntk/{stream}/{batch}" for stream in (*STREAMS, "layer_alignment") for batch in BATCHES]
    names += [f"accuracy/{batch}" for batch in BATCHES]
    return {name: series(folder / name / "log", names) for name in parts(settings)}


EXPERIMENT = Experiment(
    figures=("4.2", "4.3", "B.8"),
    summary="The tangent kernel of a VGG19 stretches along few directions, those of the labels.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures=(
        "Without batch normalization, with weight decay, crops and reflections and Kaiming weights, as the code has it "
        "and the thesis does not say. Of the width `quick` has an eighth, `large` a quarter; of 300,000 steps they "
        "have 320 and 2,000. The test accuracy has not fallen yet with random labels, and that the effective rank "
        "rises again when it does is not judged. Under label noise the published 3.6 is at step 2,000: that test is "
        "ahead of train is judged, not by how much. The criteria were set on seeds 0 to 4 of `quick`, which "
        "met them; of fresh seeds `quick` fails Fig. 4.3, which 320 steps and kernels of 40 images show in one of "
        "three, and `large` meets all."
    ),
    threads=None,
)
