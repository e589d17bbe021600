"""What a turn of a probe costs: seconds, and the memory of the tensors that it makes."""

from __future__ import annotations

import functools
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..measurement import Measurement
from .trials import Trial

__all__ = ["Allocated", "Cost", "turn_cost"]


class Cost(NamedTuple):
    """What a turn costs, with so many samples."""

    samples: int
    first: float
    """Seconds of the first turn."""
    later: float
    """Seconds of a later one."""
    memory: int
    """Largest number of bytes of tensors there at once, beside those that were there before."""


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that come into being within it, until they go; not what operators use within.

    Example:
        >>> before = torch.zeros(5000)
        >>> with Allocated() as allocated:
        ...     view = before[1:]
        ...     for _ in range(3):
        ...         x = torch.zeros(1000)
        ...         del x
        >>> allocated.peak, allocated.now
        (4000, 0)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, and look at what it returns."""
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_plain(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not _is_plain(leaf):
                continue
            storage = leaf.untyped_storage()
            if storage._cdata not in given and storage not in self._seen:  # else it is a view
                self._seen.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def turn_cost(make: Callable[[], Trial]) -> Cost:
    """Time of the turns of one trial, and memory of those of another one: to look at memory takes time.

    Args:
        make: Makes a trial with a probe.

    Raises:
        Exception: What the probe raises.
    """
    seconds: list[float] = []
    peaks: list[int] = []

    def timed(call: Callable[[], Any]) -> None:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)

    def weighed(call: Callable[[], Any]) -> None:
        with Allocated() as allocated:
            call()
        peaks.append(allocated.peak)

    for meter in (timed, weighed):
        trial = make()
        _metered(trial.probe, meter)
        trial.run()
        if trial.error is not None:
            raise trial.error
    return Cost(trial.samples, seconds[0], statistics.median(seconds[1:] or seconds), max(peaks))


def _metered(probe: Any, meter: Callable[[Callable[[], Any]], None]) -> None:
    """Let every turn of a probe be called by a meter."""
    original = probe.measure

    @functools.wraps(original)
    def measure(*arguments: Any) -> list[Any]:
        taken: list[Any] = []

        def turn() -> None:
            items = original(*arguments)
            taken.extend([items] if isinstance(items, Measurement) else items or ())

        meter(turn)
        return taken

    probe.measure = measure


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided and not leaf.is_meta
