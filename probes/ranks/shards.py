"""Models of which no rank holds all parameters: measured on a whole, or refused with what to do.

The forward pass of a model under ``fully_shard`` is a collective: a rank that measured on it alone would wait for ever.
Rank 0 therefore keeps a copy of the modules, of their original classes and without parameters; when the ranks gather it
is given whole plain parameters, put together from the shards, in the precision in which the optimizer updates them.
What all ranks do for that is to hand over their shards; afterwards the whole parameters are gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..loop.sharding import PlainCopy, shards

__all__ = ["Whole", "layout", "send"]

Layout = list[tuple[str, int, int, list[int]]]


def layout(model: nn.Module) -> Layout:
    """Of each parameter of which this rank has a part: name, sharded dimension, offset and shape of the part."""
    return [(name, dim, offset, list(local.shape)) for name, (dim, offset, local) in _parts(model)]


def send(model: nn.Module, group: Any) -> None:
    """Hand this rank's parts over to rank 0, in the order of :func:`layout`; an error if it takes them not in time."""
    for _, (_, _, local) in _parts(model):
        group.send([local.cpu().contiguous().reshape(-1).view(torch.uint8)], 0, 0).wait()


def _parts(model: nn.Module) -> list[tuple[str, tuple[int, int, torch.Tensor]]]:
    return [(name, shard) for name, _, shard in shards(model) if shard is not None and shard[2].numel()]


class Whole(PlainCopy):
    """Rank 0's copy of a sharded model, whole from :meth:`fill` until it is emptied."""

    def fill(self, layouts: list[Layout], group: Any) -> None:
        """Put the parameters together: of each other rank of the group its :func:`layout`, and what it sends.

        Raises:
            RuntimeError: If a rank does not send in time, or parts are missing.
        """
        self.renew()
        parameters, left, named = {}, {}, dict(self._model.named_parameters())
        for name, parameter, shard in shards(self._model):
            assert shard is not None  # on rank 0
            dim, offset, local = shard
            whole = local.new_empty(parameter.shape)
            whole.narrow(dim, offset, local.shape[dim] if local.ndim else 0).copy_(local)
            parameters[name], left[name] = whole, whole.numel() - local.numel()
        if missing := self.names - parameters.keys():
            raise RuntimeError(
                f"{min(missing)!r} is not sharded at this moment, so that what the optimizer has updated is not in the "
                f"model: leave fully_shard's reshard_after_backward on"
            )
        for rank, parts in enumerate(layouts, 1):
            for name, dim, offset, shape in parts:
                part = torch.empty(shape, dtype=parameters[name].dtype)
                group.recv([part.view(-1).view(torch.uint8)], rank, 0).wait()
                parameters[name].narrow(dim, offset, shape[dim]).copy_(part)
                left[name] -= part.numel()
        if any(left.values()):
            raise RuntimeError(f"parts of {next(name for name, count in left.items() if count)!r} are on no rank")
        for name, parameter in named.items():
            mine = self.of(parameter)
            mine.data = parameters[name] if name in parameters else parameter.detach().clone()
            mine.requires_grad_(parameter.requires_grad)
