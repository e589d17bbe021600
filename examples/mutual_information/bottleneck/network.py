"""An encoder with noise, a classifier of its code, and the random numbers they take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .settings import CLASSES, PIXELS, Settings


class Network(nn.Module):
    """An encoder of two hidden layers, and a linear classifier of its code.

    The thesis writes the Gaussian code as mean(x) + std e; the std is 1 here, of which the code of the DVB, as in
    Alemi et al., has one for each x. By MINE that one cannot be trained: what the critic finds falls as mean and std
    shrink together, while the information rises.
    """

    def __init__(self, noise: str, settings: Settings, dropout: float = 0.0) -> None:
        super().__init__()
        self.noise = {
            "additive": PIXELS if "additive" in noise else 0,
            "propagated": settings.propagated if "propagated" in noise else 0,
            "gaussian": settings.code if "gaussian" in noise else 0,
        }
        self.learned, self.input_noise = "learned" in noise, settings.input_noise
        units = settings.units
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS + self.noise["propagated"], units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, (1 + self.learned) * settings.code),
        )
        self.classifier = nn.Linear(settings.code, CLASSES)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """What :meth:`forward` takes as noise, standard normal, on the CPU."""
        return torch.randn(n, sum(self.noise.values()), generator=generator)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code z, and the mean and standard deviation of the Gaussian noise in it; 0 where there is none."""
        additive, propagated, gaussian = torch.split(noise, list(self.noise.values()), 1)
        if self.noise["additive"]:
            x = x + self.input_noise * additive
        out = self.encoder(torch.cat([x, propagated], 1))
        if not self.noise["gaussian"]:
            return out, out, torch.zeros_like(out)
        mean, std = out, torch.ones_like(out)
        if self.learned:
            mean, raw = out.chunk(2, 1)
            std = softplus(raw - 5)
        return mean + std * gaussian, mean, std


@torch.no_grad()
def codes(network: Network, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = network(images, network.draw(len(images), generator).to(images.device))
    return found


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    entropy = np.random.SeedSequence((seed, purpose, number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
