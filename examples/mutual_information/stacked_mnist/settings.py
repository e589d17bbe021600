"""What is trained on stacked digits, how and how long."""

from __future__ import annotations

from dataclasses import dataclass

from ..generative import Image

METHODS = ("DCGAN", "DCGAN + MINE")
SHOWN = 64
"""Samples in a picture of Fig. 5.5."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Stacked MNIST, and what the thesis refers to Lin et al. (2017) for, from their code: Adam and its rates, codes,
    batches, two updates of the generator for one of the discriminator, images in [0, 1] although the generator ends in
    tanh, and batch normalization (but ReLU in the discriminator, as table C.2 has it). The source states neither the
    weight of the information nor the training of the critic: one update before each of the generator, by Adam with a
    rate of 1e-3, so that it keeps up.
    """

    image: Image = (3, 28, 28)
    """Channels are digits: as many modes as 10 to that power. Smaller than 28 by 28, they are averages of pixels."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Of the discriminator, and backwards of the generator."""
    critic: tuple[int, ...] = (16, 32, 64)
    dense: int = 1024
    z_size: int = 100
    beta: float = 1.0
    learning_rate: float = 2e-4
    critic_rate: float = 1e-3
    beta1: float = 0.5
    batch_size: int = 64
    generator_updates: int = 2
    steps: int = 100_000
    """Updates of the discriminator: 50 epochs."""
    measure_every: int = 2000
    num_train: int = 128_000
    """Stacks, each of digits drawn at random from the training set."""
    num_test: int = 26_000
    classifier_steps: int = 1200
    subset: bool = False
    """Whether the 2,000 digits that come with the examples do."""

    @property
    def modes(self) -> int:
        return int(10 ** self.image[0])
