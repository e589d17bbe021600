"""Mutual information of samples and codes makes adversarially learned inference reconstruct (Fig. 5.6, C.1)."""

from __future__ import annotations

from dataclasses import replace

from ...frame.experiment import Experiment, Preset
from .results import draw, judge, read
from .settings import Settings
from .training import train

PRESETS = {
    "smoke": Preset(
        Settings(
            steps=6,
            num_train=1000,
            batch_size=20,
            encoder=(8,),
            decoder=(8,),
            discriminator=(4,),
            critic=(8,),
            sample_every=2,
            num_samples=500,
        ),
        seeds=(0,),
        duration="2 s",
        judged=False,
    ),
    "quick": Preset(Settings(steps=5000), seeds=(20,), duration="15 min"),
    "paper": Preset(Settings(), seeds=(0, 1, 2), duration="25 h", least_seeds=2),
}
PRESETS["large"] = replace(PRESETS["quick"], seeds=(20, 21), duration="30 min", least_seeds=2)

EXPERIMENT = Experiment(
    figures=("5.6", "C.1"),
    summary="Adversarially learned inference reconstructs better if samples keep information on their codes.",
    presets=PRESETS,
    train=train,
    read=read,
    judge=judge,
    draw=draw,
    departures="The thesis states the four methods and nothing else: networks, initialization, optimizer and steps are "
    "those of an author's ALI on the same data, statistics network and data those of the GAN (appendix C.1.2). The "
    "figures have no numbers: reconstruction errors and modes are counted. `quick` trains for 5,000 of 200,000 steps, "
    "`large` too, by two seeds. After so few, ALICE keeps all modes, where the published figure shows some dropped: "
    "modes of ALICE are reported, not judged.",
)
