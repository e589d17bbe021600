"""Names of layers and parameters as the model of the script has them, compiled in part or not; and of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .measurement import CannotMeasure

__all__ = ["as_file", "call_at", "check_layers", "hookable_modules", "named_modules", "own_parameters", "plain_name"]

LONGEST = 255
"""Bytes of the name of a file."""
COMPILED = "_orig_mod"
"""What torch.compile calls the module that it wraps, as one of the wrapper's."""


def plain_name(name: str) -> str:
    """The name without the wrappers of ``torch.compile`` in it.

    Example:
        >>> plain_name("encoder._orig_mod.0.weight")
        'encoder.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != COMPILED)


def as_file(name: str, ending: str) -> str:
    """The name of a stream as the path of a file: of a part that no file system takes, a mark instead of the end.

    Example:
        >>> as_file("ntk/alignment", ".csv")
        'ntk/alignment.csv'
        >>> len(as_file("x" * 300, ".csv"))
        255
    """
    *folders, last = name.split("/")
    return "/".join([*(_shortened(part, "") for part in folders), _shortened(last, ending)])


def _shortened(part: str, ending: str) -> str:
    if len(f"{part}{ending}".encode()) <= LONGEST:
        return f"{part}{ending}"
    mark = "_" + hashlib.blake2b(part.encode(), digest_size=4).hexdigest()
    return part.encode()[: LONGEST - len(mark + ending)].decode(errors="ignore") + mark + ending


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model as ``model.named_modules()`` has them, by their plain names; no wrappers of compiled ones.

    Example:
        >>> [name for name, _ in named_modules(nn.Sequential(nn.Linear(2, 1)))]
        ['', '0']
    """
    for name, module in model.named_modules():
        if COMPILED not in module._modules:
            yield plain_name(name), module


def hookable_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those of :func:`named_modules` that forward hooks can be put on: none that TorchScript has compiled.

    Example:
        >>> [name for name, _ in hookable_modules(nn.Sequential(nn.Linear(2, 1)))]
        ['', '0']
    """
    return (item for item in named_modules(model) if not isinstance(item[1], torch.jit.ScriptModule))


def check_layers(layers: Iterable[str], modules: Mapping[str, nn.Module]) -> None:
    """Refuse names of layers that are none of these :func:`hookable_modules`.

    Raises:
        CannotMeasure: If there is one, with those that there are.

    Example:
        >>> check_layers(["last"], {"": nn.Identity(), "first": nn.Identity()})
        Traceback (most recent call last):
            ...
        probes.measurement.CannotMeasure: `layers` must be names of modules of the model, got 'last'. It has: first.
    """
    if unknown := [name for name in layers if name not in modules]:
        raise CannotMeasure(
            f"`layers` must be names of modules of the model, got {', '.join(map(repr, unknown))}. It has: "
            f"{', '.join(name for name in modules if name)}."
        )


def call_at(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Any:
    """``torch.func.functional_call``, also of a module that stands in several places, or in itself.

    Torch leaves the given tensors in the first, and asks for a ``named_parameters()`` as torch's own.

    Args:
        tensors: In place of parameters and buffers, by name; one that has several names is given by any of them.

    Example:
        >>> call_at(nn.Linear(1, 1, bias=False), {"weight": torch.full((1, 1), 3.0)}, (torch.ones(1, 1),), {}).item()
        3.0
    """
    names: dict[int, list[str]] = {}
    for prefix, part in nn.Module.named_modules(module):
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), []).append(f"{prefix}.{name}".removeprefix("."))
    same = {name: several for several in names.values() if len(several) > 1 for name in several}
    every = {other: tensor for name, tensor in tensors.items() for other in same.get(name, ())} | dict(tensors)
    return torch.func.functional_call(module, every, args, kwargs, tie_weights=False)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a module registers itself, by name, also where its class has another ``parameters()``.

    Example:
        >>> list(own_parameters(nn.Linear(2, 1))), own_parameters(nn.Sequential(nn.Linear(2, 1)))
        (['weight', 'bias'], {})
    """
    return dict(nn.Module.named_parameters(module, recurse=False))
