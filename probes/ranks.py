"""Several ranks: rank 0 measures and writes, the others lend it their hands, or their shards.

Under DDP all ranks hold the same parameters, so any of them can take any probe's turn. Under ``fully_shard`` each holds
a part, and rank 0 measures on a whole of its own (:mod:`probes.sharded`), which is put together from all parts.

The ranks meet at steps which rank 0 appoints, one meeting ahead: between them a rank does nothing but compare two
numbers. At a meeting rank 0 says which turns are due; each rank, rank 0 too, takes the next one that nobody has taken,
and the others hand back what they measured. What rank 0 does not get in time, it measures itself.

None of this is a collective, nor does it touch a process group of the user's: notes go through the store that every
default group has, and shards through a group of our own on the CPU, each of whose calls has a time limit. A rank waits
for another at most :data:`PATIENCE` seconds, once, and then goes on without it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from . import sharded
from .batches import Batch
from .capture import wrappers
from .dispatch import Dispatcher, Turn
from .governor import Governor
from .guard import checksums, unnoticed
from .packing import from_plain, pack, to_plain, unpack
from .plugins import Plugin, Plugins, log, text_of
from .run import Run
from .steps import StepCounter

__all__ = ["PATIENCE", "Helper", "Place", "Team"]

PATIENCE = 30.0
"""Seconds that a rank waits for another, at most, before it goes on without it."""
PART = 4 << 20
"""Bytes of a note that the store takes at once."""
MAX_STATE = 4 << 20
"""Bytes of a probe's state, or of the buffers, beyond which it does not travel."""
MAX_STEPS_AHEAD = 1000


@dataclass
class Place:
    """Where the managers of all ranks that belong together find each other: the same on every rank."""

    number: int = field(default_factory=itertools.count().__next__)
    """In the order in which managers were attached."""
    round: int = 0
    concluded: bool = False

    def enter(self) -> Channel:
        """Begin another round, if one has been."""
        if self.concluded:
            self.round, self.concluded = self.round + 1, False
        return Channel(f"probes/{self.number}/{self.round}")


class Lost(RuntimeError):
    """The store is gone."""


