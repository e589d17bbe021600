"""Several ranks: rank 0 measures and writes, the others lend it their hands, or their shards.

Under DDP all ranks hold the same parameters, so any of them can take any probe's turn. Under ``fully_shard`` each holds
a part, and rank 0 measures on a whole of its own (:mod:`probes.ranks.shards`), which is put together from all parts.

The ranks meet at steps which rank 0 appoints, one meeting ahead: between them a rank does nothing but compare two
numbers. At a meeting rank 0 says which turns are due; each rank, rank 0 too, takes the next one that nobody has taken,
and the others hand back what they measured. A probe that takes longer than all others together, and can be divided,
is worked on by all (:meth:`Run.spread`). What rank 0 does not get in time, it does itself.

None of this is a collective, nor does it touch a process group of the user's: notes go through the store that every
default group has, and shards through a group of our own on the CPU, each of whose calls has a time limit. A rank waits
for another as long as :class:`~probes.ranks.channel.Channel` says, once, and then goes on without it: 5 s for one that
should be there, 30 s and twice what a turn has taken for its result, 10 minutes for a first turn, which nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import nn

from ..guard.unnoticed import unnoticed
from ..loop import sharding
from ..run import Run
from ..session.events import text_of
from ..session.plugin import Plugin
from ..session.session import Dispatcher, Turn
from . import shards
from .channel import Lost, Place, side_group
from .membership import (
    DETACHED,
    MAX_STATE,
    buffers_of,
    fingerprint,
    givable,
    joins_parts,
    names_of,
    partners,
    sees_updates,
    signature,
)
from .packing import from_plain, pack

__all__ = ["Team"]

MAX_STEPS_AHEAD = 1000
MOST_HELPERS = 7


class Team:
    """Rank 0's part.

    Args:
        called: The object that the loop calls.
        place: Where the ranks find each other.
    """

    def __init__(self, called: nn.Module, place: Place) -> None:
        self._called, self._place = called, place
        self._channel = place.enter()
        self.ranks: list[int] = []
        """The others that take part."""
        self._members: list[int] = []
        self._meeting, self._step, self._first = 0, 0, 0
        """Number of the next meeting, its step, and the step of the first."""
        self._met = False
        self._sent: set[str] = set()
        self._used: dict[int, list[str]] = {}
        """Notes of the last meetings."""
        self._mine: set[str] = set()
        """Keys of probes whose turns are not given away any more."""
        self._whole: shards.Whole | None = None

    def conclude(self, dispatch: Dispatcher) -> bool:
        """At the first update: who takes part; whether there is anything to do together."""
        try:
            return self._conclude(dispatch)
        except Lost as error:
            dispatch.plugins.tell("warning", None, f"Rank 0 measures alone: {error}.")
            if sharding.is_sharded(dispatch.run.model):
                dispatch.refuse(dispatch.probes, f"the model is sharded, and {error}.")
            return False

    def _conclude(self, dispatch: Dispatcher) -> bool:
        run, plugins = dispatch.run, dispatch.plugins
        if reason := sharding.refusal(self._called, run.model):
            dispatch.refuse(dispatch.probes, reason)
            return self._concluded(run, [])
        kind, self._members = partners(self._called, run.model)
        others = [rank for rank in self._members if rank]
        if not kind or 0 not in self._members:
            return self._concluded(run, [])
        mine = signature(plugins, run.model)
        notes = {rank: self._channel.read(f"here/{rank}") for rank in others if self._channel.has(f"here/{rank}")}
        same = [rank for rank, note in notes.items() if note == mine]
        if different := [rank for rank in notes if rank not in same]:
            plugins.tell("warning", None, f"{names_of(different)}: probes or model are not those of rank 0, which goes "
                         f"on without. Make the same ProbeManager on every rank.")  # fmt: skip
        if kind == "replicas":
            givable = [plugin for plugin in dispatch.probes if givable(plugin)]
            same = same[: MOST_HELPERS if givable else 0]
            if same:
                plugins.tell("attach", None, f"{names_of(same)} can take turns of {', '.join(p.key for p in givable)}.")
            return self._concluded(run, same)
        if len(same) < len(others):
            dispatch.refuse(
                dispatch.probes,
                f"the model is sharded over {len(self._members)} ranks, and of the others {len(same)} take part. Make "
                f"the same ProbeManager, and call attach() before the first step, on every rank.",
            )
            return self._concluded(run, [])
        each = [plugin for plugin in dispatch.probes if sees_updates(plugin) and not joins_parts(plugin)]
        dispatch.refuse(
            each, "it looks at every update, of which each rank sees a part only: the model is sharded (fully_shard)."
        )
        try:
            self._whole = shards.Whole(run.model)
        except Exception as error:
            dispatch.refuse(dispatch.probes, f"the modules of the sharded model could not be copied: {text_of(error)}.")
            return self._concluded(run, [])
        return self._concluded(run, same, sharded=True)

    def _concluded(self, run: Run, ranks: list[int], sharded: bool = False) -> bool:
        self._place.concluded = True
        self.ranks, self._step, self._first = ranks, run.step, run.step
        if dist.get_world_size() > 1:
            note = {"ranks": ranks, "run_id": run.run_id, "seed": run.seed, "step": run.step, "sharded": sharded}
            self._channel.post("conclusion", note)
        return bool(ranks) or sharded

    # ------------------------------------------------------------------------------------------------- at a meeting

    def meets(self, step: int) -> bool:
        """Whether the ranks meet at this step: nothing is measured at others."""
        return step >= self._step and not self._met

    def apart(self, step: int) -> bool:
        """Whether rank 0 measures alone at this step.

        So it does after the first update, which the others have made while rank 0 was still measuring before it; and
        when an interrupt has ended a meeting, until the next.
        """
        return self._whole is None and (step == self._first + 1 or (self._met and step > self._step))

    def measure(self, dispatch: Dispatcher, step: int, turns: list[Turn]) -> None:
        """Have the due probes measure, and append their turns."""
        self._met = True
        governor, chosen = dispatch.governor, list[Plugin]()
        for plugin in dispatch.waiting(step):
            if governor.affords(plugin.key, besides=[other.key for other in chosen]):
                chosen.append(plugin)
        start, spent = governor.clock(), dict(governor.spent)
        remote: dict[str, float] = {}
        try:
            self._look_round(dispatch)
            if self._whole is not None:
                self._on_the_whole(dispatch, step, chosen, turns)
            else:
                self._in_turns(dispatch, step, chosen, turns, remote)
        except Lost as error:
            self.disband(dispatch, str(error))
            done = [plugin for plugin, _, _ in turns]
            for plugin in chosen:
                if plugin not in done and not plugin.problem:
                    turns.append(dispatch.turn(plugin, step))
        finally:
            turns.sort(key=lambda turn: chosen.index(turn[0]))
            # What all ranks took together, in this much time, each probe pays for its part.
            costs = {plugin.key: governor.spent[plugin.key] - spent.get(plugin.key, 0.0) for plugin in chosen} | remote
            if remote and (total := sum(costs.values())) > 0:
                share = (governor.clock() - start) / total
                for key, seconds in costs.items():
                    governor.charge(key, share * seconds - (0.0 if key in remote else seconds))

    def disband(self, dispatch: Dispatcher, reason: str) -> None:
        """Go on without the others."""
        dispatch.team = None
        dispatch.plugins.tell("warning", None, f"Rank 0 goes on without the others: {reason}.")
        if self._whole is not None:
            dispatch.refuse(dispatch.probes, f"the model is sharded, and {reason}.")
        self.end()

    def _look_round(self, dispatch: Dispatcher) -> None:
        for rank in list(self.ranks):
            if self._channel.has(f"left/{rank}"):
                self._lose(dispatch, rank, self._channel.read(f"left/{rank}"))

    def _lose(self, dispatch: Dispatcher, rank: int, reason: str) -> None:
        self.ranks.remove(rank)
        kind = "detach" if reason == DETACHED else "warning"
        dispatch.plugins.tell(kind, None, f"Rank {rank} {reason}: rank 0 goes on without it.")

    def _in_turns(
        self, dispatch: Dispatcher, step: int, chosen: list[Plugin], turns: list[Turn], remote: dict[str, float]
    ) -> None:
        run, governor = dispatch.run, dispatch.governor
        note: dict[str, Any] = {"step": step, "tasks": [], "joint": [], "states": {}}
        # A first turn is rank 0's: what it may take there decides how much is measured on.
        exact = governor.overhead is None
        given = [p for p in chosen if self.ranks and givable(p) and p.key not in self._mine and (p.measured or exact)]
        # All work on one that takes longer than all others together, and can be divided; the others are dealt out.
        total = sum(governor.cost(plugin.key) for plugin in chosen)
        joint = [p for p in given if p.key in run.spreads and 2 * governor.cost(p.key) > total]
        given = [plugin for plugin in given if plugin not in joint] if len(chosen) - len(joint) > 1 else []
        # The dearest first: what is left for the end is short.
        given.sort(key=lambda plugin: -governor.cost(plugin.key))
        if joint or given:
            travelling = self._describe(dispatch, [*joint, *given], note)
            joint, given = ([plugin for plugin in some if plugin in travelling] for some in (joint, given))
            note["joint"], note["tasks"] = [p.key for p in joint], [p.key for p in given]
        note["hands"] = 1 + len(self.ranks)
        self._used[self._meeting] = [plugin.key for plugin in given]
        self._channel.post(f"meeting/{self._meeting}", note)
        for plugin in joint:
            run.lend(note["hands"], partial(self._spread, dispatch, plugin))
            try:
                turns.append(dispatch.turn(plugin, step))
            finally:
                run.lend()
        turns += [dispatch.turn(plugin, step) for plugin in chosen if plugin not in given and plugin not in joint]
        elsewhere = []
        for plugin in given:
            if self._channel.claim(f"claim/{self._meeting}/{plugin.key}"):
                turns.append(dispatch.turn(plugin, step))
            else:
                elsewhere.append(plugin)
        for plugin in elsewhere:
            if result := self._result(dispatch, plugin, plugin.key):
                if "load_state_dict" in plugin.hooks:
                    dispatch.plugins.call(plugin, "load_state_dict", state=result["state"])
                rows = [from_plain(row) for row in result["measurements"]]
                turns.append(dispatch.taken_elsewhere(plugin, step, rows, result["wall_time"]))
                remote[plugin.key] = result["seconds"]
                run.spreads |= set(result["spreads"])
            else:
                turns.append(dispatch.turn(plugin, step))

    def _spread(self, dispatch: Dispatcher, plugin: Plugin, pieces: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do those pieces that no other rank does, and wait for the others."""
        dispatch.run.lend()  # what is spread later in the turn, rank 0 does
        names = [f"{plugin.key}/{index}" for index in range(len(pieces))]
        self._used[self._meeting] += names
        done: dict[str, Any] = {}
        for name, piece in zip(names, pieces, strict=True):
            with suppress(Lost):
                if self._channel.claim(f"claim/{self._meeting}/{name}"):
                    done[name] = piece()
        for name, piece in zip(names, pieces, strict=True):
            if name not in done:
                result = None
                with suppress(Lost):
                    result = self._result(dispatch, plugin, name)
                done[name] = piece() if result is None else result["piece"]
        return [done[name] for name in names]

    def _describe(self, dispatch: Dispatcher, given: list[Plugin], note: dict[str, Any]) -> list[Plugin]:
        """Complete the note of a meeting; returns whose turns the others can take."""
        run = dispatch.run
        buffers = buffers_of(run.model)
        if sum(buffer.nbytes for buffer in buffers.values()) > MAX_STATE:
            for plugin in given:
                self._keep(dispatch, plugin, f"the model's buffers are larger than {MAX_STATE / 2**20:.0f} MiB")
            return []
        new = {name: batch for name, batch in run.batches.items() if name not in self._sent}
        note["batches"] = {name: (batch.args, dict(batch.kwargs), batch.targets) for name, batch in new.items()}
        note["buffers"], note["fingerprint"] = buffers, fingerprint(run.model)
        travelling = []
        for plugin in given:
            state = dispatch.plugins.call(plugin, "state_dict") if "state_dict" in plugin.hooks else None
            try:
                if plugin.failures["state_dict"]:
                    raise TypeError("its state could not be had")
                if len(pack(state)) > MAX_STATE:
                    raise TypeError(f"its state is larger than {MAX_STATE / 2**20:.0f} MiB")
            except TypeError as error:
                self._keep(dispatch, plugin, str(error))
                continue
            note["states"][plugin.key] = state
            travelling.append(plugin)
        try:
            pack(note)
        except TypeError as error:
            for plugin in travelling:
                self._keep(dispatch, plugin, f"the batch cannot be sent: {error}")
            for key in ("batches", "buffers", "states"):
                note[key] = type(note[key])()
            return []
        self._sent |= new.keys()
        return travelling

    def _keep(self, dispatch: Dispatcher, plugin: Plugin, reason: str) -> None:
        self._mine.add(plugin.key)
        dispatch.plugins.tell("attach", plugin, f"The turns of {plugin.label} stay on rank 0: {reason}.")

    def _result(self, dispatch: Dispatcher, plugin: Plugin, name: str) -> dict[str, Any] | None:
        """What another rank has done; None if nothing came of it."""
        key = f"{self._meeting}/{name}"
        if self._channel.wait(f"taker/{key}", seconds=self._channel.punctual if self.ranks else 0.0) is None:
            for rank in list(self.ranks):
                self._lose(dispatch, rank, f"did not say within {self._channel.punctual:.0f} s what it does")
            return None
        rank = int(self._channel.read(f"taker/{key}"))
        cost = dispatch.governor.cost(plugin.key)  # not known of a first turn
        patience = self._channel.patience + 2 * cost if cost else self._channel.first
        patience = patience if rank in self.ranks else 0.0
        if (
            self._channel.wait(f"result/{key}", seconds=patience, gone=lambda: self._channel.has(f"left/{rank}"))
            is None
        ):
            self._look_round(dispatch)
            if rank in self.ranks:
                self._lose(dispatch, rank, f"did not finish a turn of {plugin.label} within {patience:.0f} s")
            return None
        result: dict[str, Any] = self._channel.read(f"result/{key}")
        self._channel.erase(f"result/{key}")
        if "failed" in result:
            self._mine.add(plugin.key)
            dispatch.plugins.tell("warning", plugin, f"Plugin {plugin.label} failed on rank {rank}, and its turns stay "
                                  f"on rank 0 from here on: {result['failed']}")  # fmt: skip
            return None
        return result

    def _on_the_whole(self, dispatch: Dispatcher, step: int, chosen: list[Plugin], turns: list[Turn]) -> None:
        assert self._whole is not None
        whole, run = self._whole, dispatch.run
        if len(self.ranks) < len(self._members) - 1:
            self.disband(dispatch, "not all of its ranks take part any more")
            return
        joining = [plugin for plugin in chosen if joins_parts(plugin)]
        note = {"step": step, "gather": bool(chosen), "parts": [plugin.key for plugin in joining]}
        self._channel.post(f"meeting/{self._meeting}", note)
        if not chosen:
            return
        model, parts = run.model, [{plugin.key: dispatch.plugins.call(plugin, "rank_part") for plugin in joining}]
        try:
            group = self._group()
            whole.fill(group)
            if joining:
                parts += [shards.receive_note(rank, group) for rank in range(1, len(self._members))]
        except Exception as error:
            whole.empty()
            self.disband(dispatch, f"its shards could not be put together: {text_of(error)}")
            return
        guard = unnoticed(model)
        try:
            run.model = whole.model
            with guard:
                dispatch.tell_attached()
                for plugin in joining:
                    dispatch.plugins.call(plugin, "join_parts", parts=[part[plugin.key] for part in parts])
                for plugin in chosen:
                    turns.append(dispatch.turn(plugin, step))
        finally:
            guard.restore()
            run.model = model
            whole.empty()

    def _group(self) -> Any:
        if len(self._members) == 1:
            return None
        if not hasattr(self, "_gloo"):
            self._gloo = side_group(self._channel, self._members)
        return self._gloo

    # -------------------------------------------------------------------------------------------- between the meetings

    def appoint(self, dispatch: Dispatcher, due: float, wake: float, arranged: bool) -> float | None:
        """When to meet next, told to the others: at a step that is due, or when a postponed turn may be affordable.

        Args:
            dispatch: The dispatcher.
            due: The next step of a schedule.
            wake: The clock's time at which a postponed turn can be afforded.
            arranged: Whether the batches are known, after the first update.

        Returns:
            The step; None if there is nothing more to do together.
        """
        if not self._met:
            return self._step
        step, governor = dispatch.run.step, dispatch.governor
        if wake < math.inf:
            pace = (governor.elapsed - governor.total) / max(1, step)
            ahead = (wake - governor.clock()) / max(pace, 1e-6)
            due = min(due, step + min(max(1, int(ahead) + 1), MAX_STEPS_AHEAD))
        following = (
            step + (2 if self._whole is None else 1)
            if not arranged
            else None
            if due == math.inf
            else max(step + 1, int(due))
        )
        if not self.ranks and self._whole is None:
            following = None
        try:
            self._channel.post(f"next/{self._meeting}", following)
        except Lost as error:
            self.disband(dispatch, str(error))
            return None
        old = self._meeting - 2  # which every rank has left, or left out
        for name in ("meeting", "next", *(f"{kind}/{old}/{key}" for key in self._used.pop(old, ())
                                          for kind in ("claim", "taker", "result"))):  # fmt: skip
            self._channel.erase(name if "/" in name else f"{name}/{old}")
        if following is None:
            dispatch.team = None
            return None
        self._meeting, self._step, self._met = self._meeting + 1, following, False
        return following

    def end(self) -> None:
        """Tell the others that there will be no more meetings."""
        if self._place.concluded and self.ranks:
            with suppress(Exception):
                self._channel.post("end", True)
        self.ranks = []
