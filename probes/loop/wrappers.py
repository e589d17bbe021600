"""What wraps a model or an optimizer: DataParallel, DDP, ``torch.compile``, accelerate; and what is inside."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer

__all__ = ["given_optimizers", "shares_parameters", "unwrap_model", "unwrap_optimizer", "wrappers"]


def wrappers(model: nn.Module) -> list[nn.Module]:
    """The DataParallel, DDP and ``torch.compile`` wrappers around the user's own module, and that module."""
    inner = None
    with suppress(Exception):  # of a model that answers for what it has not
        inner = getattr(model, "_orig_mod", None)
    if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = model.module
    return [model, *wrappers(inner)] if isinstance(inner, nn.Module) else [model]


def unwrap_model(model: nn.Module) -> nn.Module:
    """The user's own module, without DataParallel, DDP and ``torch.compile`` wrappers."""
    return wrappers(model)[-1]


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer itself, without the wrapper that a framework put around it.

    Raises:
        TypeError: If it is not a torch optimizer.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer (or a subclass that calls its __init__), got "
            f"{type(optimizer).__name__}. Steps are counted in its step hook."
        )
    return optimizer


def shares_parameters(optimizer: Optimizer, model: nn.Module | None) -> bool:
    """Whether the optimizer holds a parameter of the model."""
    if model is None:
        return False
    own = set(map(id, model.parameters()))
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])


def given_optimizers(given: Any, model: nn.Module) -> list[Optimizer]:
    """The torch optimizers that a user has passed: one, several or none.

    Raises:
        TypeError, ValueError: If one is none, or trains another model.
    """
    several = given if isinstance(given, list | tuple) else [] if given is None else [given]
    optimizers = [unwrap_optimizer(item) for item in several]
    for item in optimizers:
        if not shares_parameters(item, model):
            raise ValueError(
                f"`optimizer` ({type(item).__name__}) holds no parameter of the watched model "
                f"({type(model).__name__}). Pass the optimizer that trains this model."
            )
    return optimizers
