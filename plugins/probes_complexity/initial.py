"""Where the parameters of a training began, and how far from there they are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from probes.precision import square_sum

__all__ = ["InitialParameters", "square_norms"]


class InitialParameters:
    """The parameters of a model before their first update, in host memory; a parameter comes with its layer's index."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._of: dict[str, nn.Parameter] = {}
        """The parameter that each of them is of; one that is referred to weakly cannot be swapped by torch."""

    def keep(self, parameters: Iterable[tuple[str, int, nn.Parameter]]) -> None:
        """Keep those that are new."""
        for name, _, parameter in parameters:
            initial, of = self.values.get(name), self._of.get(name)
            # Another parameter of that name begins where it is when it comes; one of a checkpoint goes on.
            another = of is not None and of is not parameter
            if initial is None or another or initial.shape != parameter.shape:
                self.values[name] = parameter.detach().to("cpu", copy=True)
            if of is None or another:
                self._of[name] = parameter

    def distances(self, parameters: Iterable[tuple[str, int, nn.Parameter]], num_layers: int) -> Tensor:
        """How far all together, and those of each layer, are from where they began. Shape ``(1 + num_layers,)``."""
        squares = torch.zeros(1 + num_layers, dtype=torch.float64)
        moved = [item for item in parameters if item[0] in self.values]
        if moved:
            differences = [parameter.detach() - self.values[name].to(parameter.device) for name, _, parameter in moved]
            rows = torch.tensor([1 + layer for _, layer, _ in moved])
            own = square_norms(differences).double().cpu()
            # The last row takes layers that have come later, which count in the whole alone.
            squares = torch.zeros(2 + num_layers, dtype=torch.float64).index_add_(0, rows, own)[:-1]
            squares[0] = own.sum()
        return squares.sqrt()

    def forget(self) -> None:
        """Let go of the model's own parameters."""
        self._of = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_of": {}}  # a copy is of other parameters


def square_norms(tensors: list[Tensor]) -> Tensor:
    """Of each tensor, in float64 where the device has it. Shape ``(len(tensors),)``."""
    tensors = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
    device = tensors[0].device
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors}, torch.float32)
    norms = torch._foreach_norm([_rows(tensor, dtype) for tensor in tensors], 2, dtype=dtype)
    if any(norm.device != device for norm in norms):
        norms = tuple(norm.to(device) for norm in norms)
    return torch.stack(norms).to(torch.float32 if device.type == "mps" else torch.float64).square_()


MANY = 1 << 15
"""Numbers whose squares are added in single precision."""


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The norms of its rows where it has many numbers: a CPU adds up 2 % too little of 50 million squares."""
    if tensor.device.type != "cpu" or tensor.numel() <= MANY:
        return tensor
    rows = tensor.flatten(1) if tensor.ndim > 1 else tensor[None]
    if max(rows.shape) > MANY:
        return square_sum(tensor).sqrt()[None].to(dtype)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=dtype)
    return norms
