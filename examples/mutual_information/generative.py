"""What the experiments that generate share: layers and the networks of DCGAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["Discriminator", "Generator", "Image", "convolutions", "dense", "generator_of", "initialize", "normal"]

Image = tuple[int, int, int]
"""Channels, height, width."""


def sizes(side: int, layers: int) -> list[int]:
    """Sides of an image that stride 2 halves, rounded up.

    Example:
        >>> sizes(28, 4)
        [28, 14, 7, 4, 2]
    """
    found = [side]
    for _ in range(layers):
        found.append((found[-1] + 1) // 2)
    return found


def convolutions(
    channels: Sequence[int], activation: Callable[[], nn.Module], normalized: bool = True
) -> list[nn.Module]:
    """Convolutions, 5 by 5 with stride 2, from ``channels[0]`` on; batch normalization after all but the first."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(channels)):
        norm = [nn.BatchNorm2d(after)] if normalized and index else []
        layers += [nn.Conv2d(before, after, 5, 2, padding=2), *norm, activation()]
    return layers


class Generator(nn.Sequential):
    """Transposed convolutions, 5 by 5 with stride 2, from a code z to an image between -1 and 1.

    ``Generator((3, 28, 28), 100, (64, 128, 256, 512))`` is that of table C.1, ``Generator((1, 28, 28), 128, (64, 128,
    256))`` of C.5, ``Generator((3, 64, 64), 256, (64, 128, 256, 512))`` of C.9. The tables list no batch normalization;
    DCGAN, whose architecture it is, has it after every layer but the last. The output padding that their sizes take
    (1, 0, 1, 1 for 2 to 28) they do not state either.

    Args:
        image: Shape of an image.
        z_size: Numbers of a code.
        channels: Of the layers, those next to the image first: as those of the discriminator.

    Example:
        >>> Generator((3, 28, 28), 100, (64, 128, 256, 512))(torch.zeros(2, 100)).shape
        torch.Size([2, 3, 28, 28])

    Reference:
        Radford, Metz & Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
        networks", ICLR 2016; Baratin (2021), tables C.1, C.5 and C.9.
    """

    def __init__(self, image: Image, z_size: int, channels: Sequence[int]) -> None:
        heights, widths = (sizes(side, len(channels))[::-1] for side in image[1:])
        plan = [*reversed(channels), image[0]]
        layers: list[nn.Module] = [
            nn.Linear(z_size, plan[0] * heights[0] * widths[0]),
            nn.Unflatten(1, (plan[0], heights[0], widths[0])),
        ]
        for index, (before, after) in enumerate(pairwise(plan)):
            vertical, horizontal = (side[index + 1] - (2 * side[index] - 1) for side in (heights, widths))
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(before, after, 5, 2, padding=2, output_padding=(vertical, horizontal)))
        super().__init__(*layers, nn.Tanh())
        normal(self)


class Discriminator(nn.Module):
    """Convolutions of an image, joined by a code z when there is one, to the log odds that it is real.

    ``Discriminator((3, 28, 28), (64, 128, 256, 512))`` is that of table C.2, ``Discriminator((1, 28, 28), (64, 128,
    256), nn.LeakyReLU, z_size=128, dense=1024)`` of C.6, which says 3 channels for digits of one.

    Args:
        image: Shape of an image.
        channels: Of the convolutions.
        activation: Makes the activation after each layer.
        z_size: Numbers of a code; 0 for none.
        dense: Units of a layer before the last; none when None.
        normalized: Whether the convolutions but the first have batch normalization, as in DCGAN; no table lists it.

    Example:
        >>> Discriminator((3, 28, 28), (64, 128, 256, 512))(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image: Image,
        channels: Sequence[int],
        activation: Callable[[], nn.Module] = nn.ReLU,
        z_size: int = 0,
        dense: int | None = None,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*convolutions([image[0], *channels], activation, normalized), nn.Flatten())
        height, width = (sizes(side, len(channels))[-1] for side in image[1:])
        size = channels[-1] * height * width + z_size
        hidden = [] if dense is None else [nn.Linear(size, dense), activation()]
        self.output = nn.Sequential(*hidden, nn.Linear(dense or size, 1))
        normal(self)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        features = self.convolutions(x)
        out: Tensor = self.output(features if z is None else torch.cat([features, z], 1))
        return out[:, 0]


def dense(sizes: Sequence[int], slope: float, normalized: bool) -> nn.Sequential:
    """Linear layers of these sizes with leaky ReLU in between, and batch normalization before it if ``normalized``."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), *[nn.BatchNorm1d(after)] * normalized, nn.LeakyReLU(slope)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def initialize(network: nn.Module, std: float) -> None:
    """Draw the weights of linear layers from a normal distribution, and set their biases to zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def normal(model: nn.Module) -> None:
    """Draw all weights anew, biases zero: normal with standard deviation 0.02, as DCGAN."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def entropy(scores: Tensor, label: float) -> Tensor:
    """Cross-entropy of log odds with a label for all, 1 for real; in nats. Shape ``()``."""
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def generator_of(seed: int, *numbers: int) -> torch.Generator:
    """Random numbers that follow from a seed and where they are used, such as a step."""
    # Their count is part of it: to a seed sequence, (1, 0) would be (1,).
    entropy = np.random.SeedSequence((len(numbers), seed, *numbers)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
