"""Gradients of the outputs at the operations that use parameters, without those of the parameters.

One pass for each cotangent, and not all of them in one batched pass: a batched pass (vmap) moves the dimension of the
cotangents about and back at most operations, which costs more than it saves, and not all operations allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .uses import Use

__all__ = ["backward"]


def backward(
    root: Tensor | GradientEdge,
    cotangents: Sequence[Tensor | None],
    uses: Sequence[Use],
    arrived: Callable[[int, Use, Tensor], None],
    *,
    stop: GradientEdge | None = None,
    retain_graph: bool = False,
) -> list[Tensor | None]:
    """Send cotangents back through a graph, and report the gradients at the outputs of the uses as they arrive.

    Args:
        root: Outputs, or the place in the graph where an earlier pass stopped.
        cotangents: Each of the shape of ``root``; None for zero.
        uses: Between ``root`` and ``stop``.
        arrived: Called with the index of a cotangent, a use and the gradient at its output, where there is one.
        stop: A place that all gradients go through that go further down.
        retain_graph: Whether this part of the graph is still needed afterwards.

    Returns:
        The gradient at ``stop`` for each cotangent.
    """
    entries = [use for use in uses if use.entry]
    edges = [GradientEdge(use.node, 0) for use in entries] + ([] if stop is None else [stop])
    stopped: list[Tensor | None] = [None] * len(cotangents)
    if not edges:
        return stopped
    index = 0

    def hook(use: Use) -> Callable[[Sequence[Tensor | None]], None]:
        def take(gradients: Sequence[Tensor | None]) -> None:
            if gradients[0] is not None:
                arrived(index, use, gradients[0])

        return take

    handles: list[Any] = [use.node.register_prehook(hook(use)) for use in uses if not use.entry]
    try:
        for index, cotangent in enumerate(cotangents):
            if cotangent is None:
                continue
            again = retain_graph or index < len(cotangents) - 1
            gradients = torch.autograd.grad(root, edges, cotangent, retain_graph=again, allow_unused=True)
            for use, gradient in zip(entries, gradients, strict=False):
                if gradient is not None:
                    arrived(index, use, gradient)
            if stop is not None:
                stopped[index] = gradients[-1]
    finally:
        for handle in handles:
            handle.remove()
    return stopped
