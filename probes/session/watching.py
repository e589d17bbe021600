"""Which probes look at the next update, and what they are shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch.optim import Optimizer

from ..loop.backward_watch import BackwardWatch
from ..loop.micro_batches import MicroBatchWatch
from ..loop.sharding import accumulates, is_sharded
from ..run import Run
from .calls import Plugins
from .plugins import Plugin
from .turns import Turn, Turns

__all__ = ["Watching"]


class Watching:
    """Calls ``before_step`` and ``on_step`` of the probes that look at every update, or at those before their turns.

    Args:
        run: The run.
        plugins: Its plugins.
        turns: Their turns.
    """

    def __init__(self, run: Run, plugins: Plugins, turns: Turns) -> None:
        self._run, self._plugins, self._turns = run, plugins, turns
        self.probes: list[Plugin] = []
        """Those that look at the next update."""
        self.spent: dict[str, float] = {}
        """What each that looks at some updates had spent when it began to."""
        self.look_before: Callable[[bool], None] = lambda wanted: None
        """Has :meth:`before` called before every update, or no more."""
        self.called = run.model
        """The model as the loop calls it."""
        self._backward = BackwardWatch(lambda: turns.busy, lambda: accumulates(run.model))
        self._micro_batches = MicroBatchWatch(lambda: turns.busy)

    @property
    def looks_before(self) -> bool:
        """Whether a probe wants to see what is before the next update."""
        return self._compares or any(plugin.watched_updates or "before_step" in plugin.hooks for plugin in self.probes)

    @property
    def _compares(self) -> bool:
        """Whether a probe wants to see how the gradients of micro-batches relate."""
        return any(getattr(plugin.implementation, "sees_micro_batches", False) for plugin in self.probes)

    def plan(self, step: int, taken: Iterable[Turn] = (), looks: Callable[[int, int], bool] | None = None) -> None:
        """Let those probes look at the next update that want to, and whose turn can be afforded; no others.

        Args:
            step: The present one.
            taken: Turns that are over: what is looked at from here on is of the next.
            looks: Where ranks measure together, whether those that look at so many updates before a turn do now.
        """
        governor, over = self._plugins.governor, [turn.plugin for turn in taken]
        for plugin in self._turns.probes:
            some = plugin.sees_updates and not plugin.sees_all
            wanted = some and plugin.watches(step)
            if some and looks is not None and plugin.joins_parts:
                wanted = looks(step, plugin.watched_updates or 0)
            if wanted and not plugin.problem and governor.affords(plugin.key):
                plugin.watching_since = step if plugin.watching_since is None else plugin.watching_since
                if plugin in over or plugin.key not in self.spent:
                    self.spent[plugin.key] = governor.spent.get(plugin.key, 0.0)
            else:
                plugin.watching_since = None
                self.spent.pop(plugin.key, None)
        self.probes = [
            plugin
            for plugin in self._plugins.all
            if plugin.sees_updates and not plugin.problem and (plugin.sees_all or plugin.watching_since is not None)
        ]
        self.look_before(self.looks_before)
        if self.spent:
            self._backward.begin(self._run.model.parameters())
        else:
            self.end()
        if self._compares and self.spent and not is_sharded(self._run.model):
            self._micro_batches.begin(self._run.model.parameters(), self.called)
        else:
            self._micro_batches.end()

    def before(self, optimizer: Optimizer | None, closure: bool) -> None:
        """An update is about to be made."""
        self._backward.before_update(optimizer, closure)
        self._micro_batches.before_update(self._run.model.parameters(), closure)
        for plugin in self.probes:
            if "before_step" in plugin.hooks and not plugin.problem:
                self._plugins.call(plugin, "before_step", run=self._run, optimizer=optimizer, closure=closure)

    def after(self, step: int) -> None:
        """An update was made."""
        self._run.loss, self._run.micro_batches = self._backward.update(), self._micro_batches.update()
        looking = [plugin for plugin in self.probes if getattr(plugin.implementation, "sees_micro_batches", False)]
        for plugin in looking[:1]:
            self._plugins.governor.charge(plugin.key, self._micro_batches.seconds)
        self._micro_batches.seconds = 0.0
        for plugin in self.probes:
            if "on_step" in plugin.hooks and not plugin.problem:
                self._plugins.call(plugin, "on_step", run=self._run, step=step)

    def end(self) -> None:
        """Look at no loss any more; leave no hook."""
        self._backward.end()
        self._micro_batches.end()
        self._run.loss = self._run.micro_batches = None
