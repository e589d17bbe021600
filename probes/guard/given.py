"""What a model is given while it is measured: copies, unless it is known to leave what it is given as it is."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_structure

from ..batches import mapped, versions
from .undo import Undo

__all__ = ["keep_given"]

_leaves_them: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a model has left all that it was given as it was."""


def keep_given(undo: list[Undo], model: nn.Module) -> None:
    """Call the model with copies: it may clamp its input in place, or take entries out of a dict.

    At its first call it is seen whether it does; a model that does not is given no copies after that.
    """
    if _leaves_them.get(model) or isinstance(model, torch.jit.ScriptModule):
        return
    calls: list[tuple[Any, Any, list[int]]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _leaves_them.get(model):
            return None
        given = mapped((args, kwargs), Tensor.clone)
        calls.append((given, tree_structure(given), versions(given)))
        return given

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if calls:
            given, structure, then = calls.pop()
            left = tree_structure(given) == structure and versions(given) == then
            _leaves_them[model] = left and _leaves_them.get(model, True)

    handles = [model.register_forward_pre_hook(before, prepend=True, with_kwargs=True)]
    undo.append(handles[0].remove)
    handles.append(model.register_forward_hook(after, with_kwargs=True, always_call=True))
    undo.append(handles[1].remove)
