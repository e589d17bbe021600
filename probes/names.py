"""Names of layers and parameters as the model of the script has them, compiled in part or not."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["named_modules", "plain_name"]

COMPILED = "_orig_mod"
"""What torch.compile calls the module that it wraps, as one of the wrapper's."""


def plain_name(name: str) -> str:
    """The name without the wrappers of ``torch.compile`` in it.

    Example:
        >>> plain_name("encoder._orig_mod.0.weight")
        'encoder.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != COMPILED)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model as ``model.named_modules()`` has them, by their plain names; no wrappers of compiled ones.

    Example:
        >>> [name for name, _ in named_modules(nn.Sequential(nn.Linear(2, 1)))]
        ['', '0']
    """
    for name, module in model.named_modules():
        if COMPILED not in module._modules:
            yield plain_name(name), module
