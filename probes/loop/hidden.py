"""What we leave in a module while it is watched, and why no copy and no pickle of the module shows it.

A module is pickled, and copied, from its ``__dict__``; ``__getstate__``, which is looked up on the instance first,
tells what is in it. So while we are attached the module has one of its own, that leaves out itself and our forward
hooks: the file that ``torch.save(model)`` writes is byte for byte that of a module that was never watched.
``torch.jit.script``, which would compile our hooks, asks the instance for ``__prepare_scriptable__``: such a copy.
"""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from typing import Any

from torch import nn

__all__ = ["ForwardHook", "hide", "reveal"]

_OWN, _OTHER, _SCRIPT = "__getstate__", "_probes", "__prepare_scriptable__"
_TABLES = ("_forward_pre_hooks", "_forward_hooks")


class ForwardHook:
    """A forward hook of ours, which no copy or pickle of its module shows."""


class _State:
    """The ``__getstate__`` of a watched module; holds what must live as long as the module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        self.held: list[object] = []

    def __call__(self) -> Any:
        module = self.module()
        own = getattr(type(module), "__getstate__", None)  # object has one from Python 3.11
        state = own(module) if own is not None else module.__dict__
        if not isinstance(state, dict) or state.get(_OWN) is not self:
            return state
        state = {name: value for name, value in state.items() if value is not self and value != self.scriptable}
        for name in _TABLES:
            ours = [key for key, hook in state.get(name, {}).items() if isinstance(hook, ForwardHook)]
            for table in (name, f"{name}_with_kwargs", f"{name}_always_called") if ours else ():
                if table in state:
                    left = ((key, value) for key, value in state[table].items() if key not in ours)
                    state[table] = OrderedDict(left)
        return state

    def scriptable(self) -> Any:
        """The module without what is ours, of the same parameters and submodules."""
        plain: Any = copy.copy(self.module())
        return plain.__prepare_scriptable__() if hasattr(plain, _SCRIPT) else plain

    # Of a module that is pickled or copied in a way of its own: nothing that needs this package.
    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()


def hide(module: nn.Module, held: object = None) -> None:
    """Keep what is ours out of copies and pickles of the module; ``held`` lives as long as it does."""
    plain = type(module).__reduce__ is object.__reduce__ and type(module).__reduce_ex__ is object.__reduce_ex__
    name = _OWN if plain and not hasattr(type(module), "__deepcopy__") else _OTHER
    state = module.__dict__.setdefault(name, _State(module))
    if isinstance(state, _State):
        state.held.append(held)
        if name == _OWN:
            module.__dict__.setdefault(_SCRIPT, state.scriptable)


def reveal(module: nn.Module, held: object = None) -> None:
    """Undo one :func:`hide`."""
    for name in (_OWN, _OTHER):
        state = module.__dict__.get(name)
        if isinstance(state, _State) and any(item is held for item in state.held):
            del state.held[next(index for index, item in enumerate(state.held) if item is held)]
            if not state.held:
                del module.__dict__[name]
                module.__dict__.pop(_SCRIPT, None)
            return
