"""Which exceptions are the user's own."""

from __future__ import annotations

import functools
import signal
from types import CodeType, FunctionType
from typing import Any

__all__ = ["codes_of_handlers"]


def codes_of_handlers() -> set[CodeType]:
    """The code of every signal handler that is set."""
    codes = set()
    for number in signal.Signals:
        handler: Any = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        for function in (handler, getattr(handler, "__func__", None), getattr(type(handler), "__call__", None)):  # noqa: B004
            if isinstance(function, FunctionType):
                codes.add(function.__code__)
    return codes
