"""Networks that several experiments train."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["MLP"]


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
