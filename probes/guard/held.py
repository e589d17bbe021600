"""What a model holds beside parameters and buffers: its modules, and all that may keep a state of theirs."""

from __future__ import annotations

import argparse
import array
import itertools
import random
import sys
import sysconfig
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from threading import Thread
from types import CellType, FunctionType, MappingProxyType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..probe import Probe

__all__ = [
    "BYTES",
    "CONTAINERS",
    "GENERATORS",
    "LEAVES",
    "MISSING",
    "MOST",
    "all_modules",
    "cells_of",
    "PLUGINS",
    "has_dict",
    "in_slot",
    "is_object",
    "is_of_script",
    "items_of",
    "kept_types",
    "of_classes",
    "parts_of",
    "slots_of",
]


def all_modules(model: nn.Module, given: Sequence[Any] = ()) -> dict[str, nn.Module]:
    """The modules of a model by name, and those that it does not register or is given, whose names begin with ``(``."""
    modules = dict(model.named_modules())
    seen = {id(module) for module in modules.values()}
    is_kept = kept_types(modules.values(), given)
    waiting: list[Any] = [*(module.__dict__ for module in modules.values()), list(given)]
    while waiting and len(seen) < MOST:
        for item in list(parts_of(waiting.pop())):
            kind = type(item)
            if kind in LEAVES or (kind in _CONTAINERS_AND_TUPLE and not item):
                continue
            if isinstance(item, nn.Module):
                for name, module in item.named_modules() if id(item) not in seen else ():
                    if id(module) not in seen:
                        seen.add(id(module))
                        modules[f"(hidden {len(modules)}) {name}"] = module
                        waiting.append(module.__dict__)
            elif is_kept(kind) and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)
    return modules


CONTAINERS = (dict, OrderedDict, defaultdict, Counter, list, set, deque)


_CONTAINERS_AND_TUPLE = {*CONTAINERS, tuple}


GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], object]]] = {
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


BYTES = (bytearray, array.array)


_NAMESPACES = (SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)


_WEAK = (WeakKeyDictionary, WeakValueDictionary)


LEAVES = {*GENERATORS, *BYTES, Tensor, nn.Parameter, np.ndarray, bool, int, float, str, type(None)}


_CALLED = (MethodType, FunctionType, partial)


_PLAIN = {*_CONTAINERS_AND_TUPLE, *GENERATORS, *BYTES, *_CALLED, MappingProxyType, Tensor, nn.Parameter}


_KEPT = {*_PLAIN, *_NAMESPACES, *_WEAK}


MANY = 1000
"""Entries of a container beyond which what is in them is not looked at: a table of data, not what a forward leaves."""


MOST = 50_000
"""Objects that are looked at in all."""


def parts_of(value: Any) -> Iterable[Any]:
    """What may be changed by who has a value: entries of containers and objects, what functions are called with."""
    kind = type(value)
    if kind is MethodType:
        return (value.__self__,)
    if kind is partial:
        return (value.func, *value.args, *value.keywords.values())
    if kind is FunctionType:
        given = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return (*(cell.cell_contents for cell in cells_of(value)), *given)
    if kind in CONTAINERS or isinstance(value, tuple | MappingProxyType):
        return items_of(value) if len(value) <= MANY else ()
    return _attributes(value) if is_object(value) else ()


def _attributes(value: Any) -> Iterable[Any]:
    slots = (in_slot(slot, value) for slot in slots_of(type(value)))
    return itertools.chain(value.__dict__.values() if has_dict(type(value)) else (), slots)


def has_dict(kind: type) -> bool:
    """Whether objects of a class have a ``__dict__``; the object itself may answer anything."""
    return getattr(kind, "__dictoffset__", 0) != 0


def slots_of(kind: type) -> tuple[MemberDescriptorType, ...]:
    """Where objects of a class with ``__slots__`` keep what is not in their ``__dict__``."""
    own = [of.__dict__.values() for of in kind.__mro__ if "__slots__" in of.__dict__]
    return tuple(value for values in own for value in values if isinstance(value, MemberDescriptorType))


MISSING = object()
"""In place of what a slot holds that is empty."""


def in_slot(slot: MemberDescriptorType, value: Any) -> Any:
    """What is in a slot of an object."""
    try:
        return slot.__get__(value)
    except AttributeError:
        return MISSING


def is_object(value: Any) -> bool:
    """Whether it is one whose attributes are kept."""
    return type(value) not in _PLAIN and not isinstance(value, tuple | np.ndarray) and not _is_fed(value)


def cells_of(function: FunctionType) -> list[CellType]:
    """Where a function of the script keeps what it closes over; libraries have caches there."""
    cells = function.__closure__ or () if is_of_script(function.__module__) else ()
    return [cell for cell in cells if _is_full(cell)]


def _is_full(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # of what is not defined yet
        return False
    return True


def kept_types(modules: Iterable[nn.Module], given: Iterable[Any] = ()) -> Callable[[type], bool]:
    """Whether what is of a type is kept: also objects of a class that a package of the model's own classes defines, or
    of those of what it is given, or code that is not installed: a helper in another file of the script's."""
    known = dict.fromkeys(_KEPT, True)
    own = {type(module).__module__.partition(".")[0] for module in modules} - {"torch"}
    own = (own | {type(item).__module__.partition(".")[0] for item in given}) - {"builtins"}

    def is_kept(kind: type) -> bool:
        if kind not in known:
            known[kind] = issubclass(kind, np.ndarray | tuple) or (
                (kind.__module__.partition(".")[0] in own or is_of_script(kind.__module__))
                and (has_dict(kind) or bool(slots_of(kind)))
                and not issubclass(kind, nn.Module | Tensor | Optimizer | Probe | type)
                and kind not in PLUGINS
            )
        return known[kind]

    return is_kept


def of_classes(modules: Iterable[nn.Module]) -> list[tuple[type, str, Any]]:
    """The attributes of the script's own classes of modules that hold data: counts, caches, tables."""
    kinds = {kind for module in modules for kind in type(module).__mro__ if is_of_script(kind.__module__)}
    return [
        (kind, name, value)
        for kind in kinds
        for name, value in kind.__dict__.items()
        if not name.startswith("__") and (value is None or type(value) in _NUMBERS or type(value) in _KEPT)
    ]


PLUGINS: WeakSet[type] = WeakSet()
"""Of what kinds probes and sinks are: what they keep is theirs, also where the model refers to them."""


_NUMBERS = {bool, int, float, complex, str}


def _is_fed(value: Any) -> bool:
    """Whether another thread or process may change it meanwhile, as that of a loader that works ahead: it is let be."""
    held = {type(part).__module__.partition(".")[0] for part in _attributes(value)}
    return isinstance(value, Thread) or not held.isdisjoint(_WORKERS)


_WORKERS = {"threading", "queue", "_queue", "multiprocessing", "concurrent"}
"""Of the standard library; a lock alone is of ``_thread``, and many a counter has one."""


@lru_cache(maxsize=4096)
def is_of_script(name: str) -> bool:
    """Whether a module by this name is no installed one, nor of ours."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name.startswith(("torch.", "probes")):
        return name == "__main__"  # of a notebook
    path = Path(file)
    return not ({"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_LIBRARY))


_LIBRARY = Path(sysconfig.get_path("stdlib"))


def items_of(container: Any) -> Iterable[Any]:
    named = isinstance(container, dict | MappingProxyType)
    return itertools.chain(container, container.values()) if named else container
