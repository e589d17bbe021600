"""Keeping the cost of all probes under the stated share of wall time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

__all__ = ["Governor"]

LOAN_SECONDS = 10.0


class Governor:
    """Decides whether a probe's turn can be afforded, and keeps the accounts.

    A turn is affordable when, after it, the time spent by all probes and sinks would not exceed ``overhead`` times the
    wall time since attach. Its cost is taken to be that of the probe's last turn; the first turn of each probe goes at
    once, since its cost is not known, and is paid for before the next.

    Early training matters most, and comes before any time has been earned. So ``overhead`` times ten seconds may be
    borrowed, beyond what the first turns cost, for turns at a step at least twice that of the probe's last: what is
    affordable early is then spread evenly over the logarithm of the steps. All of it is paid back before other turns
    go on, so that the budget holds for a run of a minute or more, and is exceeded by one of seconds.

    Args:
        overhead: Share of wall time that may be spent, between 0 and 1 (both excluded); None for no limit.
        clock: Seconds, monotonic.

    Raises:
        ValueError: If ``overhead`` is not between 0 and 1.
    """

    def __init__(self, overhead: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        if overhead is not None and not 0 < overhead < 1:
            raise ValueError(
                f"`overhead` must be a share of wall time between 0 and 1 (0.05 is 5 %), or None for no limit; "
                f"got {overhead!r}."
            )
        self.overhead = overhead
        self.clock = clock
        self.start = clock()
        self.spent: dict[str, float] = defaultdict(float)
        self.last_cost: dict[str, float] = {}
        self.first_turns = 0.0
        """Cost of the first turns of all probes, in seconds: much of it happens once, and is no measure of the next."""

    @property
    def elapsed(self) -> float:
        """Wall time since attach, over all sessions, in seconds."""
        return self.clock() - self.start

    @property
    def total(self) -> float:
        """Time spent by all probes and sinks, in seconds."""
        return sum(self.spent.values())

    @property
    def share(self) -> float:
        """Time spent by probes and sinks over wall time since attach."""
        return self.total / max(self.elapsed, 1e-9)

    def affords(self, plugin: str, borrow: bool = False) -> bool:
        """Whether the plugin's next turn fits the budget now; with ``borrow``, time not yet earned may be used."""
        if borrow and self.overhead is not None:
            cost = self.total - self.first_turns + self.last_cost.get(plugin, 0.0)
            return cost <= self.overhead * (self.elapsed + LOAN_SECONDS)
        return self.affordable_at(plugin) <= self.clock()

    def affordable_at(self, plugin: str) -> float:
        """The clock's time from which the plugin's next turn fits the budget."""
        if self.overhead is None or plugin not in self.last_cost:
            return self.start
        # Wall time goes on during the turn, so its own cost earns a share too.
        cost = self.last_cost[plugin]
        return self.start + (self.total + cost) / self.overhead - cost

    def charge(self, plugin: str, seconds: float, turn: bool = False) -> None:
        """Book time spent by a plugin; ``turn`` when it is the cost of one measurement turn."""
        self.spent[plugin] += seconds
        if turn:
            if plugin not in self.last_cost:
                self.first_turns += seconds
            self.last_cost[plugin] = seconds

    def state_dict(self) -> dict[str, object]:
        """The accounts, for a resume."""
        return {
            "elapsed": self.elapsed,
            "spent": dict(self.spent),
            "last_cost": dict(self.last_cost),
            "first_turns": self.first_turns,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on with the accounts of a checkpoint."""
        self.start = self.clock() - float(state["elapsed"])  # type: ignore[arg-type]
        self.spent = defaultdict(float, state["spent"])  # type: ignore[call-overload]
        self.last_cost = dict(state["last_cost"])  # type: ignore[call-overload]
        self.first_turns = float(state["first_turns"])  # type: ignore[arg-type]
