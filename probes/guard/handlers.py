"""What a signal handler of the script raises is the script's: it passes whatever of ours or of a probe it meets."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

__all__ = ["handlers_pass", "raised_by_handler", "suppressed"]


class _Raised(BaseException):
    """An exception of a handler, on its way through code that may catch every ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def handlers_pass(wanted: bool = True) -> Iterator[None]:
    """Let exceptions of the script's signal handlers (a time limit, a preemption) pass every ``except Exception``.

    A probe that tries whether a model can be called would take them for the model's. Each handler is called as ever, by
    one of ours that is in its place meanwhile. What Python itself drops, in a finalizer, comes at the end.
    """
    ours: dict[signal.Signals, tuple[Any, Callable[..., Any]]] = {}
    raised: list[Exception] = []
    try:
        if wanted and threading.current_thread() is threading.main_thread():
            for number, handler in _handlers():
                if str(getattr(handler, "__module__", "")).startswith(("asyncio.", "probes.")):
                    continue  # that of asyncio does nothing, and ours knows where it is called from
                ours[number] = handler, _passing(handler, raised)
                signal.signal(number, ours[number][1])
        yield
    except BaseException:
        if not raised:
            raise
    finally:
        for number, (handler, passing) in ours.items():
            if signal.getsignal(number) is passing:  # or else the handler has set another
                signal.signal(number, handler)
    if raised:
        raise raised.pop(0)  # or its frames would hold it


class suppressed:
    """``contextlib.suppress(Exception)``, but for what signal handlers raise: where there is no time to let it pass."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Exception) and not raised_by_handler(error)


def raised_by_handler(error: BaseException) -> bool:
    """Whether an exception comes from a signal handler that is set."""
    if isinstance(error, _Raised):
        return True
    codes, trace = set[CodeType](), error.__traceback__
    for _, handler in _handlers():
        while isinstance(handler, functools.partial):
            handler = handler.func
        for function in (handler, getattr(handler, "__func__", None), getattr(type(handler), "__call__", None)):  # noqa: B004
            if isinstance(function, FunctionType):
                codes.add(function.__code__)
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[tuple[signal.Signals, Any]]:
    """Those that are functions, but for Python's own, which raises what is no ``Exception``."""
    for number in signal.Signals:
        handler: Any = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            yield number, handler


def _passing(handler: Callable[..., Any], raised: list[Exception]) -> Callable[..., Any]:
    def passing(number: int, frame: Any) -> Any:
        try:
            return handler(number, frame)
        except _Raised as error:  # within another call of ours
            raised.append(error.error)
            raise
        except Exception as error:
            raised.append(error)
            raise _Raised(error) from None

    return passing
