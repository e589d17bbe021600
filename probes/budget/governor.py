"""Keeping the cost of all probes and sinks under the stated share of training time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from .spending import Spending

__all__ = ["HEAD_START", "Governor"]

HEAD_START = 30.0
"""Seconds that may be spent in any case."""
GRACE = 2.0
"""Seconds of the head start that are there at once."""
PACE = 0.75
"""How much of the training time the rest of the head start takes at most."""
FIRST_TURN, FIRST_SHARE = 2.5, 0.05
"""What a first turn may be predicted to take: seconds, or this share of the training so far, whichever is more."""


class Governor(Spending):
    r"""Decides when a probe's turn can be afforded, and keeps the accounts.

    All that is spent, on attaching, measuring and writing, stays below an allowance: ``overhead`` times the training
    time, or ``head_start`` seconds, whichever is more. Early training matters most and comes before anything has been
    earned, so that the head start is given out evenly over the logarithm of the steps, until the share of the training
    time has caught up with it; and no faster than three quarters of the training time, but for two seconds:

    .. math:: A(t) = \max\Big(o t, \min\Big(h \frac{\log(1 + s)}{\log(1 + s T / t)}, g + \frac 3 4 t\Big)\Big),
              \quad T = \frac h o

    with the training time t, the steps s, the overhead o, the head start h and g two seconds. So a script of ten
    seconds takes at most twice as long, and none more than the head start, or its share, beyond bare training.

    What is earned pays for attaching, sinks and events first. The rest goes in equal parts to the probes that wait for
    a turn, each until it has what the turn will cost: a cheap probe that is always due cannot keep a dear one from
    its turn. A cost is predicted from the last turns; what a turn costs more is taken from the probe's next one.
    The first turn of each probe goes at once; what it may take at most, see :attr:`first_turn_limit`.

    Args:
        overhead: What may be spent, relative to the training time, between 0 and 1 (both excluded); None for no limit.
        clock: Seconds, monotonic; by default wall time less the time that this thread waits for a core.
        head_start: What may be spent in any case, in seconds.

    Raises:
        ValueError: If ``overhead`` is not between 0 and 1, or ``head_start`` is negative.
    """

    def __init__(
        self, overhead: float | None, clock: Callable[[], float] | None = None, head_start: float = HEAD_START
    ) -> None:
        number = isinstance(overhead, int | float) and not isinstance(overhead, bool)
        if overhead is not None and not (number and 0 < overhead < 1):
            raise ValueError(
                f"`overhead` must be a share of training time between 0 and 1 (0.05 is 5 %), or None for no limit; "
                f"got {overhead!r}."
            )
        number = isinstance(head_start, int | float) and not isinstance(head_start, bool)
        if not (number and 0 <= head_start < math.inf):
            raise ValueError(f"`head_start` must be a number of seconds, 0 or greater, got {head_start!r}.")
        super().__init__(clock)
        self.overhead, self.head_start, self.step = overhead, head_start, 0
        self.credits: dict[str, float] = defaultdict(float)
        """What each probe has saved for its next turn; below zero when its last one cost more than it had."""
        self._costs: dict[str, list[float]] = {}
        """Of the last three turns of each probe."""
        self._wanted: dict[str, float] = {}
        """What the sinks wait for with work that may be left out."""

    def turn(self, probe: str, seconds: float, written: float = 0.0) -> None:
        """A probe has measured, at a cost that is booked: it pays from its credit, unless it was the first turn.

        Args:
            probe: Its key.
            seconds: The cost of measuring.
            written: The cost of writing what was measured.
        """
        if probe not in self._costs:
            # The sinks open their files at the first turns: that is no measure of the next.
            self._costs[probe] = [seconds]
        else:
            self._costs[probe] = [*self._costs[probe][-2:], seconds + written]
            self.credits[probe] -= seconds + written

    def cost(self, probe: str) -> float:
        """What the next turn will cost: as much as the last, unless that was an exception."""
        if probe in self._wanted:
            return self._wanted[probe]
        last = self._costs.get(probe, [0.0])
        return min(last[-1], 2 * sorted(last)[(len(last) - 1) // 2])

    def allot(self, step: int, waiting: Iterable[str]) -> None:
        """Give out what has been earned until ``step`` to the probes that wait for a turn, and to what sinks wait for.

        In equal parts, to each until it has what it waits for; the least need first, so that its rest goes to others.
        """
        self.step = step
        if self.overhead is None:
            return
        for key, credit in self.credits.items():
            self.credits[key] = min(credit, self.cost(key))  # a turn that was cheaper than the one before leaves a rest
        free = self._left() - sum(self.credits.values())
        needs = sorted((self._need(key), key) for key in {*waiting, *self._wanted} if self._need(key) > 0)
        for count, (need, key) in zip(range(len(needs), 0, -1), needs, strict=True):
            part = min(need, free / count)
            if part <= 0:
                break
            self.credits[key] += part
            free -= part

    def affords(self, probe: str, besides: Iterable[str] = ()) -> bool:
        """Whether the probe's next turn can be afforded now, ``besides`` those of others, after :meth:`allot`."""
        if self.overhead is None or probe not in self._costs:
            return True
        left = self._left() - sum(map(self.cost, besides))
        return self._need(probe) <= 1e-9 and self.cost(probe) <= left + 1e-9

    def affords_extra(self, sink: str, seconds: float) -> bool:
        """Whether a sink may do work that can be left out; if not, it waits for it as a probe does for its turn."""
        if self.overhead is None:
            return True
        left = self._left()
        reserved = sum(credit for key, credit in self.credits.items() if key != sink)
        granted = seconds <= min(left, left - reserved) + 1e-9
        if granted:
            self._wanted.pop(sink, None)
            self.credits.pop(sink, None)  # free again, to pay what will be booked
        else:
            self._wanted[sink] = seconds
        return granted

    def close(self) -> None:
        """No more turns come: what was saved for them is free."""
        self.credits.clear()

    def next_turn(self, waiting: Iterable[str]) -> float:
        """The clock's time before which no turn of the waiting probes can be afforded, at the present pace of steps."""
        now, waiting = self.clock(), set(waiting)
        if self.overhead is None or not waiting:
            return now
        left = self._left()
        debt = max(0.0, sum(self.credits.values()) - left)
        needs = {key: max(0.0, self._need(key)) for key in {*waiting, *self._wanted}}
        sharers = sum(need > 0 for need in needs.values())
        least = min((need for need in needs.values() if need > 0), default=0.0)
        missing = min(max(self.cost(key) - left, debt + sharers * least if needs[key] > 0 else 0.0) for key in waiting)
        if missing <= 0:
            return now
        wanted = self.allowance() + missing
        later = max(0.0, wanted / self.overhead - self.training)
        if wanted < self.head_start:
            later = min(later, max(0.0, self._head_start_reaches(wanted) - self.training))
        return now + later

    def allowance(self) -> float:
        """What may have been spent by now, in seconds."""
        if self.overhead is None:
            return math.inf
        training = self.training
        early = 0.0
        if training > 0 and self.head_start:
            final = self.step * max(training, self.head_start / self.overhead) / training
            early = self.head_start * (math.log1p(self.step) / math.log1p(final) if self.step else 0.0)
        return max(self.overhead * training, min(early, GRACE + PACE * training))

    def _head_start_reaches(self, seconds: float) -> float:
        """The training time, at the present pace of steps, when the head start is ``seconds``."""
        training, overhead = self.training, self.overhead or 0.0
        if not self.step or training <= 0:
            return training
        pace = self.step / training
        end = self.head_start / overhead
        spread = math.expm1(seconds / self.head_start * math.log1p(pace * end)) / pace
        return max(min(spread, end), (seconds - GRACE) / PACE)

    @property
    def first_turn_limit(self) -> float:
        """Seconds that the first turn of a probe may be predicted to take; infinite where there is no budget."""
        return math.inf if self.overhead is None else max(FIRST_TURN, FIRST_SHARE * self.training)

    def _left(self) -> float:
        return self.allowance() - self.total

    def _need(self, key: str) -> float:
        return self.cost(key) - self.credits.get(key, 0.0)

    def state_dict(self) -> dict[str, object]:
        """The accounts, for a resume."""
        return {
            "elapsed": self.elapsed,
            "spent": dict(self.spent),
            "credits": dict(self.credits),
            "costs": {probe: list(costs) for probe, costs in self._costs.items()},
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on with the accounts of a checkpoint, to which is added what this session has spent already."""
        self.start -= float(state["elapsed"])  # type: ignore[arg-type]
        for plugin, seconds in state["spent"].items():  # type: ignore[attr-defined]
            self.spent[plugin] += seconds
        self.credits.update(state.get("credits", {}))  # type: ignore[call-overload]
        self._costs.update({probe: list(costs) for probe, costs in state.get("costs", {}).items()})  # type: ignore[attr-defined]
