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
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch import nn

from ..guard.unnoticed import unnoticed
from ..loop import sharding
from ..session.checkpoint import plain
from ..session.plugins import Plugin, text_of
from ..session.turns import Turn, Turns
from .channel import DETACHED, Lost, Place, side_group
from .shards import Whole

__all__ = ["Team"]

MAX_STEPS_AHEAD = 1000


class Team:
    """The ranks that hold a model together, as rank 0 sees them.

    Args:
        called: The object that the loop calls.
        place: Where the ranks find each other.
        signature: What the probes must be on every rank.
        turns: Those of the run.
    """

    def __init__(self, called: nn.Module, place: Place, signature: dict[str, str], turns: Turns) -> None:
        self._called, self._place, self._signature, self._turns = called, place, signature, turns
        self._run, self._plugins, self._governor = turns.run, turns.plugins, turns.plugins.governor
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
        self._group: Any = None

    def set_up(self) -> bool:
        """At the first update: whether there is anything to do together. What cannot be measured is refused."""
        run, turns = self._run, self._turns
        if reason := sharding.refusal(self._called, run.model):
            parts = sharding.only_parts(self._called, run.model)
            adding = [probe for probe in turns.probes if parts and probe.adds_up_parts]
            turns.refuse([probe for probe in turns.probes if probe not in adding], reason)
            if not adding:
                return False
        elif not sharding.is_sharded(run.model):
            return False
        try:
            reason = self._obstacle()
            self._step, self._place.taken = run.step, True
            if dist.get_world_size() > 1:
                note = {"together": not reason, "run_id": run.run_id, "seed": run.seed, "step": run.step}
                self._channel.post("set up", note)
        except Lost as error:
            reason = f"the model is sharded, and {error}."
        if reason:
            turns.refuse(turns.probes, reason)
        return not reason

    def _obstacle(self) -> str:
        """Why the model cannot be put together; empty if it can."""
        run, turns = self._run, self._turns
        self._members = sharding.ranks(run.model)
        others = [rank for rank in self._members if rank]
        here = [rank for rank in others if self._channel.has(f"here/{rank}")]
        theirs = {rank: self._channel.read(f"here/{rank}") for rank in here}
        self._others = [rank for rank in here if theirs[rank] == self._signature]
        if 0 not in self._members:
            return "the model is sharded over other ranks than rank 0, which measures."
        if len(self._others) < len(others):
            mine, differing = self._signature, [rank for rank in here if rank not in self._others]
            what = [name for name in mine if differing and theirs[differing[0]].get(name) != mine[name]]
            other = f" Rank {differing[0]} has another {' and other '.join(what)} than rank 0." if what else ""
            return (
                f"the model is sharded over {len(self._members)} ranks, and of the others {len(self._others)} take "
                f"part.{other} Make the same ProbeManager, and call attach() before the first step, on every rank."
            )
        turns.refuse(
            [plugin for plugin in turns.probes if plugin.sees_updates and not plugin.joins_parts],
            "it looks at every update, of which each rank sees a part only: the model is sharded (fully_shard).",
        )
        try:
            if not sharding.refusal(self._called, run.model):
                self._whole = Whole(run.model)
        except Exception as error:
            return f"the modules of the sharded model could not be copied: {text_of(error)}."
        return ""

    def gathers(self, step: int) -> bool:
        """Whether the ranks gather at this step: nothing is measured at others."""
        return step >= self._step and not self._gathered

    def looks(self, step: int, updates: int) -> bool:
        """Whether the ranks look at the next update for probes that want to see so many before a turn.

        Only rank 0 knows the next gathering right after one: until the others have heard of it, all look.
        """
        return self._gathered or self._step - updates <= step

    def next_look(self, step: int, updates: Iterable[int | None]) -> int:
        """When rank 0 has something to do next: at the next gathering, or to begin or to end looking at updates."""
        begin = self._step - max((count or 0 for count in updates), default=0)
        return self._step if step >= begin else min(begin, step + 1)

    def gather(self, step: int, taken: list[Turn]) -> bool:
        """Have the due probes measure on the whole model, and append their turns; whether the ranks stay together."""
        self._gathered = True
        chosen: list[Plugin] = []
        for plugin in self._turns.waiting(step):
            if self._governor.affords(plugin.key, besides=[other.key for other in chosen]):
                chosen.append(plugin)
        joining = [plugin for plugin in chosen if plugin.joins_parts]
        try:
            self._look_round()
            if len(self._others) < len(self._members) - 1:
                raise Lost("not all of its ranks take part any more")
            note: dict[str, Any] = {"step": step, "gather": bool(chosen), "whole": self._whole is not None}
            note["parts"] = [plugin.key for plugin in joining]
            self._channel.post(f"gathering/{self._gathering}", note)
            if not chosen:
                return True
            parts = [{p.key: self._plugins.call(p, "rank_part", consume=plain, run=self._run) for p in joining}]
            parts += self._fill(self._whole)
        except Lost as error:
            return self._give_up(str(error))
        model, guard = self._run.model, unnoticed(self._run.model, given=self._run.given)
        try:
            self._run.model = model if self._whole is None else self._whole.model
            with guard:
                self._turns.attach_late()
                for plugin in joining:
                    self._plugins.call(plugin, "join_parts", parts=[part[plugin.key] for part in parts])
                for plugin in chosen:
                    taken.append(self._turns.take(plugin, step))
        finally:
            guard.restore()
            self._run.model = model
            if self._whole is not None:
                self._whole.empty()
        return True

    def _fill(self, whole: Whole | None) -> list[Any]:
        """Put the model together; what each of the other ranks hands over of updates."""
        try:
            notes = [self._handed_over(rank) for rank in self._members if rank]
            if whole is not None:
                if notes:
                    self._group = self._group or side_group(self._channel, self._members)
                whole.fill([note["layout"] for note in notes], self._group)
            return [note["parts"] for note in notes]
        except BaseException as error:
            if whole is not None:
                whole.empty()
            if isinstance(error, Exception):
                raise Lost(f"its shards could not be put together: {text_of(error)}") from error
            raise

    def _handed_over(self, rank: int) -> Any:
        key, seconds = f"hands over/{self._gathering}/{rank}", self._channel.patience
        if self._channel.wait(key, f"left/{rank}", seconds=seconds) != key:
            raise RuntimeError(f"rank {rank} has left or was not heard of for {seconds:.0f} s")
        note = self._channel.read(key)
        self._channel.erase(key)
        return note

    def _look_round(self) -> None:
        for rank in list(self._others):
            if self._channel.has(f"left/{rank}"):
                reason = self._channel.read(f"left/{rank}")
                self._others.remove(rank)
                kind = "detach" if reason == DETACHED else "warning"
                self._plugins.record(kind, None, f"Rank {rank} {reason}: rank 0 goes on without it.")

    def _give_up(self, reason: str) -> bool:
        self._turns.refuse(self._turns.probes, f"the model is sharded, and {reason}.")
        self.end()
        return False

    def agree(self, due: float, wait: float) -> int | None:
        """When to gather next, left for the others: at a step that is due, or when a postponed turn may be affordable.

        Args:
            due: The next step of a schedule.
            wait: Seconds until a postponed turn can be afforded; infinite where none waits.

        Returns:
            The step; None if there is nothing more to do together.
        """
        if not self._gathered:
            return self._step
        step, governor = self._run.step, self._governor
        if wait < math.inf:
            pace = (governor.elapsed - governor.total) / max(1, step)
            due = min(due, step + min(max(1, int(wait / max(pace, 1e-6)) + 1), MAX_STEPS_AHEAD))
        following = step + 1 if not self._turns.arranged else None if due == math.inf else max(step + 1, int(due))
        try:
            self._channel.post(f"next/{self._gathering}", following)
        except Lost as error:
            self._give_up(str(error))
            return None
        for name in ("gathering", "next"):  # every rank has left that one
            self._channel.erase(f"{name}/{self._gathering - 2}")
        if following is None:
            return None
        self._gathering, self._step, self._gathered = self._gathering + 1, following, False
        return following

    def end(self) -> None:
        """Tell the others that there will be no more gatherings."""
        if self._place.taken and self._others:
            with suppress(Exception):
                self._channel.post("end", True)
        self._others = []
