"""What we leave in a module while it is watched, and why no copy and no pickle of the module shows it.

A module is pickled, and copied, from its ``__dict__``; ``__getstate__`` tells what is in it. So while a module is
watched its class has one of ours, that leaves out what is ours, of whichever module asks: a clone that was made from
the ``__dict__`` has our attribute too. The file that ``torch.save(model)`` writes is byte for byte that of a module
that was never watched. ``torch.jit.script``, which would compile our hooks, asks for ``__prepare_scriptable__``: such a
copy.
"""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["ForwardHook", "hide", "reveal"]

_NAME = "(torch-probes)"  # in no script's way: it is no name that Python code can write
_TABLES = ("_forward_pre_hooks", "_forward_hooks")


class ForwardHook:
    """A forward hook of ours, which no copy or pickle of its module shows."""


class _Held:
    """What must live as long as the module, in its ``__dict__``."""

    def __init__(self, item: object) -> None:
        self.items = [item]
        self.stand_ins: list[_StandIn] = []

    # Of a module that is pickled or copied in a way of its own: nothing that needs this package.
    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()


class _StandIn:
    """A method of a class, in place of its own or an inherited one, as long as an instance is watched."""

    def __init__(self, of: type, name: str, method: Callable[[nn.Module, Any], Any]) -> None:
        self.of, self.name, self.method = of, name, method
        self.own = of.__dict__.get(name)
        self._watched: dict[int, weakref.ref[nn.Module]] = {}

    def __get__(self, module: nn.Module | None, of: type | None = None) -> Any:
        own = self.own.__get__(module, of) if self.own is not None else None
        if own is None and module is not None:
            own = getattr(super(self.of, module), self.name, None)
        if module is None or _held(module) is None:  # of another instance: as if we were not here
            if own is None:
                raise AttributeError(self.name)
            return own
        return partial(self.method, module, own)

    # Of a class that is pickled by what is in it, as cloudpickle does: nothing that needs this package.
    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (object, self.name)) if hasattr(object, self.name) else (OrderedDict, ())

    def watch(self, module: nn.Module) -> None:
        key = id(module)
        self._watched[key] = weakref.ref(module, lambda _: self.leave(key))
        if self.of.__dict__.get(self.name) is not self:
            setattr(self.of, self.name, self)

    def leave(self, key: int) -> None:
        """Put back what was there, with the last instance."""
        self._watched.pop(key, None)
        if not self._watched and self.of.__dict__.get(self.name) is self:
            if self.own is None:
                delattr(self.of, self.name)
            else:
                setattr(self.of, self.name, self.own)


def _held(module: nn.Module) -> _Held | None:
    held = module.__dict__.get(_NAME)
    return held if isinstance(held, _Held) else None


def _state(module: nn.Module, own: Callable[[], Any] | None) -> Any:
    """Its ``__getstate__``."""
    return _without(own() if own is not None else module.__dict__)  # object has one from Python 3.11


def _without(state: Any) -> Any:
    """The state of a module without what is ours; of classes with slots, or a state of their own, a part of a tuple."""
    if type(state) is tuple:
        parts = [_without(part) for part in state]
        return state if all(one is other for one, other in zip(parts, state, strict=True)) else tuple(parts)
    if not isinstance(state, dict) or not isinstance(state.get(_NAME), _Held):
        return state
    state = {name: value for name, value in state.items() if name != _NAME}
    for name in _TABLES:
        ours = [key for key, hook in state.get(name, {}).items() if isinstance(hook, ForwardHook)]
        for table in (name, f"{name}_with_kwargs", f"{name}_always_called") if ours else ():
            if table in state:
                left = ((key, value) for key, value in state[table].items() if key not in ours)
                state[table] = OrderedDict(left)
    return state


def _scriptable(module: nn.Module, own: Callable[[], Any] | None) -> Any:
    """The module without what is ours, of the same parameters and submodules."""
    plain: Any = copy.copy(module)
    return plain.__prepare_scriptable__() if hasattr(plain, "__prepare_scriptable__") else plain


_METHODS = {"__getstate__": _state, "__prepare_scriptable__": _scriptable}


def hide(module: nn.Module, held: object = None) -> None:
    """Keep what is ours out of copies and pickles of the module; ``held`` lives as long as it does.

    Whatever interrupts this, :func:`reveal` undoes it.
    """
    if (kept := _held(module)) is not None:
        kept.items.append(held)
        return
    kept = module.__dict__[_NAME] = _Held(held)
    of = type(module)
    plain = of.__reduce__ is object.__reduce__ and of.__reduce_ex__ is object.__reduce_ex__
    if plain and not isinstance(module, torch.jit.ScriptModule):
        for name, method in _METHODS.items():
            there = of.__dict__.get(name)
            kept.stand_ins.append(there if isinstance(there, _StandIn) else _StandIn(of, name, method))
            kept.stand_ins[-1].watch(module)


def reveal(module: nn.Module, held: object = None) -> None:
    """Undo one :func:`hide`."""
    kept = _held(module)
    if kept is not None and any(item is held for item in kept.items):
        del kept.items[next(index for index, item in enumerate(kept.items) if item is held)]
        if not kept.items:
            del module.__dict__[_NAME]
            for stand_in in kept.stand_ins:
                stand_in.leave(id(module))
