"""Step hooks of torch's optimizers, which are gone when nobody needs them, whoever is stepping meanwhile."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer

from .frames import current_frames

__all__ = ["Call", "STEP", "StepHook", "remove", "remove_late"]

STEP = Optimizer.profile_hook_step(lambda optimizer: None).__code__
"""Of the wrapper that torch puts around every ``step``."""


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a ``step``."""


class StepHook:
    """A step hook that holds its counter weakly, and returns nothing but a call with another closure."""

    def __init__(self, counter: Any, method: str) -> None:
        self.counter, self.method = weakref.ref(counter), getattr(type(counter), method)

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_dynamo_compiling():  # of a compiled step: nothing of this belongs into its graph
            _outside_the_graph(self.call, optimizer)
            return None
        counter = self.counter()  # as in `call`: of what runs after every step each call counts
        return None if counter is None else self.method(counter, optimizer, (args, kwargs))

    def call(self, optimizer: Optimizer) -> None:
        if (counter := self.counter()) is not None:
            self.method(counter, optimizer, ((), {}))


@torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
def _outside_the_graph(call: Callable[[Optimizer], object], optimizer: Optimizer) -> None:
    call(optimizer)


def remove(handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


_late: list[torch.utils.hooks.RemovableHandle] = []
"""Of counters that are gone: their hooks do nothing."""


def remove_late(*handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    """Remove the hooks of a counter that is garbage, once torch is not going through them.

    Garbage is collected at any moment, and another optimizer's step would fail if a hook vanished meanwhile.
    """
    _late.extend(itertools.chain(*handles))
    if not any(map(within_a_step, current_frames().values())):
        while _late:
            _late.pop().remove()


def within_a_step(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not STEP:
        frame = frame.f_back
    return frame is not None
