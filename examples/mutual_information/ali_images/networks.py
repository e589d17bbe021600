"""Encoder and decoder of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..generative import Generator, Image, convolutions, normal, sizes

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"leaky": partial(nn.LeakyReLU, 0.2), "elu": nn.ELU}
"""The slope is that of DCGAN; the tables do not state it."""


class Encoder(nn.Module):
    """From an image and noise, which is laid over it as constant channels, to a code: tables C.4 and C.8.

    Example:
        >>> Encoder((1, 28, 28), 128, (64, 128, 256))(torch.zeros(2, 1, 28, 28), torch.zeros(2, 128)).shape
        torch.Size([2, 128])
    """

    def __init__(self, image: Image, z_size: int, channels: Sequence[int]) -> None:
        super().__init__()
        last, (height, width) = channels[-1], (sizes(side, len(channels))[-1] for side in image[1:])
        self.layers = nn.Sequential(
            *convolutions([image[0] + z_size, *channels], nn.ReLU),
            nn.Conv2d(last, last, (height, width)),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(last, z_size),
        )
        normal(self)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        maps = noise[:, :, None, None].expand(-1, -1, *x.shape[2:])
        z: Tensor = self.layers(torch.cat([x, maps], 1))
        return z


class Autoencoder(nn.Module):
    """Encoder and decoder; called, the reconstruction of images."""

    def __init__(self, image: Image, z_size: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(image, z_size, channels)
        self.decoder = Generator(image, z_size, channels)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x, noise))
        return reconstruction
