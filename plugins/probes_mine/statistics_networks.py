"""Statistics networks: critics T(x, z) that give one number for each pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["ConvolutionalStatistics", "DenseStatistics", "GaussianNoise"]


class GaussianNoise(nn.Module):
    """Adds noise to its input in training mode.

    Args:
        std: Standard deviation of the noise.

    Example:
        >>> GaussianNoise(0.3).eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training and self.std else x

    def extra_repr(self) -> str:
        return f"std={self.std}"


class DenseStatistics(nn.Module):
    """A network of dense layers on x and z side by side; with the defaults, that of table C.12.

    Args:
        x_size: Numbers of an x; more dimensions are flattened.
        z_size: Numbers of a z.
        hidden: Units of the hidden layers.
        activation: Makes the activation after each of them.
        input_noise: Standard deviation of noise added to the inputs in training, 0.3 in the table.
        hidden_noise: Of that added after each hidden layer, 0.5 in the table.

    Example:
        >>> DenseStatistics(3, 2)(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5])

    Reference:
        Baratin (2021), table C.12. Without noise, with other sizes: its sections 5.1 and 5.2.
    """

    def __init__(
        self,
        x_size: int,
        z_size: int,
        hidden: Sequence[int] = (512, 512),
        activation: Callable[[], nn.Module] = nn.ELU,
        input_noise: float = 0.3,
        hidden_noise: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [GaussianNoise(input_noise)] if input_noise else []
        size = x_size + z_size
        for units in hidden:
            layers += [nn.Linear(size, units), activation()]
            if hidden_noise:
                layers.append(GaussianNoise(hidden_noise))
            size = units
        self.layers = nn.Sequential(*layers, nn.Linear(size, 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x.flatten(1), z.flatten(1)], 1))
        return out[:, 0]


class ConvolutionalStatistics(nn.Module):
    """Convolutions of images x, with a code z added to each of their channels as a bias.

    ``ConvolutionalStatistics((3, 28, 28), 100, dense=1024)`` is that of table C.3, ``((1, 28, 28), 128, (64, 128, 256),
    nn.LeakyReLU)`` that of C.7, ``((3, 64, 64), 256, (16, 32, 64, 128))`` that of C.11.

    Args:
        image: Shape of an x, ``(channels, height, width)``.
        z_size: Numbers of a z.
        channels: Of each convolution, 5 by 5 with stride 2.
        activation: Makes the activation after each of them.
        dense: Units of a linear layer between the last convolution and the output; none when None.

    Example:
        >>> network = ConvolutionalStatistics((3, 28, 28), 100, dense=1024)
        >>> network(torch.zeros(2, 3, 28, 28), torch.zeros(2, 100)).shape
        torch.Size([2])

    Reference:
        Baratin (2021), appendix C.1.3 and tables C.3, C.7 and C.11. The dynamic bias is read as one linear map of z for
        each convolution, added before its activation.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        z_size: int,
        channels: Sequence[int] = (16, 32, 64),
        activation: Callable[[], nn.Module] = nn.ELU,
        dense: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [image[0], *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 5, 2, padding=2) for before, after in pairwise(sizes)
        )
        self.biases = nn.ModuleList(nn.Linear(z_size, size, bias=False) for size in channels)
        self.activation = activation()
        height, width = image[1:]
        for _ in channels:
            height, width = (height + 1) // 2, (width + 1) // 2
        flat = sizes[-1] * height * width
        last = [nn.Linear(flat, 1)] if dense is None else [nn.Linear(flat, dense), nn.Linear(dense, 1)]
        self.output = nn.Sequential(nn.Flatten(), *last)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        for convolution, bias in zip(self.convolutions, self.biases, strict=True):
            x = self.activation(convolution(x) + bias(z.flatten(1))[:, :, None, None])
        out: Tensor = self.output(x)
        return out[:, 0]
