"""What was measured and what it cost, on its way to the sinks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable

import numpy as np

from ..budget.spending import CORE
from ..measurement import Axis, Measurement
from ..run import Run
from .calls import Plugins
from .discovery import label
from .plugins import Plugin, keys
from .turns import Turn

__all__ = ["Accounts"]

FLUSH_SECONDS = 10.0
"""From one flush to the next at most, where there are rows: at an update, since nothing of ours runs between two."""
SECOND_FLUSH_SECONDS = 1.0
FLUSH_SHARE = 0.01
"""Of the time, what flushing may take where it is done earlier than that."""


class Accounts:
    """The rows of one run, with those on what the probes cost: handed to the sinks, and flushed.

    Args:
        run: The run.
        plugins: Its plugins.
    """

    def __init__(self, run: Run, plugins: Plugins) -> None:
        self._run, self._plugins, self._governor = run, plugins, plugins.governor
        self.measured = 0
        """Rows that the probes have yielded."""
        self.flush_at = math.inf
        """The wall time at which the sinks flush."""
        self.by_plugin = True
        """Whether what each plugin has cost is written: not where a run goes on with others, whose axis is another."""
        self._flush_from = -math.inf
        """The wall time from which on rows are flushed as they come: the first ones at once, so that whoever watches
        sees that the run is there."""
        self._waiting: list[tuple[Plugin, list[Measurement]]] = []
        """Rows, and the sinks that have not taken them yet."""
        self._version = label(self)[1]

    def enter(self, turns: Iterable[Turn], spent: dict[str, float]) -> None:
        """Write what the turns have yielded and what they cost.

        Args:
            turns: Of this step.
            spent: What each plugin had spent before them.
        """
        turns = list(turns)
        costs = [self._governor.spent[turn.plugin.key] - spent.get(turn.plugin.key, 0.0) for turn in turns]
        rows = [row for turn in turns for row in turn.measurements]
        count = len(rows)
        self._waiting += [(sink, rows) for sink in self._plugins.having("write")]  # first: an interrupt may come
        self.measured += count
        for turn, cost in zip(turns, costs, strict=True):
            if not (turn.plugin.failures["measure"] or turn.plugin.refusal):
                name = re.sub(r"[^\w=+@,()\[\]-]", "_", turn.plugin.key)
                rows += self._stamped(
                    Measurement(f"probes/turn_seconds/{name}", cost, unit="s", description="cost of the turn"),
                    Measurement(
                        f"probes/turn_delay/{name}", turn.delay, unit="steps", description="measured later than due by"
                    ),
                )
        before = self._governor.total
        self._write_waiting()
        each = (self._governor.total - before) / max(1, count)
        for turn, cost in zip(turns, costs, strict=True):
            self._governor.turn(turn.plugin.key, cost, each * len(turn.measurements))
        self.flush_at = min(self.flush_at, max(self._flush_from, self._governor.wall()))

    def record(self, rows: list[Measurement]) -> None:
        """Write rows that another process has measured."""
        self.measured += len(rows)
        self._waiting += [(sink, rows) for sink in self._plugins.having("write")]
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Hand over what waits; what an interrupt has kept from a sink goes first."""
        while self._waiting:
            first = sink, rows = self._waiting[0]
            try:
                # On one line: an interrupt between the two would have the rows written twice.
                _ = self._plugins.call(sink, "write", run=self._run, measurements=list(rows)), self._waiting.pop(0)
            except BaseException:
                if self._waiting and self._waiting[0] is first:
                    del self._waiting[0]
                raise

    def flush(self) -> None:
        """Let the sinks make durable what they took."""
        self.flush_at, before, first = math.inf, self._governor.total, self._flush_from == -math.inf
        self._write_waiting()
        self._plugins.call_all("flush", run=self._run)
        taken = self._governor.total - before  # the first time for what is made once
        pause = SECOND_FLUSH_SECONDS if first else min(FLUSH_SECONDS, taken / FLUSH_SHARE)
        self._flush_from = self._governor.wall() + pause

    def share(self) -> None:
        """Split the cost of what several probes used in this step among them."""
        for seconds, users in self._run.end():
            for user in users[1:]:
                self._governor.charge(users[0], -seconds / len(users))
                self._governor.charge(user, seconds / len(users))

    def total(self, probes: list[Plugin]) -> None:
        """Write what everything has cost so far, and how often the probes measured, skipped a turn, failed."""
        if not (probes and self.measured):
            return
        everything = [*keys(self._plugins.all), CORE]
        plugin_axis, probe_axis = {"plugin": Axis(np.array(everything))}, {"probe": Axis(np.array(keys(probes)))}
        rows = [Measurement("probes/share", self._governor.share, description="share of wall time of probes and sinks")]
        if self.by_plugin:
            spent = [self._governor.spent[key] for key in everything]
            told = "time taken so far"
            rows.append(Measurement("probes/seconds", spent, ("plugin",), plugin_axis, unit="s", description=told))
            for what in ("measured", "skipped", "failed"):
                turns, told = [getattr(plugin, what) for plugin in probes], f"turns {what} so far"
                name = f"probes/{what}"
                rows.append(Measurement(name, turns, ("probe",), probe_axis, unit="turns", description=told))
        rows = self._stamped(*rows)
        for sink in self._plugins.having("write"):
            self._plugins.call(sink, "write", run=self._run, measurements=list(rows))

    def _stamped(self, *rows: Measurement) -> list[Measurement]:
        return [row.taken(self._run.step, time.time(), "probes", self._version) for row in rows]
