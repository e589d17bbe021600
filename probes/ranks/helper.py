"""What a rank other than 0 does for the probes: see :mod:`probes.ranks.team`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from ..batches import Batch
from ..budget.governor import Governor
from ..guard.unnoticed import unnoticed
from ..loop import sharding
from ..loop.steps import StepCounter
from ..run import Contributed, Run
from ..session.calls import Plugins
from ..session.events import invoke, log, text_of
from ..session.plugin import Plugin
from ..session.session import Dispatcher
from . import shards
from .channel import Lost, Place, side_group
from .membership import DETACHED, buffers_of, fingerprint, joins_parts, partners, sees_updates, signature
from .packing import pack, to_plain

__all__ = ["Helper"]


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
        self._meeting, self._step, self._first = 0, 0, 0
        self._asking = False
        """Whether the step of the next meeting is still to be heard."""
        self._sharded, self._members, self._group = False, [0], None
        self._attached: set[str] = set()
        self._channel.post(f"here/{self.rank}", signature(self._plugins, run.model))
        self._steppers = [plugin for plugin in self._plugins.all if sees_updates(plugin) and joins_parts(plugin)]
        self._counter = StepCounter(
            run.model, optimizers, self._before_first, self._after_step, self._due,
            self._before_step if self._steppers else None,
        )  # fmt: skip

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
        return 2**62 if self._over else 0 if self._asking or (self._sharded and self._steppers) else self._step

    def _before_step(self) -> None:
        if not self._over and self._sharded:
            with self._safely():
                self._call_steppers("before_step", run=self._run)

    def _call_steppers(self, hook: str, **arguments: Any) -> None:
        for plugin in self._steppers:
            if hook in plugin.hooks and not plugin.problem:
                self._plugins.call(plugin, hook, **arguments)

    def _before_first(self) -> None:
        if self._over:
            return
        with self._safely():
            _, members = partners(self._called, self._run.model)
            if 0 not in members or sharding.refusal(self._called, self._run.model):
                self._leave("does not train the model together with rank 0")
                return
            self._place.concluded = True
            self._sharded = sharding.is_sharded(self._run.model)
            if self._hear("conclusion") is None:
                return
            note = self._channel.read("conclusion")
            if self.rank not in note["ranks"]:
                self._leave("does not take part")
                return
            self._members = members
            self._run.seed, self._run.run_id = note["seed"], note["run_id"]
            self._run.step = self._step = self._first = note["step"]
            self._counter.resume(note["step"])
            self._meet(self._step)

    def _after_step(self, step: int) -> None:
        if self._over:
            return
        if self._sharded and self._steppers:
            with self._safely():
                self._call_steppers("on_step", run=self._run, step=step)
        if (step < self._step and not self._asking) or os.getpid() != self._process:
            return
        with self._safely():
            self._run.step = step
            if self._asking:
                key, first = f"next/{self._meeting}", step == self._first + 1
                if first and not self._sharded:
                    return  # rank 0 may still be measuring before the first update: it does not count on us here
                if self._hear(key, self._channel.first if first else None) is None:
                    return
                following = self._channel.read(key)
                if following is None:
                    self._leave("is not needed any more")
                    return
                self._step, self._asking, self._meeting = following, False, self._meeting + 1
            if step >= self._step:
                self._meet(step)

    def _hear(self, key: str, seconds: float | None = None) -> str | None:
        seconds = seconds or (self._channel.patience if self._sharded else self._channel.punctual)
        found = self._channel.wait(key, "end", seconds=seconds)
        if found == key:
            return key
        self._leave(DETACHED if found else f"has not heard of rank 0 for {seconds:.0f} s")
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
                    self._group = side_group(self._channel, self._members)
                shards.send(self._run.model, self._group)
                if note["parts"]:
                    plugins = {plugin.key: plugin for plugin in self._steppers}
                    parts = {key: self._plugins.call(plugins[key], "rank_part") for key in note["parts"]}
                    shards.send_note(parts, self._group)
        elif note["tasks"] or note["joint"]:
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
        for key in note["joint"]:
            self._contribute(plugins[key], note, step)
        for key in note["tasks"]:
            if not self._channel.claim(f"claim/{self._meeting}/{key}"):
                continue
            self._channel.post(f"taker/{self._meeting}/{key}", self.rank)
            with self._like_rank_0(note):
                result = self._turn(plugins[key], note["states"][key], step)
            self._channel.post(f"result/{self._meeting}/{key}", result)
            self.taken += 1
        run.end()

    @contextmanager
    def _like_rank_0(self, note: dict[str, Any]) -> Iterator[None]:
        """The model with the buffers of rank 0; whatever happens to it is undone."""
        guard = unnoticed(self._run.model, self._run.optimizers)
        try:
            with guard:
                for name, buffer in buffers_of(self._run.model).items():
                    buffer.data.copy_(note["buffers"][name])
                yield
        finally:
            guard.restore()

    def _contribute(self, plugin: Plugin, note: dict[str, Any], step: int) -> None:
        """Do some pieces of a turn that rank 0 takes."""
        run = self._run

        def do(pieces: Sequence[Callable[[], Any]]) -> list[Any]:
            for index in reversed(range(len(pieces))):  # rank 0 begins with the first
                name = f"{self._meeting}/{plugin.key}/{index}"
                if self._channel.claim(f"claim/{name}"):
                    self._channel.post(f"taker/{name}", self.rank)
                    try:
                        self._channel.post(f"result/{name}", {"piece": pieces[index]()})
                    except Lost:
                        raise
                    except Exception as error:
                        self._channel.post(f"result/{name}", {"failed": text_of(error)})
                    self.taken += 1
            raise Contributed

        self._tell_attached(plugin)
        if (state := note["states"].get(plugin.key)) is not None:
            self._plugins.call(plugin, "load_state_dict", state=state)
        run.begin(plugin.key)
        run.lend(note["hands"], do)
        try:
            with self._like_rank_0(note):
                for _ in invoke(plugin.hooks["measure"], run=run, step=step) or ():
                    pass
        except Lost:
            raise
        except Contributed:
            pass
        except Exception as error:  # rank 0 takes the whole turn, and sees its faults
            log.info("Rank %d could not work on a turn of %s: %s", self.rank, plugin.label, text_of(error))
        finally:
            run.lend()

    def _tell_attached(self, plugin: Plugin) -> None:
        if plugin.key not in self._attached:
            self._attached.add(plugin.key)
            if "on_attach" in plugin.hooks:
                self._plugins.call(plugin, "on_attach", run=self._run)

    def _turn(self, plugin: Plugin, state: Any, step: int) -> dict[str, Any]:
        """Take one turn; what came of it, as rank 0 wants to hear it."""
        taken: list[Any] = []
        start, wall_time = time.perf_counter(), time.time()
        self._tell_attached(plugin)
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
        return {
            "measurements": rows, "seconds": time.perf_counter() - start, "state": state, "wall_time": wall_time,
            "spreads": list(self._run.spreads),
        }  # fmt: skip
