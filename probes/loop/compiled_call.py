"""Seeing the calls of a module that ``model.compile()`` has compiled in place, from around what is compiled."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["COMPILED", "CompiledCall"]

COMPILED = "_compiled_call_impl"


class CompiledCall:
    """Takes the place of what ``model.compile()`` has put into a module, around which it calls our hooks."""

    def __init__(
        self, module: nn.Module, compiled: Callable[..., Any], before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        self.module, self.compiled, self.before, self.after = weakref.ref(module), compiled, before, after
        module.__dict__[COMPILED] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module()
        if module is None:
            return self.compiled(*args, **kwargs)
        self.before(module, args, kwargs)
        result = self.compiled(*args, **kwargs)
        self.after(module, args, kwargs, result)
        return result

    def remove(self) -> None:
        """Put back what was there."""
        module = self.module()
        if module is not None and module.__dict__.get(COMPILED) is self:
            module.__dict__[COMPILED] = self.compiled
