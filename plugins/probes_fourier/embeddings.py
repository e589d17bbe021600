"""Tokens as points of a space: what the model embeds them as, and the model's call on other points of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.batches import Batch, tensors
from probes.measurement import CannotMeasure

__all__ = ["Embeddings"]


class Embeddings:
    """The modules of a model that embed the tokens of a batch, found in a call of the model.

    An embedding is ``nn.Embedding``, ``nn.EmbeddingBag``, or a module like them: without children, with one parameter,
    a vector for each token. Embeddings of positions that the model numbers itself are none: they stay as they are.

    Args:
        model: The model.
        batch: Its call, with at least one integer tensor of a row for each sample.

    Attributes:
        points: What the tokens of each sample are embedded as, of all embeddings one after another, in float32 at
            least. Shape ``(n, d)``.

    Raises:
        CannotMeasure: If no module embeds an integer tensor of the batch.

    Cost: one forward pass of the batch.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 1))
        >>> Embeddings(model, Batch((torch.tensor([[0, 1, 2], [4, 4, 4]]),))).points.shape
        torch.Size([2, 6])
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._model = model
        self._found: list[tuple[nn.Module, Tensor]] = []
        """What was called with tokens of the batch, and what it has given, in the order of the calls."""
        tokens = _tokens(batch)

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if _embeds(module, args, kwargs, output, tokens):
                self._found.append((module, output.detach()))

        handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
        try:
            with torch.no_grad():
                model(*batch.args, **batch.kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if not self._found:
            raise CannotMeasure(
                "The batch has no floating-point input, and no module of the model embeds its integers as nn.Embedding "
                "does: between them there is no path to measure the function on."
            )
        flat = [output.reshape(batch.n, -1) for _, output in self._found]
        self.points = torch.cat([part.to(torch.promote_types(part.dtype, torch.float32)) for part in flat], 1)

    @contextmanager
    def at(self, points: Tensor, batch: Batch) -> Iterator[None]:
        """While it lasts, the embeddings give these points for the tokens of the batch.

        Args:
            points: Shape ``(rows, d)``.
            batch: The call, of as many rows.
        """
        tokens = _tokens(batch)
        sizes = [output.numel() // self.points.shape[0] for _, output in self._found]
        parts = list(zip(self._found, torch.split(points, sizes, 1), strict=True))

        def replace(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
            if not _embeds(module, args, kwargs, output, tokens):
                return None
            (expected, _), part = parts.pop(0) if parts else ((None, None), points)
            if module is not expected or part.numel() != output.numel():
                raise CannotMeasure(_OTHERWISE)
            instead: Tensor = part.reshape(output.shape).to(output)
            return instead

        handles = [module.register_forward_hook(replace, with_kwargs=True) for module in dict(self._found)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if parts:
            raise CannotMeasure(_OTHERWISE)


_OTHERWISE = (
    "The embeddings are called otherwise when the batch has another number of rows: there is no path between samples."
)


def _tokens(batch: Batch) -> list[Tensor]:
    leaves = tensors((batch.args, batch.kwargs))
    return [leaf for leaf in leaves if leaf.ndim and len(leaf) == batch.n and _is_integer(leaf)]


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _embeds(module: nn.Module, args: Any, kwargs: Any, output: Any, tokens: list[Tensor]) -> bool:
    """Whether it was called with one of the tensors of tokens, and has given a vector for each of them."""
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        return False
    given = next(iter(tensors((args, kwargs))), None)
    own = list(module.parameters())
    alone = all(isinstance(child, nn.ParameterDict | nn.ParameterList) for child in module.children())
    if given is None or not _is_integer(given) or len(own) != 1 or not alone or own[0].ndim != 2:
        return False
    expected = given.shape[:1] if isinstance(module, nn.EmbeddingBag) else given.shape
    if tuple(output.shape) != (*expected, own[0].shape[1]):
        return False
    same = [leaf for leaf in tokens if leaf.numel() == given.numel()]
    return any(torch.equal(given.reshape(leaf.shape).to(leaf), leaf) for leaf in same)
