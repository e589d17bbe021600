"""Networks that several experiments train."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["MLP", "VGG", "ResNet18", "kaiming"]

VGG_BLOCKS = {11: (1, 1, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each block, by depth."""


class MLP(nn.Sequential):
    """A chain of linear layers with ReLU in between, initialized as torch does by default.

    Default biases matter on one-dimensional inputs: with zero biases and non-negative inputs every kink of the
    function is at 0, and the network starts as a straight line.

    Args:
        inputs: Size of an input; inputs of more dimensions are flattened.
        width: Units of every hidden layer.
        depth: Number of linear layers, ``linear1`` to ``linear<depth>``; one less of hidden layers.
        outputs: Size of an output.

    Raises:
        ValueError: If ``depth`` is less than 1.

    Example:
        >>> [name for name, _ in MLP(1, 256, 3, 1).named_children()]
        ['flatten', 'linear1', 'relu1', 'linear2', 'relu2', 'linear3']
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        if depth < 1:
            raise ValueError(f"`depth` must be at least 1 linear layer, got {depth}.")
        sizes = [inputs, *[width] * (depth - 1), outputs]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number in range(1, depth + 1):
            layers[f"linear{number}"] = nn.Linear(sizes[number - 1], sizes[number])
            if number < depth:
                layers[f"relu{number}"] = nn.ReLU()
        super().__init__(layers)


class VGG(nn.Sequential):
    """A VGG without batch normalisation for images of 32 by 32: convolutions, one linear layer; Kaiming weights.

    Args:
        depth: 11 or 19, as the original counts: with the three linear layers that here are one.
        width: Channels of the first block, 64 in the thesis; the others have 2, 4, 8 and 8 times as many.
        outputs: Size of an output.
        channels: Of an image.

    Raises:
        ValueError: If ``depth`` is neither 11 nor 19.

    Example:
        >>> sum(parameter.numel() for parameter in VGG(19, 64).parameters())
        20029514
    """

    def __init__(self, depth: int, width: int, outputs: int = 10, channels: int = 3) -> None:
        if depth not in VGG_BLOCKS:
            raise ValueError(f"`depth` must be one of {', '.join(map(str, VGG_BLOCKS))}, got {depth}.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        number = 0
        for block, count in enumerate(VGG_BLOCKS[depth], 1):
            for _ in range(count):
                number += 1
                size = width * min(2 ** (block - 1), 8)
                layers[f"conv{number}"] = nn.Conv2d(channels, size, 3, padding=1)
                layers[f"relu{number}"] = nn.ReLU(inplace=True)
                channels = size
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels, outputs)
        super().__init__(layers)
        kaiming(self)


class ResNet18(nn.Sequential):
    """ResNet18 for images of 32 by 32: a stem of one 3 by 3 convolution, no pooling before the blocks.

    Args:
        width: Channels of the stem and the first stage, 64 in the thesis.
        outputs: Size of an output.
        channels: Of an image.

    Example:
        >>> sum(parameter.numel() for parameter in ResNet18(64).parameters())
        11173962
    """

    def __init__(self, width: int, outputs: int = 10, channels: int = 3) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(channels, width, 3, padding=1, bias=False), norm=nn.BatchNorm2d(width), relu=nn.ReLU()
        )
        size = width
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                layers[f"stage{stage + 1}_block{block + 1}"] = Block(size, width * 2**stage, stride)
                size = width * 2**stage
        layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(size, outputs))
        super().__init__(layers)
        kaiming(self)


class Block(nn.Module):
    """Two convolutions around which the input is added, projected where its size differs."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return relu(out + self.shortcut(x))


def kaiming(model: nn.Module) -> None:
    """Draw all weights of linear layers and convolutions anew: Kaiming normal (fan in, ReLU), biases zero.

    What the code of the tangent feature experiments does; a VGG without batch normalisation needs it, for otherwise
    its outputs vanish.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
