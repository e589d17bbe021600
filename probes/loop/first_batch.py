"""What the loop shows of its data: the inputs and targets of the first training batch, kept to measure on.

Nothing is asked of the user. Inputs come from a forward pre-hook on the object that the loop calls. Targets come from
the loss, or else from an argument of that call (``labels``): between the first training forward and the first
optimizer step, a torch function mode watches what the loop compares the model's output with. The mode calls everything
as it is, is never active within the model's own forward, leaves as soon as anything is compiled, and is gone after the
first step, as are the forward hooks. What may be none is not taken for the targets: labels of the model's own making,
several that differ, noise. Not seen is what leaves torch and comes back, and what another module computes.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..batches import Batch, mapped, tensors
from ..guard.modes import unseen_by_modes
from ..guard.process import random_states_kept
from ..measurement import CannotMeasure
from ..outputs import check_rows
from ..picking import Entry, entries, pick_output, picked, returned, where_picked
from .compiled_call import COMPILED, CompiledCall
from .criterion import Criterion
from .frames import bare, call_raised, nested
from .hidden import ForwardHook, hide, reveal
from .loss_watch import LossWatch
from .named_targets import NamedTargets

__all__ = ["FirstBatch"]

FRESH_CALLS, CALLS = 20, 1000
"""Of the model in training, with no gradient there and in all, after which a step is missed."""
NOTHING: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
EVALUATIONS = 20
"""Forwards without gradients of a model in eval mode, after which it is not looked at what is done with the outputs."""


class FirstBatch:
    """Keeps the first training batch of a model.

    Args:
        output: Picks the output tensor from what the model returns.
        n: Number of samples to keep.
        problem: Called with what keeps the batch from being used.
        paused: Whether a forward is not the loop's.
        wanted: Whether a batch is looked for at all; if not, calls are only counted.
        waiting: Called once, with the number of calls, when many have come and no step.
    """

    def __init__(
        self,
        output: Callable[[Any], Tensor],
        n: int,
        problem: Callable[[Exception], None],
        paused: Callable[[], bool],
        wanted: bool = True,
        waiting: Callable[[int], None] = lambda calls: None,
    ) -> None:
        self.batch: Batch | None = None
        self.wanted, self.calls = wanted, 0
        """How often the model was called in training before the first step."""
        self.shown: Batch | None = None
        """The arguments of a call whose output cannot be used."""
        self.unusable: Exception | None = None
        """Why no call can be used so far: a later one may."""
        self.loss = ""
        """The function in which the targets were seen, in words; empty when they were not."""
        self.criterion: Criterion | None = None
        self.output = output
        """What picks the output: of several, where none was asked for, the one that the loss compares."""
        self._entries: list[Entry] = []
        self._refusal: Exception | None = None  # if the loss does not compare another output
        self._n, self._problem, self._waiting, self.paused = n, problem, waiting, paused
        self._kept = self._given = NOTHING
        self._named: NamedTargets | None = None
        """The argument by which the model was given its targets."""
        self._watch, self._fresh, self._evaluations, self._decided, self._called = LossWatch(), 0, 0, False, False
        self.done = False
        """Whether the first step is over."""
        self._handles: list[RemovableHandle | CompiledCall] = []
        self._hidden: weakref.ref[nn.Module] | None = None

    def watch(self, called: nn.Module) -> None:
        """Look at what is called: the model or its wrapper. Whatever interrupts this, :meth:`close` undoes it."""
        # Before the hooks of others, which may change what the model is called with: they will again, when we call it.
        before, after = _Hook(self, "_before"), _Hook(self, "_after")
        self._hidden = weakref.ref(called)
        hide(called, held=_MARK)
        if (compiled := called.__dict__.get(COMPILED)) is not None:
            # Hooks would be a part of what model.compile() compiles, and it would be compiled again when they go.
            self._handles.append(CompiledCall(called, compiled, before, after))
            return
        if isinstance(called, torch.jit.ScriptModule):  # torch refuses forward pre-hooks on it
            self.wanted = False
            self._problem(
                CannotMeasure(
                    "The model is a ScriptModule, of whose calls nothing is seen. Pass batches={'train': (inputs, "
                    "targets)}, or the model before torch.jit.script."
                )
            )
            return
        self._handles.append(called.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        self._handles.append(called.register_forward_hook(after, with_kwargs=True, always_call=True))

    def finish(self) -> None:
        """Look no further: the first step is done."""
        self.done = True
        self._decide()
        if self.batch is None and self.unusable is not None:
            self.wanted = False
            self._problem(self.unusable)
        self.unusable = self._refusal = None
        # A multiple of the loss is trained; unless there were as many batches as it was divided by.
        factor = getattr(self.criterion, "factor", None) or 1
        if not (math.isclose(factor, 1) or math.isclose(factor * self.calls, 1)):
            self.criterion = None
        self._kept = self._given = NOTHING
        # Hooks that were never called stay until close(): torch.compile would compile again if they went.
        if self._called and not self._watch.pushed:
            self.close()

    def leave(self) -> None:
        """Called by a forward after the first step: the watch was in use at that step, or on another thread."""
        self._watch.remove()
        if not self._watch.pushed:
            self.close()

    def close(self) -> None:
        """Remove the forward hooks and the loss watch."""
        self.done = True
        for handle in self._handles:
            handle.remove()
        called = self._hidden() if self._hidden is not None else None
        self._handles, self._hidden = [], None
        if called is not None:
            reveal(called, held=_MARK)
        self._watch.stop()
        self._kept = self._given = NOTHING

    @property
    def _incomplete(self) -> bool:
        # A forward without a loss may be a dry run, before the loop: a later one that has a loss is preferred.
        found = bool(self._named or self._watch.candidates)
        return self.wanted and not self._decided and (self.batch is None or not found)

    def _decide(self) -> None:
        """Take the targets that were seen, and look for no others."""
        self._watch.stop()
        if not self._decided and self.batch is not None:
            self._decided = True
            self._take_targets(self.batch)

    @unseen_by_modes()
    def _take_targets(self, batch: Batch) -> None:
        if self._entries and (number := self._watch.compared) is not None:
            self.output = self._entries[number]
        elif self._refusal is not None:
            self._refuse(self._refusal)
            return
        if (found := self._watch.targets()) is not None:
            targets, self.loss, self.criterion = found
        elif self._named is not None and not self._watch.candidates:
            targets, self.loss = self._named.of(batch), self._named.words
        else:
            return
        self.batch = batch.with_targets(targets)

    def _count(self, module: nn.Module) -> None:
        """Count the calls of training that no step has followed; where gradients are added up, many may come."""
        if torch.is_grad_enabled():
            self.calls += 1
            # In a functional call, what stands for the parameters may be no leaf, and be warned of when asked.
            with unseen_by_modes():
                first = next(iter(module.parameters()), None)
                self._fresh += first is not None and first.is_leaf and first.grad is None
            if self._fresh == FRESH_CALLS or self.calls == CALLS:
                waiting, self._waiting = self._waiting, lambda calls: None
                waiting(self.calls)
                self._watch.stop()  # steps may never come, and looking takes time

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._count(module)
        self._called = True
        self._watch.remove()  # never under the model's forward
        if self.batch is not None and not self._incomplete:
            self._decide()  # of the first of several forwards that has a loss
        if self._incomplete and torch.is_grad_enabled():
            try:  # before the forward: it may change its inputs in place
                if any(torch._C._functorch.is_functorch_wrapped_tensor(leaf) for leaf in tensors((args, kwargs))):
                    raise CannotMeasure(
                        "The loop calls the model within torch.func (vmap, grad), where inputs cannot be kept. Pass "
                        "batches={'train': (inputs, targets)}, as the model takes them outside of it."
                    )
                self._kept = _first_rows((args, kwargs), self._n)
                self._given = mapped((args, kwargs), lambda leaf: leaf)  # it may take entries out of its dicts, too
            except Exception as error:
                self._kept, self.unusable = NOTHING, bare(error)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if not self._incomplete or call_raised():
            self._kept = self._given = NOTHING
            return
        self._watch.computed(result)
        evaluates = not (torch.is_grad_enabled() or module.training or self._watch.looks())
        self._evaluations += evaluates
        if not evaluates or self._evaluations <= EVALUATIONS:
            self._watch.begin()
        if torch.is_grad_enabled() and any(self._kept):
            self._take(module, *self._given, result)
        self._given = NOTHING

    @unseen_by_modes()
    def _take(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if not any(leaf.requires_grad for leaf in returned(result)):
            with suppress(CannotMeasure):
                picked(self.output, result)
                return
        try:
            batch = Batch(*self._kept)
            rows = next((len(leaf) for leaf in tensors((args, kwargs)) if leaf.ndim), 0)
            several = [] if self.output is not pick_output or isinstance(result, Tensor) else entries(result)
            usable = [(entry, item) for entry, item in several if item.requires_grad and item.shape[:1] == (rows,)]
            refusal = None
            try:
                outputs = [picked(self.output, result)]
                words = "output= picks" if self.output is not pick_output else f"{where_picked(result)} is"
                check_rows(outputs[0], rows, module, trained=words)
            except Exception as error:
                if not usable:
                    raise
                refusal = bare(error)
            outputs = [item for _, item in usable] or outputs
        except Exception as error:
            if self.batch is None:  # or else there is an earlier call that can be used
                self._refuse(bare(error))
            return
        self._entries, self._refusal = [entry for entry, _ in usable], refusal
        self._named = NamedTargets.find(module, args, kwargs, rows, outputs, result)
        self.batch = batch
        self._watch.look_at(outputs, rows, self._n)

    def _refuse(self, error: Exception) -> None:
        """There is no first batch, but a call to look at."""
        with suppress(Exception):  # of a call without a tensor
            self.shown = Batch(*self._kept)
        self.batch, self.unusable = None, error


_MARK = object()


class _Hook(ForwardHook):
    """A forward hook that returns nothing, holds its owner weakly, and is inert in a copy or a pickle of the model."""

    def __init__(self, owner: FirstBatch | None, method: str) -> None:
        self.owner, self.method = (lambda: None) if owner is None else weakref.ref(owner), method

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any = None) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return  # traced as nothing: no graph break, no recompilation
        owner = self.owner()
        if owner is not None and owner.done:
            owner.leave()
        if owner is None or owner.done or owner.paused() or nested(module):
            return
        try:
            # What the model is given, and what it returns, may be of the user's own making, and draw as it is read.
            with random_states_kept() if owner._incomplete else nullcontext():
                if self.method == "_before":
                    owner._before(module, args, kwargs)
                else:
                    owner._after(module, args, kwargs, result)
        except Exception as error:  # none of the loop's
            owner._kept, owner.unusable = NOTHING, bare(error)

    def __deepcopy__(self, memo: object) -> _Hook:
        return _Hook(None, self.method)

    def __reduce__(self) -> tuple[Any, ...]:
        # A callable that takes any arguments and returns None, and unpickles where this package is not installed.
        return getattr, (nn.Identity(), "__init__")


@unseen_by_modes()
def _first_rows(call: tuple[tuple[Any, ...], dict[str, Any]], n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    batch = Batch(*call).first(n).clone()
    training = {"training": False} if call[1].get("training") is True else {}  # said by an argument, as in Keras
    return batch.args, {**batch.kwargs, **training}
