"""What modules hold beside parameters and buffers: attributes, containers, caches, generators; kept and put back."""

from __future__ import annotations

import argparse
import array
import itertools
import operator
import random
import sys
import sysconfig
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from threading import Thread
from types import MethodType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from ..probe import Probe
from .training import keep_tensors
from .undo import Undo

__all__ = ["all_modules", "keep_modules", "keep_parametrizations"]


def keep_parametrizations(undo: list[Undo]) -> None:
    """Compute parametrized weights anew: what the script has cached belongs to its graph, which is used once."""
    before = parametrize._cache_enabled, parametrize._cache

    def restore() -> None:
        parametrize._cache_enabled, parametrize._cache = before

    undo.append(restore)
    parametrize._cache_enabled, parametrize._cache = 0, {}


def all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by name, and those that it does not register, whose names begin with ``(``."""
    modules = dict(model.named_modules())
    seen = {id(module) for module in modules.values()}
    waiting: list[Any] = [module.__dict__ for module in modules.values()]
    while waiting:
        for item in list(_items(waiting.pop())):
            if type(item) in _CONTAINERS_AND_TUPLE and item and len(item) <= MANY and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)
            elif isinstance(item, nn.Module) and id(item) not in seen:
                for name, module in item.named_modules():
                    if id(module) not in seen:
                        seen.add(id(module))
                        modules[f"(hidden {len(modules)}) {name}"] = module
                        waiting.append(module.__dict__)
    return modules


def keep_modules(undo: list[Undo], modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
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
    objects: list[tuple[dict[str, Any], dict[str, Any]]] = []
    is_kept = _is_kept({type(module).__module__.partition(".")[0] for module in modules.values()})
    waiting = [
        (f"{name}.{key}" if name else key, value)
        for name, _, before in attributes
        for key, value in before.items()
        if is_kept(type(value))
    ]
    counts = _of_classes(modules.values())
    waiting += [(f"{kind.__name__}.{name}", value) for kind, name, value in counts if is_kept(type(value))]
    while waiting and len(seen) < MOST:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) is MethodType:
            waiting += [(name, value.__self__)] if is_kept(type(value.__self__)) else []
        elif type(value) in (Tensor, nn.Parameter):
            if id(value) not in registered:
                copied = value.layout is torch.strided and value.nbytes <= LARGE
                tensors.append(value) if copied else large.append((f"tensor {name!r}", value))
        elif type(value) in _GENERATORS:
            get, put = _GENERATORS[type(value)]
            undo.append(partial(put, value, get(value)))
        elif type(value) in _BYTES:
            if len(value) * getattr(value, "itemsize", 1) <= LARGE:
                undo.append(partial(_put_bytes, value, value[:]))
        elif isinstance(value, np.ndarray):
            if value.nbytes <= LARGE:
                arrays.append((value, value.copy()))
        elif type(value) in _CONTAINERS or isinstance(value, tuple):
            if not isinstance(value, tuple):
                containers.append(value)
            if len(value) <= MANY:
                waiting += [(name, item) for item in _items(value) if is_kept(type(item))]
        elif not _is_fed(value):
            if isinstance(value, dict | list | set | deque):
                containers.append(value)
            objects.append((value.__dict__, dict(value.__dict__)))
            waiting += [(f"{name}.{key}", item) for key, item in value.__dict__.items() if is_kept(type(item))]
    # Most of them are tables of hooks, and empty.
    empty = [value for value in containers if not value]
    contents = [(value, value.copy()) for value in containers if value]

    def restore() -> None:
        for own, before in itertools.chain((pair[1:] for pair in attributes), objects):
            if own.keys() != before.keys() or any(map(operator.is_not, own.values(), before.values())):
                own.clear()
                own.update(before)
        for kind, name, value in counts:
            if kind.__dict__.get(name) is not value:
                setattr(kind, name, value)
        for value in empty:
            if value:
                value.clear()
        for value, copy in contents:
            if len(value) != len(copy) or any(map(operator.is_not, _items(value), _items(copy))):
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
        if "forward" in before and "_original_forward" in before:  # accelerate's autocast is a part of the forward
            own["forward"] = before["_original_forward"]
        for name in ("_backward_hooks", "_backward_pre_hooks"):  # none of the function: they are training's
            if before.get(name):
                own[name] = type(before[name])()
    return large


_CONTAINERS = (dict, OrderedDict, defaultdict, Counter, list, set, deque)


_CONTAINERS_AND_TUPLE = {*_CONTAINERS, tuple}


_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], object]]] = {
    torch.Generator: (lambda generator: generator.get_state(), lambda generator, state: generator.set_state(state)),
    random.Random: (lambda generator: generator.getstate(), lambda generator, state: generator.setstate(state)),
    np.random.RandomState: (
        lambda generator: generator.get_state(),
        lambda generator, state: generator.set_state(state),
    ),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
}
"""How the state of a module's own generator is had and put back."""


_BYTES = (bytearray, array.array)


_NAMESPACES = (SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)
_WEAK = (WeakKeyDictionary, WeakValueDictionary)


_KEPT = {*_CONTAINERS_AND_TUPLE, *_GENERATORS, *_BYTES, *_NAMESPACES, *_WEAK, MethodType, Tensor, nn.Parameter}


MANY = 1000
"""Entries of a container beyond which what is in them is not looked at: a table of data, not what a forward leaves."""


MOST = 50_000
"""Objects that are looked at in all."""


LARGE = 4 * 2**20
"""Bytes of a tensor or an array beyond which it is not copied, unless it is a buffer."""


def _put_bytes(numbers: Any, before: Any) -> None:
    if numbers != before:
        numbers[:] = before


def _is_kept(packages: set[str]) -> Callable[[type], bool]:
    """Whether what is of a type is kept: also objects of a class that a package of the model's own classes defines, or
    code that is not installed: a helper in another file of the script's."""
    known = dict.fromkeys(_KEPT, True)
    own = packages - {"torch", "builtins"}

    def is_kept(kind: type) -> bool:
        if kind not in known:
            known[kind] = issubclass(kind, np.ndarray | tuple) or (
                (kind.__module__.partition(".")[0] in own or _is_of_script(kind.__module__))
                and getattr(kind, "__dictoffset__", 0) != 0
                and not issubclass(kind, nn.Module | Tensor | Optimizer | Probe | type)
            )
        return known[kind]

    return is_kept


def _of_classes(modules: Iterable[nn.Module]) -> list[tuple[type, str, Any]]:
    """The attributes of the script's own classes of modules that hold data: counts, caches, tables."""
    kinds = {kind for module in modules for kind in type(module).__mro__ if _is_of_script(kind.__module__)}
    return [
        (kind, name, value)
        for kind in kinds
        for name, value in kind.__dict__.items()
        if not name.startswith("__") and (value is None or type(value) in _NUMBERS or type(value) in _KEPT)
    ]


_NUMBERS = {bool, int, float, complex, str}


def _is_fed(value: Any) -> bool:
    """Whether another thread or process may change it meanwhile, as that of a loader that works ahead: it is let be."""
    held = {type(part).__module__.partition(".")[0] for part in value.__dict__.values()}
    return isinstance(value, Thread) or not held.isdisjoint(_WORKERS)


_WORKERS = {"threading", "queue", "_queue", "multiprocessing", "concurrent"}
"""Of the standard library; a lock alone is of ``_thread``, and many a counter has one."""


@lru_cache(maxsize=4096)
def _is_of_script(name: str) -> bool:
    """Whether a module by this name is no installed one, nor of ours."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name.startswith(("torch.", "probes")):
        return name == "__main__"  # of a notebook
    path = Path(file)
    return not ({"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_LIBRARY))


_LIBRARY = Path(sysconfig.get_path("stdlib"))


def _items(container: Any) -> Iterable[Any]:
    return itertools.chain(container, container.values()) if isinstance(container, dict) else container
