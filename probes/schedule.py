"""When a probe is due: every n steps, log-spaced steps, given steps, and their unions."""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["Schedule", "at", "every", "log_spaced"]


class Schedule:
    """A set of steps at which to measure; ``a | b`` is their union."""

    def next(self, after: int) -> int | None:
        """The first due step greater than ``after``; None when there is none."""
        raise TypeError(f"{type(self).__name__} must implement next(after).")

    def __contains__(self, step: int) -> bool:
        return self.next(step - 1) == step

    def __or__(self, other: Schedule) -> Schedule:
        if not isinstance(other, Schedule):
            return NotImplemented
        return _Union(self, other)


class _Union(Schedule):
    def __init__(self, *parts: Schedule) -> None:
        self.parts = parts

    def next(self, after: int) -> int | None:
        return min((step for part in self.parts if (step := part.next(after)) is not None), default=None)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


class _Every(Schedule):
    def __init__(self, n: int, start: int) -> None:
        self.n, self.start = n, start

    def next(self, after: int) -> int | None:
        return self.start + max(0, (after - self.start) // self.n + 1) * self.n

    def __repr__(self) -> str:
        return f"every({self.n})" if self.start == 0 else f"every({self.n}, start={self.start})"


class _At(Schedule):
    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = sorted(set(steps))

    def next(self, after: int) -> int | None:
        index = bisect.bisect_right(self.steps, after)
        return self.steps[index] if index < len(self.steps) else None

    def __repr__(self) -> str:
        return f"at({self.steps})"


class _LogSpaced(Schedule):
    def __init__(self, base: float, factor: float) -> None:
        self.base, self.factor = base, factor
        self._steps = [0]
        self._exponent = 0

    def next(self, after: int) -> int | None:
        while self._steps[-1] <= after:
            step = int(self.base * self.factor**self._exponent)
            self._exponent += 1
            if step > self._steps[-1]:
                self._steps.append(step)
            else:  # int() repeats small values; to the last exponent that does not lead beyond the next step
                exponent = math.log((self._steps[-1] + 1) / self.base) / math.log(self.factor)
                self._exponent = max(self._exponent, int(exponent) - 1)
        return self._steps[bisect.bisect_right(self._steps, after)]

    def __repr__(self) -> str:
        return f"log_spaced({self.base:g}, {self.factor:g})"


def _integer(value: Any) -> int | None:
    """An integer, also one of numpy or torch; None of anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def every(n: int, start: int = 0) -> Schedule:
    """Due at ``start``, ``start + n``, ``start + 2 n``, ...

    Raises:
        ValueError: If ``n`` is not a positive integer or ``start`` is negative.

    Example:
        >>> [step for step in range(10) if step in every(4)]
        [0, 4, 8]
    """
    if (_integer(n) or 0) < 1:
        raise ValueError(f"`n` of every(n) must be a positive integer, got {n!r}.")
    if (first := _integer(start)) is None or first < 0:
        raise ValueError(f"`start` of every(n, start) must be a step, 0 or greater, got {start!r}.")
    return _Every(operator.index(n), first)


def log_spaced(base: float = 5, factor: float = 1.15) -> Schedule:
    r"""Due at step 0 and at :math:`\lfloor \text{base} \cdot \text{factor}^k \rfloor`, k = 0, 1, 2, ...: dense at
    first, when things happen, then ever more rarely. The default is the schedule of the thesis' chapter 4.

    Raises:
        ValueError: If ``base`` is less than 1 or ``factor`` is not greater than 1.

    Example:
        >>> [step for step in range(20) if step in log_spaced()]
        [0, 5, 6, 7, 8, 10, 11, 13, 15, 17]
    """
    if not (hasattr(base, "__float__") and base >= 1):
        raise ValueError(f"`base` of log_spaced(base, factor) must be a number of at least 1, got {base!r}.")
    if not (hasattr(factor, "__float__") and factor > 1):
        raise ValueError(f"`factor` of log_spaced(base, factor) must be a number greater than 1, got {factor!r}.")
    return _LogSpaced(base, factor)


def at(steps: Iterable[int]) -> Schedule:
    """Due at the given steps only.

    Raises:
        ValueError: If there is no step, or one is not an integer, 0 or greater.

    Example:
        >>> at([100, 10]).next(after=10)
        100
    """
    given = [steps] if _integer(steps) is not None else list(steps)
    found = [step for step in map(_integer, given) if step is not None and step >= 0]
    if not given or len(found) < len(given):
        raise ValueError(f"`steps` of at(steps) must be integers, 0 or greater, and at least one; got {given}.")
    return _At(found)
