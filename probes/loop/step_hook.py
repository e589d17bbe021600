"""Step hooks of torch's optimizers, which are gone when nobody needs them, whoever is stepping meanwhile."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer

from ..guard.undo import Undo, keep_others_out, undo_all
from .frames import current_frames

__all__ = [
    "Call", "STEP", "StepHook", "between_steps", "closure_of", "remove", "remove_late", "stepping", "with_closure",
]  # fmt: skip

STEP = Optimizer.profile_hook_step(lambda optimizer: None).__code__
"""Of the wrapper that torch puts around every ``step``."""


_compiling: Callable[[], Any] = getattr(
    getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None), "get_eval_frame_callback", lambda: None
)
"""What compiles the frames that are called from here, if anything does."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a ``step``."""
WAITS = 1000
"""Milliseconds for which attaching waits for the steps of other threads."""


class StepHook:
    """A step hook that holds its counter weakly, and returns nothing but a call with another closure."""

    def __init__(self, counter: Any, method: str) -> None:
        self.counter, self.method = weakref.ref(counter), getattr(type(counter), method)

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_dynamo_compiling():  # of a compiled step: nothing of this belongs into its graph
            _outside_the_graph(self.call, optimizer)
            return None
        if callable(_compiling()):  # in a frame that Dynamo has left: it would compile all that is called from here
            _outside_the_graph(self.call, optimizer)
            return None
        counter = self.counter()  # as in `call`: of what runs after every step each call counts
        if counter is None or counter.closed:
            return None
        try:
            return self.method(counter, optimizer, (args, kwargs))
        except Exception as error:  # an optimizer that is like no other
            counter.fail(error)
            return None

    def call(self, optimizer: Optimizer) -> None:
        if (counter := self.counter()) is not None and not counter.closed:
            counter.compiled = True
            try:
                self.method(counter, optimizer, ((), {}))
            except Exception as error:
                counter.fail(error)


@torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
def _outside_the_graph(call: Callable[[Optimizer], object], optimizer: Optimizer) -> None:
    call(optimizer)


def remove(handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


_late: list[torch.utils.hooks.RemovableHandle] = []
"""Of counters that have ended: their hooks do nothing."""


def remove_late(*handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    """Remove the hooks of a counter that has ended, once torch is not going through them.

    It may end at any moment, within a hook of the user's or as garbage, and the step of whatever optimizer, on
    whatever thread, would fail if a hook vanished meanwhile.
    """
    _late.extend(itertools.chain(*handles))
    if not stepping():
        while _late:
            _late.pop().remove()


@contextmanager
def between_steps() -> Iterator[None]:
    """When hooks can be registered: while no thread is within a step, as far as that can be waited for.

    Raises:
        RuntimeError: If this thread is within one.
    """
    if within_a_step(sys._getframe()):
        raise RuntimeError(
            "attach() was called within the step of an optimizer, where no hook can be added. Call it before the loop."
        )
    undo: list[Undo] = []
    try:
        keep_others_out(undo)
        for _ in range(WAITS):
            if not stepping(others=True):
                break
            time.sleep(0.001)
        yield
    finally:
        undo_all(undo)


def stepping(others: bool = False) -> bool:
    """Whether a thread is within a step of an optimizer; with ``others``, one that is not this one."""
    frames = current_frames()
    frames.pop(threading.get_ident(), None)  # kept here, this frame would hold itself, and all that called it
    return (not others and within_a_step(sys._getframe())) or any(map(within_a_step, frames.values()))


def within_a_step(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not STEP:
        frame = frame.f_back
    return frame is not None


def with_closure(call: Call, then: Callable[[], None]) -> Call | None:
    """The same call with a closure that calls ``then`` once, after its first call; None if there is no closure."""
    args, kwargs = call
    if (closure := closure_of(call)) is None:
        return None
    waiting = [then]

    def first(*given: Any, **named: Any) -> Any:
        result = closure(*given, **named)
        if waiting:
            waiting.pop()()
        return result

    if "closure" in kwargs:
        return args, {**kwargs, "closure": first}
    return (args[0], first, *args[2:]), kwargs


def closure_of(call: Call) -> Callable[..., Any] | None:
    args, kwargs = call
    closure = kwargs["closure"] if "closure" in kwargs else next(iter(args[1:]), None)
    return closure if callable(closure) else None
