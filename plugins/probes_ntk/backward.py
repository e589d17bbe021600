"""Gradients of all outputs at the operations that use parameters, in one pass and without those of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .uses import Use

__all__ = ["backward"]

Arrived = Callable[[Use, Tensor | None], None]


class _Physical(torch.autograd.Function):
    """Hands the whole batch of gradients to a callback: a function with its own vmap rule receives real tensors."""

    @staticmethod
    def forward(gradient: Tensor, callback: Callable[[Tensor, int | None], None]) -> Tensor:
        callback(gradient, None)
        return gradient.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, gradient: Tensor, callback: Any) -> tuple[Tensor, None]:
        callback(gradient, in_dims[0])
        return gradient.new_zeros(()), None


def backward(
    out: Tensor,
    cotangents: Tensor,
    uses: Sequence[Use],
    arrived: Arrived,
    *,
    batched: bool = True,
    retain_graph: bool = False,
) -> None:
    """Send cotangents back through a graph, and report the gradients at the outputs of the uses as they arrive.

    Args:
        out: Shape ``(n, c)``.
        cotangents: Shape ``(k, n, c)``.
        uses: Of the graph of ``out``.
        arrived: Called with each use and its gradients, shape ``(k, *shape)``; None where there is none.
        batched: All cotangents at once; otherwise one after the other, for graphs that cannot be differentiated in a
            batch, and then the gradients of all uses are held at once.
        retain_graph: Whether the graph is still needed afterwards.
    """
    if not uses:
        return
    k = len(cotangents)
    entries = [use for use in uses if use.entry]
    collected: dict[Use, list[Tensor | None]] = {use: [] for use in uses}

    def take(use: Use, gradient: Tensor | None) -> None:
        if batched and gradient is not None:

            def physical(whole: Tensor, dim: int | None) -> None:
                whole = whole.expand(k, *whole.shape) if dim is None else whole.movedim(dim, 0)
                with torch.no_grad():
                    arrived(use, whole.detach())

            _Physical.apply(gradient, physical)
        elif batched:
            arrived(use, None)
        else:
            collected[use].append(None if gradient is None else gradient.detach())
            if len(collected[use]) == k:
                gradients = collected.pop(use)
                like = next((item for item in gradients if item is not None), None)
                whole = None
                if like is not None:
                    whole = torch.stack([torch.zeros_like(like) if item is None else item for item in gradients])
                with torch.no_grad():
                    arrived(use, whole)

    def send(cotangent: Tensor, retain: bool) -> Tensor:
        edges = [GradientEdge(use.node, 0) for use in entries]
        gradients = torch.autograd.grad(out, edges, cotangent, retain_graph=retain, allow_unused=True)
        for use, gradient in zip(entries, gradients, strict=True):
            take(use, gradient)
        return cotangent.new_zeros(())

    def hook(use: Use) -> Callable[..., None]:
        return lambda gradients: take(use, gradients[0])

    handles = [use.node.register_prehook(hook(use)) for use in uses if not use.entry]
    try:
        if batched:
            torch.func.vmap(lambda cotangent: send(cotangent, retain_graph))(cotangents)
        else:
            for index, cotangent in enumerate(cotangents):
                send(cotangent, retain_graph or index < k - 1)
    finally:
        for handle in handles:
            handle.remove()
