"""The general method: the derivatives of every output of every example, one example at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .call import Call

__all__ = ["derivatives"]


def derivatives(call: Call, names: Sequence[str], examples: Sequence[int]) -> dict[str, Tensor]:
    """Derivatives of the outputs with respect to some parameters: right for any model, and slow.

    Args:
        call: The model and its batch.
        names: Of the parameters.
        examples: Indices into the batch.

    Returns:
        By name, shape ``(c, n, P)``.

    Cost: a forward pass and c backward passes of one example, n times; memory n c P numbers.
    """
    parameters = call.parameters
    chosen = [parameters[name] for name in names]
    found: dict[str, Tensor] = {}
    for position, index in enumerate(examples):
        out = call.forward(call.batch.select(torch.tensor([index])))
        cotangents = call.cotangents(out, [index])
        c = len(cotangents)
        for a, cotangent in enumerate(cotangents):
            gradients = torch.autograd.grad(out, chosen, cotangent, retain_graph=a < c - 1, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is None:
                    continue
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                if name not in found:
                    found[name] = gradient.new_zeros(c, len(examples), gradient.numel())
                found[name][a, position] = gradient.flatten()
    return found
