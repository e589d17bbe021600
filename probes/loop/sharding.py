"""Models of which no rank holds all parameters: whether one is, and whether it can be measured."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = [
    "PlainCopy", "accumulates", "distributed", "in_parts", "is_sharded", "local_part", "only_parts", "ranks", "refusal",
    "shards", "unshared", "whole",
]  # fmt: skip

_NOT_COPIED = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params", "_compiled_call_impl")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` has been applied to the model or to parts of it."""
    return _fully_sharded(model) and any(True for _ in distributed(model))


def refusal(called: nn.Module, model: nn.Module) -> str:
    """Why nothing can be measured on a distributed model, and what to do; empty if it can, or is not distributed."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in called.modules()):
        return (
            "the model is wrapped by FullyShardedDataParallel, which flattens its parameters and keeps a part of them "
            "on each rank. Use torch.distributed.fsdp.fully_shard instead, or measure its checkpoints in a plain model."
        )
    for name, parameter in distributed(model):
        split = [place for place in parameter.placements if not place.is_replicate()]
        if not _fully_sharded(model) or len(split) > 1 or not all(type(place).__name__ == "Shard" for place in split):
            return (
                f"parameter {name!r} is a DTensor {tuple(parameter.placements)}, as of tensor parallelism: the forward "
                f"pass is a collective of all ranks, and the modules may know their own part only. Measure its "
                f"checkpoints in a plain model; models under fully_shard alone are measured."
            )
    return ""


def unshared(model: nn.Module) -> str:
    """Why nothing can be measured on a model that was watched before the ranks knew each other; empty if it can."""
    dist: Any = torch.distributed
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return ""
    if is_sharded(model):
        return (
            "the model is sharded (fully_shard), and attach() was called before init_process_group(), so that the "
            "other ranks hand over nothing. Call attach() after it, on every rank."
        )
    return refusal(model, model)


def only_parts(called: nn.Module, model: nn.Module) -> bool:
    """Whether a model cannot be measured in whole, but what each rank sees of its part can be added up."""
    parameters = [parameter for _, parameter in distributed(model)]
    return bool(parameters and refusal(called, model)) and not any(map(is_partial, parameters))


def is_partial(tensor: Any) -> bool:
    """Whether it is one summand of what it stands for."""
    return any(place.is_partial() for place in getattr(tensor, "placements", ()))


def whole(tensor: Any) -> Any:
    """A tensor as this rank holds it; None if that is a part of it only, which nobody is asked to complete."""
    if not hasattr(tensor, "to_local"):
        return tensor
    return tensor.detach().to_local() if all(place.is_replicate() for place in tensor.placements) else None


def in_parts(model: nn.Module) -> bool:
    """Whether no rank holds the model in whole, so that a look at its parameters may be a collective."""
    return any(True for _ in distributed(model)) or bool(refusal(model, model))


def accumulates(model: nn.Module) -> bool:
    """Whether modules under ``fully_shard`` hold gradients of passes after which they were not to be reduced.

    Nobody is told of such a pass. What it leaves is looked for while another arrives, in modules that it has not come
    to yet.
    """
    for module in model.modules() if _fully_sharded(model) else ():
        state: Any = getattr(module, "_get_fsdp_state", lambda: None)()
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for group in groups:
            if getattr(getattr(group, "_training_state", None), "name", "") != "IDLE":
                continue
            for each in getattr(group, "fsdp_params", ()):
                gradient = getattr(getattr(each, "_unsharded_param", None), "grad", None)
                if gradient is not None or getattr(each, "unsharded_accumulated_grad", None) is not None:
                    return True
            if getattr(group, "_partial_reduce_output", None) is not None:
                return True
    return False


def ranks(model: nn.Module) -> list[int]:
    """The ranks that hold parts of a sharded model."""
    return sorted(
        {rank for _, parameter in distributed(model) for rank in parameter.device_mesh.mesh.flatten().tolist()}
    )


def _fully_sharded(model: nn.Module) -> bool:
    module: Any = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FSDPModule", None)
    return kind is not None and any(isinstance(part, kind) for part in model.modules())


def distributed(model: nn.Module) -> Iterator[tuple[str, Any]]:
    module: Any = sys.modules.get("torch.distributed.tensor")
    if module is not None:  # or else there is none
        yield from ((name, p) for name, p in model.named_parameters() if isinstance(p, module.DTensor))


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


def local_part(parameter: Any) -> Tensor:
    """This rank's part of a parameter or gradient of a sharded model; every element is in the part of one rank only."""
    if hasattr(parameter, "to_local"):
        local: Tensor = parameter.to_local().detach()
        mesh = parameter.device_mesh
        at = zip(mesh.get_coordinate(), _place_of_zero(mesh), parameter.placements, strict=True)
        replica = any(here != zero for here, zero, place in at if place.is_replicate())
        return local.reshape(-1)[:0] if replica else local
    whole: Tensor = parameter.detach()  # the same on all ranks
    return whole if torch.distributed.get_rank() == 0 else whole.reshape(-1)[:0]


def shards(model: nn.Module) -> Iterator[tuple[str, Any, tuple[int, int, Tensor] | None]]:
    for name, parameter in distributed(model):
        yield name, parameter, _shard(parameter)


class PlainCopy:
    """The modules of a sharded model in their original classes, with parameters that hold nothing.

    Args:
        model: The sharded model, which is only read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._twins: dict[int, tuple[Any, Any]] = {}
        """Of every module, parameter and buffer, by its id: the original and ours."""
        self.names = {name for name, _ in distributed(model)}
        """The parameters that are sharded."""
        self.renew()

    @property
    def model(self) -> nn.Module:
        """The copy."""
        model: nn.Module = self.of(self._model)
        return model

    def of(self, original: Any) -> Any:
        """Our copy of a module, a parameter or a buffer."""
        return self._twins[id(original)][1]

    def renew(self) -> None:
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

    def empty(self) -> None:
        """Let the parameters hold nothing."""
        for original, mine in self._twins.values():
            if isinstance(original, nn.Parameter):
                mine.data = mine.data.new_empty(0)
                mine.grad = None


def _own_class(kind: type) -> type:
    """The user's class, of which ``fully_shard`` has made another."""
    from torch.distributed.fsdp import FSDPModule

    return next(base for base in kind.__mro__ if not issubclass(base, FSDPModule))


def _of_torch(hook: Any) -> bool:
    owner = getattr(hook, "__self__", None)
    return type(owner).__name__ == "FSDPState" and type(owner).__module__.startswith("torch.distributed")
