"""Log odds of pairs by layers of maxout, as the discriminator of adversarially learned inference has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .generative import normal


class Maxout(nn.Module):
    """The largest of several linear maps, for each output.

    Example:
        >>> Maxout(4, 3, pieces=5)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.linear(x).unflatten(1, (-1, self.pieces))
        return maps.amax(2)


class Pairs(nn.Module):
    """The log odds of two inputs side by side, by layers of maxout."""

    def __init__(self, inputs: int, hidden: Sequence[int], pieces: int) -> None:
        super().__init__()
        layers = [Maxout(before, after, pieces) for before, after in pairwise((inputs, *hidden))]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))
        normal(self)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, y], 1))
        return out[:, 0]
