"""Adversarially learned inference reconstructs better when it maximizes mutual information: faces (Table 5.2).

As ``digits.py``, with the networks of tables C.8 to C.11. CelebA is not downloaded: when it is not
there the error tells what to get and where to put it; only the preset ``smoke``, on noise, does without.
"""

from __future__ import annotations

from dataclasses import replace

from ...frame.experiment import Experiment, Preset
from .digits import EXPERIMENT as DIGITS
from .settings import Settings

FACES = Settings(
    data="faces",
    image=(3, 64, 64),
    z_size=256,
    channels=(64, 128, 256, 512),
    critic=(16, 32, 64, 128),
    critic_activation="elu",
    steps=35_000,
    classifier_steps=5000,
)
"""The source does not state the labels: here the 40 attributes, whose accuracy is the share of all of them."""

PRESETS = {
    "smoke": Preset(
        replace(
            FACES,
            data="noise",
            z_size=4,
            channels=(2, 4, 4, 8),
            dense=8,
            critic=(4,),
            batch_size=4,
            steps=2,
            measure_every=2,
            num_test=20,
            classifier_steps=2,
        ),
        seeds=(0,),
        duration="3 s",
        judged=False,
    ),
    "quick": Preset(
        # As of the digits: half the side, a quarter of the channels and of the code, half of the batch.
        replace(
            FACES,
            methods=("ALI", "ALI + MINE"),
            image=(3, 32, 32),
            z_size=64,
            channels=(16, 32, 64),
            dense=256,
            critic=(8, 16, 32),
            learning_rate=5e-4,
            batch_size=50,
            steps=8000,
            measure_every=1000,
            num_test=2000,
            classifier_steps=2000,
        ),
        seeds=(0,),
        duration="25 min",
    ),
    "paper": Preset(FACES, seeds=(0, 1, 2), duration="700 h"),
}

EXPERIMENT = Experiment(
    figures=("T5.2", "TC.8", "TC.9", "TC.10", "TC.11"),
    summary="The same of faces, whose photographs must be downloaded first.",
    presets=PRESETS,
    train=DIGITS.train,
    read=DIGITS.read,
    judge=DIGITS.judge,
    draw=DIGITS.draw,
    departures=(
        "As of the digits. The photographs are not downloaded. Only the error is judged: the accuracy is that of 40 "
        "attributes, of which a face that is not the right one has most, and the preset `quick` has one seed, so a "
        "difference of MS-SSIM has no standard error."
    ),
)
