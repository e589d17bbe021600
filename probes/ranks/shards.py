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
from .channel import pack, unpack

__all__ = ["Whole", "receive_note", "send", "send_note"]


def send(model: nn.Module, group: Any) -> None:
    """Hand this rank's shards over to rank 0.

    Raises:
        RuntimeError: If rank 0 does not take them in time.
    """
    mine = [(name, shard) for name, _, shard in shards(model) if shard is not None and shard[2].numel()]
    send_note([[name, dim, offset, list(local.shape)] for name, (dim, offset, local) in mine], group)
    for _, (_, _, local) in mine:
        group.send([local.cpu().contiguous().reshape(-1).view(torch.uint8)], 0, 0).wait()


def send_note(tree: Any, group: Any) -> None:
    """Send rank 0 what :func:`~probes.ranks.channel.pack` takes."""
    data = pack(tree)
    group.send([torch.tensor([len(data)])], 0, 0).wait()
    group.send([torch.frombuffer(bytearray(data), dtype=torch.uint8)], 0, 0).wait()


def receive_note(rank: int, group: Any) -> Any:
    """On rank 0, what another rank sends."""
    size = torch.zeros(1, dtype=torch.int64)
    group.recv([size], rank, 0).wait()
    data = torch.empty(int(size), dtype=torch.uint8)
    group.recv([data], rank, 0).wait()
    return unpack(data.numpy().tobytes())


class Whole(PlainCopy):
    """Rank 0's copy of a sharded model, whole between :meth:`fill` and :meth:`empty`."""

    def fill(self, group: Any) -> None:
        """Put the parameters together.

        Args:
            group: Over which the other ranks :func:`send`; None if there are none.

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
        for rank in range(1, 1 if group is None else group.size()):
            for name, dim, offset, shape in receive_note(rank, group):
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
