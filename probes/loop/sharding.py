"""Models of which no rank holds all parameters: whether one is, and whether it can be measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["distributed", "in_parts", "is_sharded", "ranks", "refusal"]


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


def in_parts(model: nn.Module) -> bool:
    """Whether no rank holds the model in whole, so that a look at its parameters may be a collective."""
    return any(True for _ in distributed(model)) or bool(refusal(model, model))


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
