"""Models of which no rank holds all parameters: measured on a whole, or refused with what to do.

The forward pass of a model under ``fully_shard`` is a collective: a rank that measured on it alone would wait for ever.
Rank 0 therefore keeps a copy of the modules, of their original classes and without parameters; when the ranks gather it
is given whole plain parameters, put together from the shards, in the precision in which the optimizer updates them.
What all ranks do for that is to hand over their shards; afterwards the whole parameters are gone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..loop.sharding import distributed
from .channel import pack, unpack

__all__ = ["Whole", "local_part", "receive_note", "send", "send_note"]

_NOT_COPIED = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params", "_compiled_call_impl")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def _shard(parameter: Any) -> tuple[int, int, Tensor] | None:
    """Dimension and offset of this rank's part, and the part; None if it is a replica of another rank's."""
    mesh = parameter.device_mesh
    dim, offset, expected = 0, 0, list(parameter.shape)
    for at, zero, size, place in zip(
        mesh.get_coordinate(), _place_of_zero(mesh), mesh.mesh.shape, parameter.placements, strict=True
    ):
        if place.is_replicate():
            if at != zero:
                return None
        else:  # as torch.chunk
            dim, length = place.dim, expected[place.dim]
            each = -(-length // size)
            offset = min(at * each, length)
            expected[dim] = min(each, length - offset)
    local = parameter.to_local().detach()
    if list(local.shape) != expected:
        raise RuntimeError(f"a shard has shape {tuple(local.shape)}, where {tuple(expected)} was expected")
    return dim, offset, local


@functools.cache
def _place_of_zero(mesh: Any) -> list[int]:
    """Where rank 0 is in a mesh."""
    place: list[int] = (mesh.mesh == 0).nonzero()[0].tolist()
    return place


def local_part(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a parameter of a sharded model, such that every element is in the part of one rank only."""
    if hasattr(parameter, "to_local"):
        shard = _shard(parameter)
        return parameter.to_local().detach()[:0] if shard is None else shard[2]
    # Not sharded: the same on all ranks.
    return parameter.detach() if torch.distributed.get_rank() == 0 else parameter.detach().reshape(-1)[:0]


def _shards(model: nn.Module) -> Iterator[tuple[str, Any, tuple[int, int, Tensor] | None]]:
    for name, parameter in distributed(model):
        yield name, parameter, _shard(parameter)


def send(model: nn.Module, group: Any) -> None:
    """Hand this rank's shards over to rank 0.

    Raises:
        RuntimeError: If rank 0 does not take them in time.
    """
    shards = [(name, shard) for name, _, shard in _shards(model) if shard is not None and shard[2].numel()]
    send_note([[name, dim, offset, list(local.shape)] for name, (dim, offset, local) in shards], group)
    for _, (_, _, local) in shards:
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


class Whole:
    """Rank 0's copy of the modules of a sharded model.

    Args:
        model: The sharded model, which is only read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._twins: dict[int, tuple[Any, Any]] = {}
        """Of every module, parameter and buffer, by its id: the original and ours."""
        self._names = {name for name, _ in distributed(model)}
        self._copy()

    @property
    def model(self) -> nn.Module:
        """The copy; its parameters hold nothing but between :meth:`fill` and :meth:`empty`."""
        copied: nn.Module = self._twins[id(self._model)][1]
        return copied

    def fill(self, group: Any) -> None:
        """Put the parameters together.

        Args:
            group: Over which the other ranks :func:`send`; None if there are none.

        Raises:
            RuntimeError: If a rank does not send in time, or parts are missing.
        """
        self._copy()
        parameters, left, named = {}, {}, dict(self._model.named_parameters())
        for name, parameter, shard in _shards(self._model):
            assert shard is not None  # on rank 0
            dim, offset, local = shard
            whole = local.new_empty(parameter.shape)
            whole.narrow(dim, offset, local.shape[dim] if local.ndim else 0).copy_(local)
            parameters[name], left[name] = whole, whole.numel() - local.numel()
        if missing := self._names - parameters.keys():
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
            mine = self._twins[id(parameter)][1]
            mine.data = parameters[name] if name in parameters else parameter.detach().clone()
            mine.requires_grad_(parameter.requires_grad)

    def empty(self) -> None:
        """Let go of the whole parameters."""
        for original, mine in self._twins.values():
            if isinstance(original, nn.Parameter):
                mine.data = mine.data.new_empty(0)
                mine.grad = None

    def _copy(self) -> None:
        """Every module as it is now, in its original class, without what ``fully_shard`` has added."""
        modules = list(self._model.modules())
        for module in modules:
            self._twin(module, lambda module: object.__new__(_own_class(type(module))))
        for parameter in self._model.parameters():
            self._twin(
                parameter, lambda p: nn.Parameter(torch.empty(0, dtype=p.dtype, device=p.device), p.requires_grad)
            )
        for buffer in self._model.buffers():
            if not is_lazy(buffer):
                self._twin(buffer, lambda buffer: torch.empty_like(buffer)).data = buffer.detach().clone()
        for module in modules:
            memo = {key: mine for key, (_, mine) in self._twins.items()}
            kept = {name: value for name, value in vars(module).items() if not name.startswith(_NOT_COPIED)}
            for name in _HOOKS:
                kept[name] = type(kept[name])((key, hook) for key, hook in kept[name].items() if not _of_torch(hook))
            mine = self._twins[id(module)][1]
            vars(mine).clear()
            for name, value in kept.items():
                try:
                    vars(mine)[name] = copy.deepcopy(value, memo)
                except Exception:  # a lock, a group of processes, a tensor within a graph
                    vars(mine)[name] = value

    def _twin(self, original: Any, make: Any) -> Any:
        if id(original) not in self._twins:
            self._twins[id(original)] = original, make(original)
        return self._twins[id(original)][1]


def _own_class(kind: type) -> type:
    """The user's class, of which ``fully_shard`` has made another."""
    from torch.distributed.fsdp import FSDPModule

    return next(base for base in kind.__mro__ if not issubclass(base, FSDPModule))


def _of_torch(hook: Any) -> bool:
    owner = getattr(hook, "__self__", None)
    return type(owner).__name__ == "FSDPState" and type(owner).__module__.startswith("torch.distributed")
