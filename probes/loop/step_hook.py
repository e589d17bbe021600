"""Step hooks of torch's optimizers, which are gone when nobody needs them, whoever is stepping meanwhile."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle

from ..guard.undo import Undo, keep_others_out, undo_all
from .frames import current_frames

__all__ = ["POST", "PRE", "STEP", "Call", "StepHook", "begin", "closure_of", "forget", "stepping", "with_closure"]

STEP = Optimizer.profile_hook_step(lambda optimizer: None).__code__
"""Of the wrapper that torch puts around every ``step``."""


_compiling: Callable[[], Any] = getattr(
    getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None), "get_eval_frame_callback", lambda: None
)
"""What compiles the frames that are called from here, if anything does."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a ``step``."""
PATIENCE = 60.0
"""Seconds for which attaching waits for the steps of other threads."""


class StepHook:
    """What torch calls at the steps of all optimizers: one hook for all counters, which it holds weakly.

    They come and go while other threads step, which a table that torch is going through does not survive. It returns
    nothing but a call with another closure.
    """

    def __init__(self, table: dict[int, Any], method: str) -> None:
        self._table, self._method = table, method
        self._id = RemovableHandle(table).id
        self._counters: dict[int, weakref.ref[Any]] = {}

    @property
    def free(self) -> bool:
        """Whether a counter can be added, also in a step that is over: torch has the hook, or is not going through its
        table."""
        return self._id in self._table or not self._table or not stepping(own=1)

    @property
    def idle(self) -> bool:
        """Whether torch has the hook for nobody."""
        return self._id in self._table and not self._counters

    def add(self, counter: object) -> None:
        self._counters[id(counter)] = weakref.ref(counter)  # first: who leaves just now sees it
        if self._id not in self._table:
            self._table[self._id] = self

    def discard(self, counter: int) -> None:
        """Call a counter no more, given its id."""
        self._counters.pop(counter, None)

    def leave(self) -> None:
        """Out of torch's table, if nobody needs it."""
        if self.idle:
            self._table.pop(self._id, None)
            if self._counters:  # of another thread, which came meanwhile
                self._table[self._id] = self

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Of a compiled step nothing belongs into its graph; of a frame that Dynamo has left it would compile the rest.
        if is_dynamo_compiling() or callable(_compiling()):
            _outside_the_graph(self.call, optimizer)
            return None
        changed = None
        for reference in list(self._counters.values()):  # as in `call`: of what runs after every step each call counts
            counter = reference()
            if counter is None or counter.closed or counter.work.busy:
                continue
            try:
                changed = getattr(counter, self._method)(optimizer, (args, kwargs)) or changed
            except Exception as error:  # an optimizer that is like no other
                counter.fail(error)
            if changed is not None:
                args, kwargs = changed
        return changed

    def call(self, optimizer: Optimizer) -> None:
        for reference in list(self._counters.values()):
            if (counter := reference()) is not None and not (counter.closed or counter.work.busy):
                counter.compiled = True
                try:
                    getattr(counter, self._method)(optimizer, ((), {}))
                except Exception as error:
                    counter.fail(error)


PRE = StepHook(_global_optimizer_pre_hooks, "_before")
POST = StepHook(_global_optimizer_post_hooks, "_after")


@torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
def _outside_the_graph(call: Callable[[Optimizer], object], optimizer: Optimizer) -> None:
    call(optimizer)


def begin(counter: object) -> None:
    """Have both hooks call a counter, once no other thread is within a step, where that must be waited for.

    Raises:
        RuntimeError: If this thread is within one, or another for a minute.
    """
    if steps_within(sys._getframe()):
        raise RuntimeError(
            "attach() was called within the step of an optimizer, where no hook can be added. Call it before the loop."
        )
    end = time.monotonic() + PATIENCE
    while not _added(counter):  # not within the guard, which the step of the other thread may wait for
        if time.monotonic() > end:
            raise RuntimeError(
                f"attach() waited {PATIENCE:g} seconds for the step of an optimizer in another thread, which no hook "
                f"can be added to. Call it before that training, or when a hook of yours there has returned."
            )
        time.sleep(0.001)
    tidy()


def _added(counter: object) -> bool:
    undo: list[Undo] = []
    try:
        keep_others_out(undo)
        if not (PRE.free and POST.free):
            return False
        PRE.add(counter)
        POST.add(counter)
        return True
    finally:
        undo_all(undo)


def forget(counter: int) -> None:
    """Call a counter that has ended no more, given its id.

    It may end at any moment, within a hook of the user's or as garbage, and the step of whatever optimizer, on
    whatever thread, would fail if a hook vanished meanwhile: it goes once torch is not going through the hooks.
    """
    PRE.discard(counter)
    POST.discard(counter)
    tidy()


def tidy() -> None:
    """Take the hooks that nobody needs out of torch's tables, unless it is going through them."""
    if (PRE.idle or POST.idle) and not stepping():
        PRE.leave()
        POST.leave()


def stepping(own: int = 0) -> bool:
    """Whether a thread is within the step of an optimizer, this one within more than ``own``, one in the other."""
    frames = current_frames()
    frames.pop(threading.get_ident(), None)  # kept here, this frame would hold itself, and all that called it
    return steps_within(sys._getframe()) > own or any(map(steps_within, frames.values()))


def steps_within(frame: FrameType | None) -> int:
    """How many steps a frame is within."""
    count = 0
    while frame is not None:
        count, frame = count + (frame.f_code is STEP), frame.f_back
    return count


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
