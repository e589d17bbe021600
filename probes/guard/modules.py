"""Attributes, containers, caches and generators of modules: kept, and put back."""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .held import (
    BYTES,
    CONTAINERS,
    GENERATORS,
    LEAVES,
    MISSING,
    MOST,
    cells_of,
    has_dict,
    in_slot,
    is_object,
    is_of_script,
    items_of,
    kept_types,
    of_classes,
    parts_of,
    slots_of,
)
from .training import keep_tensors
from .undo import Undo

__all__ = ["keep_modules", "keep_parametrizations"]


def keep_parametrizations(undo: list[Undo]) -> None:
    """Compute parametrized weights anew: what the script has cached belongs to its graph, which is used once."""
    before = parametrize._cache_enabled, parametrize._cache

    def restore() -> None:
        parametrize._cache_enabled, parametrize._cache = before

    undo.append(restore)
    parametrize._cache_enabled, parametrize._cache = 0, {}


def keep_modules(
    undo: list[Undo], modules: Mapping[str, nn.Module], given: Sequence[Any] = ()
) -> list[tuple[str, Tensor]]:
    """Keep the attributes of every module, and what is in those that are plain containers, tensors, arrays, generators.

    Hooks, parameters and modes are among them, and what a forward leaves in its module: counts, losses, caches.

    Returns:
        The tensors that are too large to be copied, with names.
    """
    attributes = [(name, module.__dict__, dict(module.__dict__)) for name, module in modules.items()]
    registered = {
        id(tensor)
        for module in modules.values()
        for tensor in itertools.chain(module._parameters.values(), module._buffers.values())
    }
    containers: list[Any] = []
    tensors: list[Tensor] = []
    arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
    large: list[tuple[str, Tensor]] = []
    seen: set[int] = set()
    objects: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
    cells: list[tuple[CellType, Any]] = []
    slots = [(slot, module, in_slot(slot, module)) for module in modules.values() for slot in slots_of(type(module))]
    is_kept = kept_types(modules.values(), given)
    waiting = [
        (f"{name}.{key}" if name else key, value)
        for name, _, before in attributes
        for key, value in before.items()
        if is_kept(type(value))
    ]
    waiting += [(slot.__name__, value) for slot, _, value in slots if is_kept(type(value))]
    waiting += [("of a batch", item) for item in given if is_kept(type(item))]
    counts = of_classes(modules.values())
    waiting += [(f"{kind.__name__}.{name}", value) for kind, name, value in counts if is_kept(type(value))]
    while waiting and len(seen) < MOST:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) not in LEAVES:
            waiting += [(name, item) for item in parts_of(value) if is_kept(type(item))]
        if type(value) in (Tensor, nn.Parameter):
            if id(value) not in registered:
                copied = value.layout is torch.strided and value.nbytes <= LARGE
                tensors.append(value) if copied else large.append((f"tensor {name!r}", value))
        elif type(value) in GENERATORS:
            get, put = GENERATORS[type(value)]
            undo.append(partial(put, value, get(value)))
        elif type(value) in BYTES:
            if len(value) * getattr(value, "itemsize", 1) <= LARGE:
                undo.append(partial(_put_bytes, value, value[:]))
        elif isinstance(value, np.ndarray):
            if value.nbytes <= LARGE:
                arrays.append((value, value.copy()))
        elif type(value) in CONTAINERS:
            containers.append(value)
        elif type(value) is FunctionType:
            cells += [(cell, cell.cell_contents) for cell in cells_of(value)]
            if is_of_script(value.__module__):
                objects.append((value, value.__dict__, dict(value.__dict__)))
        elif is_object(value):
            if isinstance(value, dict | list | set | deque):
                containers.append(value)
            slots += [(slot, value, in_slot(slot, value)) for slot in slots_of(type(value))]
            if has_dict(type(value)):
                objects.append((value, value.__dict__, dict(value.__dict__)))
    # Most of them are tables of hooks, and empty.
    empty = [value for value in containers if not value]
    contents = [(value, value.copy()) for value in containers if value]

    def restore() -> None:
        for item, own, _ in objects:
            if item.__dict__ is not own:
                object.__setattr__(item, "__dict__", own)
        for _, own, before in itertools.chain(attributes, objects):
            if own.keys() != before.keys() or any(map(operator.is_not, own.values(), before.values())):
                own.clear()
                own.update(before)
        for slot, item, value in slots:
            if in_slot(slot, item) is not value:
                slot.__delete__(item) if value is MISSING else slot.__set__(item, value)
        for kind, name, value in counts:
            if kind.__dict__.get(name) is not value:
                setattr(kind, name, value)
        for cell, content in cells:
            if cell.cell_contents is not content:
                cell.cell_contents = content
        for value in empty:
            if value:
                value.clear()
        for value, copy in contents:
            if len(value) != len(copy) or any(map(operator.is_not, items_of(value), items_of(copy))):
                value.clear()
                value.extend(copy) if isinstance(value, list | deque) else value.update(copy)
        for own_array, numbers in arrays:
            if own_array.tobytes() != numbers.tobytes():
                own_array[...] = numbers

    undo.append(restore)
    keep_tensors(undo, tensors)
    for _, own, before in attributes:
        if before.get("training"):  # a compiled part has none of its own
            own["training"] = False
        # Accelerate's autocast is a part of the forward; of one that the script has put there it is the function.
        of_accelerate = str(getattr(before.get("forward"), "__module__", "")).startswith("accelerate.")
        if of_accelerate and "_original_forward" in before:
            own["forward"] = before["_original_forward"]
        for name in ("_backward_hooks", "_backward_pre_hooks"):  # none of the function: they are training's
            if before.get(name):
                own[name] = type(before[name])()
    return large


LARGE = 4 * 2**20
"""Bytes of a tensor or an array beyond which it is not copied, unless it is a buffer."""


def _put_bytes(numbers: Any, before: Any) -> None:
    if numbers != before:
        numbers[:] = before
