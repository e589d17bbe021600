"""Counting steps: true optimizer updates of the watched model, whoever calls the optimizer and however.

The count is taken in the optimizer's post hook, which sees every built-in optimizer and every subclass, under
schedulers, frameworks and compilation, and does not see gradient accumulation. Three things need care:

* a subclass whose ``step`` calls ``super().step()``, and a container that steps its members, call the hook several
  times for one update: only the outermost call counts;
* a gradient scaler with inf gradients does not call ``step`` at all, unless the optimizer is fused: then it is called,
  changes nothing, and says so in ``found_inf``, which lives on the accelerator: reading it would synchronize, so it is
  read only when the count could matter, and once in a thousand updates;
* an optimizer may be replaced while training goes on: one that takes over parameters of a given one is counted from
  then on, and told; another that updates the model is told, once;
* several optimizers of one model step one after the other. Those that hold different parameters, and step in the order
  in which they first did, share a step; an optimizer that steps again, or takes over the parameters of another, begins
  the next one. A critic that takes five updates for one of the generator makes five steps.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..guard.modes import unseen_by_modes
from .step_hook import PRE, STEP, Call, begin, closure_of, forget, stepping, with_closure
from .wrappers import shares_parameters

__all__ = ["StepCounter"]

UNCERTAIN = 1000
"""Updates that may have been skipped and were not asked about, at most."""


class StepCounter:
    """Counts the steps of one model and calls back before the first and after each.

    Args:
        model: The watched model.
        optimizers: Its optimizers; when empty, every optimizer that holds a parameter of the model counts.
        before_first: Called once, before the first update; when forward and backward pass are left to a closure, after
            its first call.
        on_step: Called with the step after an update that may be due.
        due: The least step at which ``on_step`` must be called with an exact count; before it, skipped fused updates
            may not have been resolved yet. ``0`` for always.
        before_step: Called before every update that is looked at (:meth:`look_before`), nested and skipped ones too,
            with the optimizer and whether its gradients are still to come, of a closure.
        new: Called with every optimizer that is counted for the first time, and those whose parameters it takes over.
        notice: Called with what a user should know of another optimizer.
        fault: Called with the exception when an optimizer cannot be looked at; what it does not raise ends the count.

    Raises:
        RuntimeError: When made within a step of an optimizer on this thread: torch is going through the hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        before_first: Callable[[], None],
        on_step: Callable[[int], None],
        due: Callable[[], int],
        before_step: Callable[[Optimizer, bool], None] | None = None,
        new: Callable[[Optimizer, list[Optimizer]], None] = lambda optimizer, replaced: None,
        notice: Callable[[str], None] = lambda message: None,
        fault: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.step = 0
        self.closed = False
        """Whether it counts no more."""
        self.compiled = False
        """Whether a step is compiled: the hooks that are there are part of its graph, and stay."""
        self.plain_closures = False
        """Whether closures are known to be called at the weights as they are."""
        self.work: Any = SimpleNamespace(busy=False)
        """While it is ``busy``, an update is that of a probe that measures, and not the loop's."""
        self._model, self._given = weakref.ref(model), [weakref.ref(optimizer) for optimizer in optimizers]
        self._new, self._notice, self._fault = new, notice, fault
        self._before_first, self._on_step, self._due = before_first, on_step, due
        self._before_step, self._looks_before = before_step, before_step is not None
        self._known: weakref.WeakKeyDictionary[Optimizer, _Known] = weakref.WeakKeyDictionary()
        self._last: tuple[Callable[[], Optimizer | None], _Known | None] = (lambda: None), None
        """The one that stepped last."""
        self._round: list[_Known] = []
        """Those that have made the present step."""
        self._begun, self._ranks, self._called_before = False, itertools.count(), True
        self._verdicts: weakref.WeakKeyDictionary[Optimizer, _Verdict] = weakref.WeakKeyDictionary()
        self._announced, self._noticed = weakref.WeakSet[Optimizer](), weakref.WeakSet[Optimizer]()
        self._uncertain: list[tuple[_Known, Tensor | None]] = []
        """The latest updates, from one on that may have been skipped, with what tells whether it was."""
        self._certain: tuple[int, list[_Known]] = (0, [])
        """Step and round before those."""
        # First: whatever interrupts what follows, nothing stays.
        weakref.finalize(self, forget, id(self)).atexit = False
        begin(self)

    def look_before(self, wanted: bool) -> None:
        """Call ``before_step`` from now on, or no more: while it is not wanted, nothing of ours runs before an update.

        Called within a step, or between two.
        """
        self._looks_before = wanted
        if wanted and not (self.closed or self._called_before) and PRE.free:
            PRE.add(self)
            self._called_before = True

    def remove(self) -> None:
        """Count no more, and remove every step hook: those that torch is going through, when it is next possible."""
        self.closed = True
        forget(id(self))

    def fail(self, error: Exception) -> None:
        """An optimizer could not be looked at: count no more, unless that is to be raised."""
        self._fault(error)
        self.remove()

    def resolve(self) -> int:
        """The exact step: asks the accelerator which updates it has skipped, if any may have been."""
        if self._uncertain:
            verdicts = [verdict for _, verdict in self._uncertain if verdict is not None]
            device = verdicts[0].device
            with unseen_by_modes():
                skipped = iter(torch.stack([verdict.to(device) for verdict in verdicts]).tolist())
            self.step, self._round = self._certain
            for known, verdict in self._uncertain:
                if verdict is None or not next(skipped):
                    self._count(known)
            self._uncertain.clear()
        return self.step

    @property
    def seen(self) -> list[Optimizer]:
        """The optimizers that have stepped so far."""
        return list(self._known)

    def by_hand(self) -> bool:
        """Count an update that no torch optimizer has made; False, and nothing counted, where one makes them."""
        if self._known:
            return False
        self._begun = True
        self.step += 1
        self._on_step(self.step)
        return True

    def _is_given(self, optimizer: Optimizer) -> bool:
        return any(optimizer is given() for given in self._given)

    def _watched(self, optimizer: Optimizer) -> bool:
        if self._is_given(optimizer):
            return True
        if not self._holds(optimizer):
            return False
        return not self._given or self._takes_over(optimizer)

    def _holds(self, optimizer: Optimizer) -> bool:
        """Whether it holds a parameter of the model; of one that does not, looked at again: either may be changed."""
        verdict = self._verdicts.setdefault(optimizer, _Verdict())
        if not verdict.holds:
            verdict.looks += 1
            if verdict.looks <= 10 or verdict.looks % 10 == 0:
                verdict.holds = shares_parameters(optimizer, self._model())
        return verdict.holds

    def _takes_over(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer that was not given continues the work of one that was; either way it is told."""
        if optimizer in self._noticed or self._nested(self._is_given):  # a part of one that was given
            return False
        self._noticed.add(optimizer)
        before = [given for reference in self._given if (given := reference()) is not None]
        held, mine = set[int]().union(*map(_held_by, before)), _held_by(optimizer)
        model, name = self._model(), type(optimizer).__name__
        old = ", ".join(type(given).__name__ for given in before) or "the optimizer"
        if held.isdisjoint(mine) and any(shares_parameters(given, model) for given in before):
            self._notice(
                f"{name} updates parameters of the model too, but was not given to attach(), which names {old}: its "
                f"updates are not counted as steps. Pass all of them, attach([first, second]), or none, attach()."
            )
            return False
        self._notice(
            f"{name} updates parameters of the model now, as {old} did that attach() was given: its steps count."
        )
        self._given.append(weakref.ref(optimizer))
        return True

    def _before(self, optimizer: Optimizer, call: Call) -> Call | None:
        if not self._watched(optimizer):
            return None
        if optimizer not in self._announced:  # what must see its first update is told before
            self._announce(optimizer)
        changed = None
        if not self._begun:
            # With gradients there, the closure may be one that is called at other weights, as SAM does.
            with unseen_by_modes():
                backward = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
            changed = with_closure(call, self._before_first) if self.plain_closures or not backward else None
            if changed is None:
                self._before_first()
        if self._looks_before and self._before_step is not None:
            self._before_step(optimizer, closure_of(changed or call) is not None)
        return changed

    def _after(self, optimizer: Optimizer, call: Call) -> None:
        # What runs after every step is kept short: a look at the last optimizer before one into the dictionary.
        last, known = self._last
        if last() is not optimizer:
            known = self._known.get(optimizer)
        if (known is None and not self._watched(optimizer)) or self._nested():
            return
        if self._called_before and not (self._looks_before or self.compiled):
            PRE.discard(id(self))
            self._called_before = False
            if PRE.idle and not stepping(own=1):  # here and not in _before: torch is going through them there
                PRE.leave()
        self._begun = True
        if known is None:
            parameters = _held_by(optimizer)
            if self._round and not any(shares_parameters(other, self._model()) for other in self._known):
                self._round = []  # those are of parameters that were replaced: this is no part of their step
            known = self._known[optimizer] = _Known(next(self._ranks), parameters)
            if optimizer not in self._announced:
                self._announce(optimizer)
        if last() is not optimizer:
            self._last = weakref.ref(optimizer), known
        before, found_inf = self.step, getattr(optimizer, "found_inf", None)
        if found_inf is not None or self._uncertain:
            with unseen_by_modes():
                verdict = found_inf.detach().clone() if isinstance(found_inf, Tensor) else None
            if verdict is not None and not self._uncertain:
                self._certain = self.step, self._round
            if verdict is not None or self._uncertain:
                self._uncertain.append((known, verdict))
        made = self._round
        if len(made) == 1 and made[0] is known:  # the common case, without a call
            self.step += 1
        else:
            self._count(known)
        if self._uncertain and (self.step >= self._due() or len(self._uncertain) >= UNCERTAIN):
            self.resolve()
        if self.step > before:
            self._on_step(self.step)

    def _announce(self, optimizer: Optimizer) -> None:
        mine, model = _held_by(optimizer), self._model()
        others = [] if self._nested() else list(self._announced)  # or else one steps just now, and this one within
        replaced = [e for e in others if not (mine.isdisjoint(_held_by(e)) and shares_parameters(e, model))]
        for other in replaced:
            self._announced.discard(other)
            self._known.pop(other, None)
        self._announced.add(optimizer)
        self._new(optimizer, replaced)

    def _count(self, known: _Known) -> None:
        if (
            self._round
            and known.rank > self._round[-1].rank
            and all(known.parameters.isdisjoint(other.parameters) for other in self._round)
        ):
            self._round = [*self._round, known]
        else:
            self.step, self._round = self.step + 1, [known]

    def _nested(self, watched: Callable[[Optimizer], bool] | None = None) -> bool:
        """Whether this call comes from within another ``step`` of a watched optimizer."""
        frame, own = sys._getframe(3), True  # of the step, or within it
        while frame is not None:
            if frame.f_code is STEP:
                # The first is this call itself. To look at what is in a frame takes longer than all the rest.
                args = None if own else frame.f_locals.get("args")
                if args and isinstance(args[0], Optimizer) and (watched or self._watched)(args[0]):
                    return True
                own = False
            frame = frame.f_back  # type: ignore[assignment]
        return False


def _held_by(optimizer: Optimizer) -> frozenset[int]:
    """The ids of the parameters of an optimizer."""
    return frozenset(id(p) for group in optimizer.param_groups for p in group["params"])


class _Known(NamedTuple):
    """An optimizer that has stepped."""

    rank: int
    """In the order of first updates."""
    parameters: frozenset[int]
    """The ids of those it holds."""


class _Verdict:
    """Whether an optimizer holds a parameter of the model, and how often that was looked at while it did not."""

    holds, looks = False, 0
