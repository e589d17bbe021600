"""What is trained on the 25 Gaussians, how and how long."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("ALI", "ALICE (l2)", "ALICE (adv.)", "ALI+MINE")
DATASET = "25 Gaussians"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bidirectional networks between points of the plane and codes.

    The source states nothing but the four methods. Networks, initialization, optimizer and steps are those with which
    an author trained ALI on the same data, https://github.com/IshmaelBelghazi/ALI, ``ali_mixture.py``; statistics
    network and data are those of appendix C.1.2, for the GAN. The weights of information and of ALICE's reconstructions
    are one.
    """

    steps: int = 200_000
    num_train: int = 100_000
    batch_size: int = 100
    z_size: int = 2
    """Of the encoder's noise too."""
    encoder: tuple[int, ...] = (400, 400)
    decoder: tuple[int, ...] = (400, 400, 400, 400)
    discriminator: tuple[int, ...] = (200, 200, 200)
    pieces: int = 5
    """That a unit of the discriminator is the maximum of."""
    critic: tuple[int, ...] = (400, 400, 400)
    slope: float = 0.01
    """Of the statistics network's leaky ReLU."""
    learning_rate: float = 1e-4
    beta1: float = 0.8
    beta: float = 1.0
    reconstruction: float = 1.0
    sample_every: int = 250
    """Steps between the three samples that are kept at the end."""
    num_samples: int = 10_000


def kept_steps(settings: Settings) -> list[int]:
    """After how many steps samples are kept."""
    return [settings.steps - back * settings.sample_every for back in (2, 1, 0)]
