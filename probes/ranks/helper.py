"""What a rank other than 0 does where ranks hold a model together: it hands over its shards; see :mod:`.team`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from ..loop import sharding
from ..loop.hidden import hide, reveal
from ..loop.steps import StepCounter
from ..run import Run
from ..session.calls import Plugins
from ..session.checkpoint import plain
from ..session.plugins import Plugin, log, text_of
from ..session.settings import Settings
from .channel import DETACHED, Place, side_group
from .shards import layout, send

__all__ = ["Helper"]


class Helper:
    """The part of every other rank.

    Args:
        called: The object that the loop calls.
        run: Its run, which takes over seed and identity of rank 0's.
        settings: With the same probes as on rank 0.
        optimizers: As given to ``attach``.
        place: Where the ranks find each other.
    """

    def __init__(
        self, called: nn.Module, run: Run, settings: Settings, optimizers: list[Optimizer], place: Place
    ) -> None:
        self.rank = dist.get_rank()
        self.plugins = Plugins(settings.governor(), "log", settings.deadline)
        for probe in settings.made_probes:
            self.plugins.add(probe)
        self._called, self._run, self._place, self._channel = called, run, place, place.enter()
        self._over, self._process = False, os.getpid()
        self._gathering, self._step, self._first, self._asking = 0, 0, 0, False
        """Number of the next gathering, its step, which may be still to be heard, and the step of the first."""
        self._group: Any = None
        self._steppers = [plugin for plugin in self.plugins.all if plugin.sees_updates and plugin.joins_parts]
        self._looking = list(self._steppers)
        """Those that look at the next update: see :meth:`Team.looks`."""
        self._channel.post(f"here/{self.rank}", settings.signature(run.model))
        first, after = partial(self._safely, self._set_up), partial(self._safely, self._take_part)
        before = partial(self._safely, self._before_step) if self._steppers else None
        fault = partial(self._safely, self._end)
        self._counter = StepCounter(run.model, optimizers, first, after, self._due, before, fault=fault)
        hide(run.model, self)  # it lives as long as the model

    def detach(self) -> None:
        """Take part no more."""
        reveal(self._run.model, self)
        self._counter.remove()
        self.leave(DETACHED)

    def leave(self, reason: str) -> None:
        """Take part no more, and let rank 0 know why."""
        if not self._over:
            self._over = True
            self.plugins.watchdog.stop()
            self._group = None
            with suppress(Exception):
                self._channel.post(f"left/{self.rank}", reason)

    def _safely(self, part: Callable[..., None], *arguments: Any) -> None:
        """Whatever happens in this part, the loop does not see it, unless it is the user's own interrupt."""
        if self._over or os.getpid() != self._process:
            return
        try:
            part(*arguments)
        except BaseException as error:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        with suppress(Exception):
            self.leave(f"takes part no more, after {text_of(error)}")
        if not self.plugins.is_a_fault(error):
            raise error
        log.warning("Rank %d hands nothing more to rank 0. Training goes on. %s", self.rank, text_of(error))

    def _begin(self, plugin: Plugin) -> int:
        """Since when it looks at updates."""
        return self._step - plugin.watched_updates if plugin.watched_updates else 0

    def _due(self) -> int:
        if self._over:
            return 2**62
        return 0 if self._asking or self._looking else min([self._step, *map(self._begin, self._steppers)])

    def _call_steppers(self, hook: str, **more: Any) -> None:
        for plugin in self._looking:
            if hook in plugin.hooks and not plugin.problem:
                self.plugins.call(plugin, hook, run=self._run, **more)

    def _before_step(self, optimizer: Optimizer, closure: bool) -> None:
        self._call_steppers("before_step", optimizer=optimizer, closure=closure)

    def _set_up(self) -> None:
        model = self._run.model
        whole = sharding.is_sharded(model) and not sharding.refusal(self._called, model)
        parts = sharding.only_parts(self._called, model) and any(plugin.adds_up_parts for plugin in self._steppers)
        if not (whole or parts) or 0 not in sharding.ranks(model):
            self.leave("has no part of the model that rank 0 lacks")
            return
        self._place.taken = True
        if (note := self._hear("set up")) is None:
            return
        if not note["together"]:
            self.leave("does not take part")
            return
        self._run.seed, self._run.run_id = note["seed"], note["run_id"]
        self._run.step = self._step = self._first = note["step"]
        self._counter.step = note["step"]
        self._gather(self._step)

    def _take_part(self, step: int) -> None:
        self._call_steppers("on_step", step=step)
        try:
            self._meet(step)
        finally:
            self._looking = [plugin for plugin in self._steppers if self._asking or self._begin(plugin) <= step]
            self._counter.look_before(bool(self._looking))

    def _meet(self, step: int) -> None:
        """Hear when the next gathering is, and take part in it where that is now."""
        self._run.step = step
        if self._asking:
            heard = self._hear(f"next/{self._gathering}", self._channel.first if step == self._first + 1 else None)
            if heard is None:
                self.leave("is not needed any more")
                return
            self._step, self._asking, self._gathering = heard, False, self._gathering + 1
        if step >= self._step:
            self._gather(step)

    def _hear(self, key: str, seconds: float | None = None) -> Any:
        """A note of rank 0's; None if it leaves none, and then this rank takes part no more."""
        seconds = seconds or self._channel.patience
        found = self._channel.wait(key, "end", seconds=seconds)
        if found == key:
            return self._channel.read(key)
        self.leave(DETACHED if found else f"has not heard of rank 0 for {seconds:.0f} s")
        return None

    def _gather(self, step: int) -> None:
        if (note := self._hear(f"gathering/{self._gathering}")) is None:
            return
        if note["step"] != step:
            self.leave(f"is at step {step} when rank 0 is at step {note['step']}")
            return
        if note["gather"]:
            model, plugins = self._run.model, {plugin.key: plugin for plugin in self._steppers}
            call = partial(self.plugins.call, hook="rank_part", consume=plain, run=self._run)
            mine = {
                "parts": {key: call(plugins[key]) for key in note["parts"]},
                "layout": layout(model) if note["whole"] else None,
            }
            self._channel.post(f"hands over/{self._gathering}/{self.rank}", mine)
            if note["whole"]:
                self._group = self._group or side_group(self._channel, sharding.ranks(model))
                send(model, self._group)
        self._asking = True
