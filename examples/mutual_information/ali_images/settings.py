"""What is trained on images, how and how long."""

from __future__ import annotations

from dataclasses import dataclass

from ..generative import Image

METHODS = ("ALI", "ALICE (l2)", "ALICE (adv.)", "ALI + MINE")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bidirectional networks between images in [-1, 1] and codes, by default those of tables C.4 to C.7.

    The source states neither the weight of the information nor the updates of the critic, here one for each of the
    discriminator by the same Adam; nor beta1, here that of DCGAN; nor how ALICE weighs reconstructions. The caption of
    table C.5 draws 256 numbers for a code, while its first row and table C.4 have 128.
    """

    methods: tuple[str, ...] = METHODS
    data: str = "digits"
    """``"digits"`` of MNIST, ``"faces"`` of CelebA; ``"subset"``, the 2,000 digits that come with the examples, or
    ``"noise"`` with random attributes, to try either."""
    image: Image = (1, 28, 28)
    """Digits smaller than 28 by 28 are averages of pixels."""
    z_size: int = 128
    channels: tuple[int, ...] = (64, 128, 256)
    dense: int = 1024
    critic: tuple[int, ...] = (64, 128, 256)
    critic_activation: str = "leaky"
    """``"leaky"`` or ``"elu"``."""
    beta: float = 1.0
    reconstruction: float = 1.0
    """Weight in ALICE of the mean squared error of pixels, or of the second discriminator."""
    learning_rate: float = 1e-4
    beta1: float = 0.5
    batch_size: int = 100
    steps: int = 50_000
    measure_every: int = 5000
    num_test: int = 10_000
    classifier_steps: int = 1200