class Channel:
    """Notes from rank to rank, by name, in the store of the default process group; only :meth:`wait` waits.

    Raises:
        Lost: From every method, if the store cannot be reached.
    """

    def __init__(self, prefix: str) -> None:
        with _reaching():
            store = dist.distributed_c10d._get_default_store()
            with suppress(Exception):  # a connection of its own, where torch has that: torch's threads use the other
                store = store.clone()  # type: ignore[attr-defined,unused-ignore]
            self.store = dist.PrefixStore(prefix, store)

    def post(self, key: str, tree: Any) -> None:
        """Leave a note; it is there when it is complete."""
        data = pack(tree)
        with _reaching():
            for part in range(-(-len(data) // PART)):
                self.store.set(f"{key}/{part}", data[part * PART : (part + 1) * PART])  # type: ignore[arg-type]
            self.store.set(key, str(-(-len(data) // PART)))

    def has(self, key: str) -> bool:
        """Whether a note is there."""
        with _reaching():
            return bool(self.store.check([key]))

    def read(self, key: str) -> Any:
        """A note that is there."""
        with _reaching():
            data = b"".join(self.store.get(f"{key}/{part}") for part in range(int(self.store.get(key))))
        return unpack(data)

    def erase(self, key: str) -> None:
        """Take a note away."""
        with suppress(Exception):  # not every store can
            if self.has(key):
                parts = int(self.store.get(key))
                for name in (key, *(f"{key}/{part}" for part in range(parts))):
                    self.store.delete_key(name)

    def claim(self, key: str) -> bool:
        """Whether this rank is the first to ask for it."""
        with _reaching():
            return bool(self.store.add(key, 1) == 1)

    def wait(self, *keys: str, seconds: float, gone: Callable[[], bool] = lambda: False) -> str | None:
        """The first note that is there; None when there is none in time, or who should leave it is ``gone``."""
        end, pause = time.monotonic() + seconds, 1e-4
        while True:
            last = gone() or time.monotonic() >= end  # asked before the notes: what was left before going counts
            for key in keys:
                if self.has(key):
                    return key
            if last:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Lost(f"the ranks cannot reach each other: {text_of(error)}") from error


def signature(plugins: Plugins, model: nn.Module) -> str:
    """What must be the same on two ranks for one to measure in the other's stead: model, probes, their settings."""
    probes = [
        (plugin.key, plugin.label, {k: text_of(v) for k, v in vars(plugin.implementation).items() if k[:1] != "_"})
        for plugin in plugins.all
        if "measure" in plugin.hooks and hasattr(plugin.implementation, "__dict__")
    ]
    parameters = [(name, None if is_lazy(p) else (list(p.shape), str(p.dtype))) for name, p in model.named_parameters()]
    text = json.dumps([torch.__version__, type(model).__qualname__, probes, parameters])
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()


def fingerprint(model: nn.Module) -> list[int]:
    """The sums of the bits of all parameters."""
    sums = checksums([p for p in model.parameters() if not is_lazy(p)])  # type: ignore[arg-type]
    return [int(value) for values in sums.values() for value in values.tolist()]


def _partners(called: nn.Module, model: nn.Module) -> tuple[str, list[int]]:
    """Whether ranks train this model together, ``"replicas"`` or ``"shards"`` of it, and which; empty if not."""
    if sharded.is_sharded(model):
        return "shards", sharded.ranks(model)
    for wrapper in wrappers(called):
        if isinstance(wrapper, DistributedDataParallel):
            return "replicas", sorted(dist.get_process_group_ranks(wrapper.process_group))
    return "", []


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if not is_lazy(buffer)}


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
        self._meeting, self._step = 0, 0
        """Number of the next meeting, and its step."""
        self._met = False
        self._sent: set[str] = set()
        self._mine: set[str] = set()
        """Keys of probes whose turns are not given away any more."""
        self._whole: sharded.Whole | None = None

    def conclude(self, dispatch: Dispatcher) -> bool:
        """At the first update: who takes part; whether there is anything to do together."""
        run, plugins = dispatch.run, dispatch.plugins
        if reason := sharded.refusal(self._called, run.model):
            dispatch.refuse(dispatch.probes, reason)
            return self._concluded(run, [])
        kind, self._members = _partners(self._called, run.model)
        others = [rank for rank in self._members if rank]
        if not kind or 0 not in self._members:
            return self._concluded(run, [])
        mine = signature(plugins, run.model)
        notes = {rank: self._channel.read(f"here/{rank}") for rank in others if self._channel.has(f"here/{rank}")}
        same = [rank for rank, note in notes.items() if note == mine]
        if different := [rank for rank in notes if rank not in same]:
            plugins.tell("warning", None, f"{_names(different)}: probes or model are not those of rank 0, which goes "
                         f"on without. Make the same ProbeManager on every rank.")  # fmt: skip
        if kind == "replicas":
            givable = [plugin for plugin in dispatch.probes if _givable(plugin)]
            same = same[: len(givable)]
            if same:
                plugins.tell("attach", None, f"{_names(same)} take turns of {', '.join(p.key for p in givable)}.")
            return self._concluded(run, same)
        if len(same) < len(others):
            dispatch.refuse(
                dispatch.probes,
                f"the model is sharded over {len(self._members)} ranks, and of the others {len(same)} take part. Make "
                f"the same ProbeManager, and call attach() before the first step, on every rank.",
            )
            return self._concluded(run, [])
        each = [plugin for plugin in dispatch.probes if {"on_step", "before_step"} & plugin.hooks.keys()]
        dispatch.refuse(
            each, "it looks at every update, of which each rank sees a part only: the model is sharded (fully_shard)."
        )
        self._whole = sharded.Whole(run.model)
        return self._concluded(run, same, sharded=True)

    def _concluded(self, run: Run, ranks: list[int], sharded: bool = False) -> bool:
        self._place.concluded = True
        self.ranks, self._step = ranks, run.step
        if dist.get_world_size() > 1:
            note = {"ranks": ranks, "run_id": run.run_id, "seed": run.seed, "step": run.step, "sharded": sharded}
            self._channel.post("conclusion", note)
        return bool(ranks) or sharded

    # ------------------------------------------------------------------------------------------------- at a meeting

    def meets(self, step: int) -> bool:
        """Whether the ranks meet at this step: nothing is measured at others."""
        return step >= self._step and not self._met

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
        note: dict[str, Any] = {"step": step, "tasks": [], "states": {}}
        given = [plugin for plugin in chosen if _givable(plugin) and plugin.key not in self._mine]
        if len(chosen) < 2 or not self.ranks:
            given = []
        # The dearest first: what is left for the end is short.
        given.sort(key=lambda plugin: -dispatch.governor.cost(plugin.key))
        if given:
            given = self._describe(dispatch, given, note)
        self._channel.post(f"meeting/{self._meeting}", note)

        turns += [dispatch.turn(plugin, step) for plugin in chosen if plugin not in given]
        elsewhere = []
        for plugin in given:
            if self._channel.claim(f"claim/{self._meeting}/{plugin.key}"):
                turns.append(dispatch.turn(plugin, step))
            else:
                elsewhere.append(plugin)
        for plugin in elsewhere:
            if result := self._result(dispatch, plugin):
                rows = [from_plain(row) for row in result["measurements"]]
                turns.append(dispatch.taken_elsewhere(plugin, step, rows, result["wall_time"]))
                remote[plugin.key] = result["seconds"]
            else:
                turns.append(dispatch.turn(plugin, step))

    def _describe(self, dispatch: Dispatcher, given: list[Plugin], note: dict[str, Any]) -> list[Plugin]:
        """Complete the note of a meeting; returns whose turns the others can take."""
        run = dispatch.run
        buffers = _buffers(run.model)
        if sum(buffer.nbytes for buffer in buffers.values()) > MAX_STATE:
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
        note["tasks"] = [plugin.key for plugin in travelling]
        try:
            pack(note)
        except TypeError as error:
            for plugin in travelling:
                self._keep(dispatch, plugin, f"the batch cannot be sent: {error}")
            for key in ("batches", "buffers", "states", "tasks"):
                note[key] = type(note[key])()
            return []
        self._sent |= new.keys()
        return travelling

    def _keep(self, dispatch: Dispatcher, plugin: Plugin, reason: str) -> None:
        self._mine.add(plugin.key)
        dispatch.plugins.tell("attach", plugin, f"The turns of {plugin.label} stay on rank 0: {reason}.")

    def _result(self, dispatch: Dispatcher, plugin: Plugin) -> dict[str, Any] | None:
        """What another rank has measured; None if nothing came of it."""
        key = f"{self._meeting}/{plugin.key}"
        if self._channel.wait(f"taker/{key}", seconds=PATIENCE if self.ranks else 0.0) is None:
            for rank in list(self.ranks):
                self._lose(dispatch, rank, f"did not say within {PATIENCE:.0f} s what it does")
            return None
        rank = int(self._channel.read(f"taker/{key}"))
        patience = PATIENCE + 2 * dispatch.governor.cost(plugin.key) if rank in self.ranks else 0.0
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
        if "load_state_dict" in plugin.hooks:
            dispatch.plugins.call(plugin, "load_state_dict", state=result["state"])
        return result

    def _on_the_whole(self, dispatch: Dispatcher, step: int, chosen: list[Plugin], turns: list[Turn]) -> None:
        assert self._whole is not None
        whole, run = self._whole, dispatch.run
        if len(self.ranks) < len(self._members) - 1:
            self.disband(dispatch, "not all of its ranks take part any more")
            return
        self._channel.post(f"meeting/{self._meeting}", {"step": step, "gather": bool(chosen)})
        if not chosen:
            return
        model = run.model
        try:
            whole.fill(self._group())
        except Exception as error:
            whole.empty()
            self.disband(dispatch, f"its shards could not be put together: {text_of(error)}")
            return
        try:
            run.model = whole.model
            with unnoticed(model):
                dispatch.tell_attached()
                for plugin in chosen:
                    turns.append(dispatch.turn(plugin, step))
        finally:
            run.model = model
            whole.empty()

    def _group(self) -> Any:
        if len(self._members) == 1:
            return None
        if not hasattr(self, "_gloo"):
            self._gloo = _side_group(self._channel, self._members, 0)
        return self._gloo

    # -------------------------------------------------------------------------------------------- between the meetings

    def appoint(self, dispatch: Dispatcher, due: float, wake: float, arranged: bool) -> float | None:
        """When to meet next, told to the others: at a step that is due, or when a postponed turn may be affordable.

        Args:
            dispatch: The dispatcher.
            due: The next step of a schedule.
            wake: The clock's time at which a postponed turn can be afforded.
            arranged: Whether the batches are known; until then they meet at every step.

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
        following = step + 1 if not arranged else None if due == math.inf else max(step + 1, int(due))
        if not self.ranks and self._whole is None:
            following = None
        try:
            self._channel.post(f"next/{self._meeting}", following)
        except Lost as error:
            self.disband(dispatch, str(error))
            return None
        for name in ("meeting", "next"):
            self._channel.erase(f"{name}/{self._meeting - 2}")
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


DETACHED = "has detached"


def _names(ranks: Sequence[int]) -> str:
    return f"Rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _givable(plugin: Plugin) -> bool:
    """Whether a turn of a probe may be taken by any rank."""
    return (
        bool(getattr(plugin.implementation, "any_rank", False))
        and not plugin.problem
        and not {"on_step", "before_step"} & plugin.hooks.keys()
        and ("state_dict" in plugin.hooks) == ("load_state_dict" in plugin.hooks)
    )


def _side_group(channel: Channel, members: list[int], rank: int) -> Any:
    """A group of our own, on the CPU, each of whose calls ends in time."""
    store = dist.PrefixStore("gloo", channel.store)
    return dist.ProcessGroupGloo(store, members.index(rank), len(members), timedelta(seconds=PATIENCE))


class Helper:
    """The part of every other rank.

    Args:
        called: The object that the loop calls.
        run: Its run, which takes over seed and identity of rank 0's.
        probes: The same as on rank 0.
        optimizers: As given to ``attach``.
        place: Where the ranks find each other.
        deadline: Of a call into a probe.
    """

    def __init__(
        self, called: nn.Module, run: Run, probes: Sequence[object], optimizers: list[Optimizer], place: Place,
        deadline: float,
    ) -> None:  # fmt: skip
        self.rank = dist.get_rank()
        self.taken = 0
        """Turns taken for rank 0."""
        self._called, self._run, self._place, self._given = called, run, place, optimizers
        self._channel = place.enter()
        self._plugins = Plugins(Governor(None), "log", deadline)
        for probe in probes:
            self._plugins.add(probe)
        self._dispatch = Dispatcher(run, self._plugins, lambda final=False: None)
        self._dispatch.probes = [plugin for plugin in self._plugins.all if plugin.schedule is not None]
        self._over, self._process = False, os.getpid()
        self._meeting, self._step = 0, 0
        self._asking = False
        """Whether the step of the next meeting is still to be heard."""
        self._sharded, self._members, self._group = False, [0], None
        self._attached: set[str] = set()
        self._channel.post(f"here/{self.rank}", signature(self._plugins, run.model))
        self._counter = StepCounter(run.model, optimizers, self._before_first, self._after_step, self._due)

    def close(self, reason: str = DETACHED) -> None:
        """Take part no more."""
        self._counter.remove()
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._plugins.watchdog.stop()
            self._group = None
            self._run.batches = {}
            with suppress(Exception):
                self._channel.post(f"left/{self.rank}", reason)

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Whatever happens inside, the loop does not see it, unless it is the user's own interrupt."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception):
                self._leave(f"takes part no more, after {text_of(error)}")
            if not self._plugins.is_a_fault(error):
                raise
            log.warning("Rank %d measures nothing more for rank 0. Training goes on. %s", self.rank, text_of(error))

    def _due(self) -> int:
        return 2**62 if self._over else 0 if self._asking else self._step

    def _before_first(self) -> None:
        if self._over:
            return
        with self._safely():
            _, members = _partners(self._called, self._run.model)
            if 0 not in members or sharded.refusal(self._called, self._run.model):
                self._leave("does not train the model together with rank 0")
                return
            self._place.concluded = True
            if self._channel.wait("conclusion", seconds=PATIENCE) is None:
                self._leave(f"has not heard of rank 0 for {PATIENCE:.0f} s")
                return
            note = self._channel.read("conclusion")
            if self.rank not in note["ranks"]:
                self._leave("does not take part")
                return
            self._sharded, self._members = note["sharded"], members
            self._run.seed, self._run.run_id = note["seed"], note["run_id"]
            self._run.step = self._step = note["step"]
            self._counter.resume(note["step"])
            self._meet(self._step)

    def _after_step(self, step: int) -> None:
        if self._over or (step < self._step and not self._asking) or os.getpid() != self._process:
            return
        with self._safely():
            self._run.step = step
            if self._asking:
                key = f"next/{self._meeting}"
                if self._hear(key) is None:
                    return
                following = self._channel.read(key)
                if following is None:
                    self._leave("is not needed any more")
                    return
                self._step, self._asking, self._meeting = following, False, self._meeting + 1
            if step >= self._step:
                self._meet(step)

    def _hear(self, key: str) -> str | None:
        found = self._channel.wait(key, "end", seconds=PATIENCE)
        if found == key:
            return key
        self._leave(DETACHED if found else f"has not heard of rank 0 for {PATIENCE:.0f} s")
        return None

    def _meet(self, step: int) -> None:
        if self._hear(key := f"meeting/{self._meeting}") is None:
            return
        note = self._channel.read(key)
        if note["step"] != step:
            self._leave(f"is at step {step} when rank 0 is at step {note['step']}")
            return
        if self._sharded:
            if note["gather"]:
                if self._group is None:
                    self._group = _side_group(self._channel, self._members, self.rank)
                sharded.send(self._run.model, self._group)
        elif note["tasks"]:
            self._take_turns(note, step)
        self._asking = True

    def _take_turns(self, note: dict[str, Any], step: int) -> None:
        run = self._run
        run.batches.update({name: Batch(*parts) for name, parts in note["batches"].items()})
        run.optimizers = self._given or self._counter.seen
        if fingerprint(run.model) != note["fingerprint"]:
            self._leave("holds other parameters than rank 0")
            return
        plugins = {plugin.key: plugin for plugin in self._plugins.all}
        for key in note["tasks"]:
            if not self._channel.claim(f"claim/{self._meeting}/{key}"):
                continue
            self._channel.post(f"taker/{self._meeting}/{key}", self.rank)
            with unnoticed(run.model, run.optimizers):
                for name, buffer in _buffers(run.model).items():
                    buffer.data.copy_(note["buffers"][name])
                result = self._turn(plugins[key], note["states"][key], step)
            self._channel.post(f"result/{self._meeting}/{key}", result)
            self.taken += 1
        run.end()

    def _turn(self, plugin: Plugin, state: Any, step: int) -> dict[str, Any]:
        """Take one turn; what came of it, as rank 0 wants to hear it."""
        taken: list[Any] = []
        start, wall_time = time.perf_counter(), time.time()
        if plugin.key not in self._attached:
            self._attached.add(plugin.key)
            if "on_attach" in plugin.hooks:
                self._plugins.call(plugin, "on_attach", run=self._run)
        if state is not None:
            self._plugins.call(plugin, "load_state_dict", state=state)
            state = None
        self._dispatch.take(plugin, step, taken.append)
        if "state_dict" in plugin.hooks:
            state = self._plugins.call(plugin, "state_dict")
        try:
            rows, _ = [to_plain(item) for item in taken], pack(state)
        except (AttributeError, TypeError) as error:
            return {"failed": text_of(error)}
        if plugin.problem or any(plugin.failures.values()):
            return {"failed": plugin.last_failure}
        return {"measurements": rows, "seconds": time.perf_counter() - start, "state": state, "wall_time": wall_time}
