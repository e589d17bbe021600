"""Rank 0's part where ranks hold a model together: under ``fully_shard`` each has a part of it.

Under DDP rank 0 measures alone, while the others wait where training makes them wait anyway. Under ``fully_shard`` it
measures on a whole of its own (:mod:`probes.ranks.shards`), for which all ranks hand over their shards, at steps on
which rank 0 has agreed with them one gathering ahead: between those a rank does nothing but compare two numbers.

None of this is a collective of the training, nor does it touch a process group of the user's: notes go through the
store that every default group has, and shards through a group of our own on the CPU, each of whose calls has a time
limit. A rank waits for another as long as :class:`~probes.ranks.channel.Channel` says, once, and then goes on without
it: 30 s, or 10 minutes while a first turn is under way, which nobody knows.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch import nn

from ..guard.unnoticed import unnoticed
from ..loop import sharding
from ..session.checkpoint import plain
from ..session.events import text_of
from ..session.plugin import Plugin
from ..session.session import Dispatcher, Turn
from .channel import Lost, Place, side_group
from .membership import DETACHED, joins_parts, sees_updates, signature
from .shards import Whole, receive_note

__all__ = ["Team"]

MAX_STEPS_AHEAD = 1000


class Team:
    """The ranks that hold a model together, as rank 0 sees them.

    Args:
        called: The object that the loop calls.
        place: Where the ranks find each other.
    """

    def __init__(self, called: nn.Module, place: Place) -> None:
        self._called, self._place = called, place
        self._channel = place.enter()
        self._members: list[int] = []
        """All ranks that hold a part, rank 0 too."""
        self._others: list[int] = []
        """Those of the others that take part."""
        self._gathering, self._step = 0, 0
        """Number of the next gathering, and its step."""
        self._gathered = False
        """Whether that one is over."""
        self._whole: Whole | None = None

    def set_up(self, dispatch: Dispatcher) -> bool:
        """At the first update: whether there is anything to do together. What cannot be measured is refused."""
        run, together = dispatch.run, False
        if reason := sharding.refusal(self._called, run.model):
            dispatch.refuse(dispatch.probes, reason)
        elif sharding.is_sharded(run.model):
            try:
                together = self._set_up(dispatch)
                self._step, self._place.taken = run.step, True
                if dist.get_world_size() > 1:
                    note = {"together": together, "run_id": run.run_id, "seed": run.seed, "step": run.step}
                    self._channel.post("set up", note)
            except Lost as error:
                dispatch.refuse(dispatch.probes, f"the model is sharded, and {error}.")
                return False
        return together

    def _set_up(self, dispatch: Dispatcher) -> bool:
        run, plugins = dispatch.run, dispatch.plugins
        self._members = sharding.ranks(run.model)
        others = [rank for rank in self._members if rank]
        if 0 not in self._members:
            return False
        mine = signature(plugins, run.model)
        notes = {rank: self._channel.read(f"here/{rank}") for rank in others if self._channel.has(f"here/{rank}")}
        self._others = [rank for rank, note in notes.items() if note == mine]
        if len(self._others) < len(others):
            dispatch.refuse(
                dispatch.probes,
                f"the model is sharded over {len(self._members)} ranks, and of the others {len(self._others)} take "
                f"part. Make the same ProbeManager, and call attach() before the first step, on every rank.",
            )
            return False
        each = [plugin for plugin in dispatch.probes if sees_updates(plugin) and not joins_parts(plugin)]
        dispatch.refuse(
            each, "it looks at every update, of which each rank sees a part only: the model is sharded (fully_shard)."
        )
        try:
            self._whole = Whole(run.model)
        except Exception as error:
            dispatch.refuse(dispatch.probes, f"the modules of the sharded model could not be copied: {text_of(error)}.")
            return False
        return True

    def gathers(self, step: int) -> bool:
        """Whether the ranks gather at this step: nothing is measured at others."""
        return step >= self._step and not self._gathered

    def gather(self, dispatch: Dispatcher, step: int, turns: list[Turn]) -> None:
        """Have the due probes measure on the whole model, and append their turns."""
        self._gathered = True
        governor, chosen = dispatch.governor, list[Plugin]()
        for plugin in dispatch.waiting(step):
            if governor.affords(plugin.key, besides=[other.key for other in chosen]):
                chosen.append(plugin)
        joining = [plugin for plugin in chosen if joins_parts(plugin)]
        assert self._whole is not None
        try:
            self._look_round(dispatch)
            if len(self._others) < len(self._members) - 1:
                raise Lost("not all of its ranks take part any more")
            note = {"step": step, "gather": bool(chosen), "parts": [plugin.key for plugin in joining]}
            self._channel.post(f"gathering/{self._gathering}", note)
            if not chosen:
                return
            parts = [{plugin.key: dispatch.plugins.call(plugin, "rank_part", consume=plain) for plugin in joining}]
            parts += self._fill(self._whole, bool(joining))
        except Lost as error:
            self._whole.empty()
            self._give_up(dispatch, str(error))
            return
        model, guard = dispatch.run.model, unnoticed(dispatch.run.model)
        try:
            dispatch.run.model = self._whole.model
            with guard:
                dispatch.tell_attached()
                for plugin in joining:
                    dispatch.plugins.call(plugin, "join_parts", parts=[part[plugin.key] for part in parts])
                for plugin in chosen:
                    turns.append(dispatch.turn(plugin, step))
        finally:
            guard.restore()
            dispatch.run.model = model
            self._whole.empty()

    def _fill(self, whole: Whole, joining: bool) -> list[Any]:
        """Put the model together; what the other ranks hand over of updates, where that is asked for."""
        try:
            if len(self._members) > 1 and not hasattr(self, "_group"):
                self._group = side_group(self._channel, self._members)
            group = getattr(self, "_group", None)
            whole.fill(group)
            return [receive_note(rank, group) for rank in range(1, len(self._members))] if joining else []
        except Exception as error:
            raise Lost(f"its shards could not be put together: {text_of(error)}") from error

    def _look_round(self, dispatch: Dispatcher) -> None:
        for rank in list(self._others):
            if self._channel.has(f"left/{rank}"):
                reason = self._channel.read(f"left/{rank}")
                self._others.remove(rank)
                kind = "detach" if reason == DETACHED else "warning"
                dispatch.plugins.tell(kind, None, f"Rank {rank} {reason}: rank 0 goes on without it.")

    def _give_up(self, dispatch: Dispatcher, reason: str) -> None:
        dispatch.team = None
        dispatch.refuse(dispatch.probes, f"the model is sharded, and {reason}.")
        self.end()

    def agree(self, dispatch: Dispatcher, due: float, wait: float, arranged: bool) -> float | None:
        """When to gather next, left for the others: at a step that is due, or when a postponed turn may be affordable.

        Args:
            dispatch: The dispatcher.
            due: The next step of a schedule.
            wait: Seconds until a postponed turn can be afforded; infinite where none waits.
            arranged: Whether the batches are known, after the first update.

        Returns:
            The step; None if there is nothing more to do together.
        """
        if not self._gathered:
            return self._step
        step, governor = dispatch.run.step, dispatch.governor
        if wait < math.inf:
            pace = (governor.elapsed - governor.total) / max(1, step)
            due = min(due, step + min(max(1, int(wait / max(pace, 1e-6)) + 1), MAX_STEPS_AHEAD))
        following = step + 1 if not arranged else None if due == math.inf else max(step + 1, int(due))
        try:
            self._channel.post(f"next/{self._gathering}", following)
        except Lost as error:
            self._give_up(dispatch, str(error))
            return None
        for name in ("gathering", "next"):  # every rank has left that one
            self._channel.erase(f"{name}/{self._gathering - 2}")
        if following is None:
            dispatch.team = None
            return None
        self._gathering, self._step, self._gathered = self._gathering + 1, following, False
        return following

    def end(self) -> None:
        """Tell the others that there will be no more gatherings."""
        if self._place.taken and self._others:
            with suppress(Exception):
                self._channel.post("end", True)
        self._others = []
